"""All findings of a data set, in the order and in the words in which they are read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from segkit.check.findings import SEVERITIES, Finding, of_opening, of_pairs, of_split, place
from segkit.check.inventory import inventory
from segkit.check.leaks import leaks, twins
from segkit.check.opening import faults_of
from segkit.check.scan import Survey
from segkit.data.masks import COLOURED
from segkit.errors import one_line

SHOWN = 5

# How a mask of each of Pillow's modes becomes labels (data/masks.py).
RULES = {
    "P": "palette, the index is the label",
    "L": "grey, the value is the label",
    "1": "1 bit, the value is the label",
    "I;16": "16-bit grey, the value is the label",
    "I;16B": "16-bit grey, the value is the label",
    "I": "16-bit grey, the value is the label",
    "RGB": "RGB",
    "RGBA": "RGB with alpha",
    "LA": "grey with alpha, as RGB",
}


def findings_of(surveys: Sequence[Survey], scored: str) -> list[Finding]:
    """Everything that the scans show; ``scored`` is the split that leaks spoil. Worst first."""
    found: list[Finding] = []
    for survey in surveys:
        found += of_opening(faults_of(survey.dataset), survey.split)
        found += of_pairs(survey)
        found += of_split(survey)
        found += twins(survey)
    for val in (s for s in surveys if s.split == scored):
        found += leaks(val, [s for s in surveys if s.split != scored])
    found += inventory(surveys)
    return ordered(found)


def ordered(found: Sequence[Finding]) -> list[Finding]:
    """Worst first, each once (two splits may read one list or folder), then by kind and file."""
    once = {(f.severity, f.id, f.where, f.what): f for f in reversed(found)}
    return sorted(once.values(), key=lambda f: (SEVERITIES.index(f.severity), f.id, f.where))


def verdict(surveys: Sequence[Survey], found: Sequence[Finding]) -> str:
    """``ok: 367 + 101 pairs``, or ``12 errors, 3 warnings in 10 files``."""
    count = Counter(f.severity for f in found)
    told = [_counted(count[s], s) for s in ("error", "warning") if count[s]]
    folders = {place(survey) for survey in surveys}
    files = {f.where for f in found if f.severity != "note"} - folders
    here = f" in {_counted(len(files), 'file')}" if files else ""
    pairs = " + ".join(str(len(survey)) for survey in surveys)
    if count["error"]:
        return ", ".join(told) + here
    return ", ".join([f"ok: {pairs} pairs", *(f"{text}{here}" for text in told)])


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" + ("s" if number != 1 else "")


def lines(surveys: Sequence[Survey], found: Sequence[Finding]) -> Iterator[str]:
    """For people: what each split is, then the findings by kind, the first few of each."""
    for survey in surveys:
        yield one_line(f"{survey.split}: {_described(survey)}")
    for (severity, name), group in groupby(found, key=lambda f: (f.severity, f.id)):
        members = list(group)
        yield one_line(f"{severity} {name} ({len(members)})")
        for finding in members[:SHOWN]:
            yield one_line(f"  {finding.where}: {finding.text}")
        if len(members) > SHOWN:
            yield f"  ... and {len(members) - SHOWN} more (--json lists all)"


def _described(survey: Survey) -> str:
    facts = [_counted(len(survey), "pair")]
    facts += sizes(survey)
    if survey.total:
        facts.append(f"void {100 * survey.void / survey.total:.1f} %")
    kinds = survey.mask_kinds.most_common()
    facts += [f"{n} masks {_rule(survey, kind)}" for kind, n in kinds]
    return ", ".join(facts)


def _rule(survey: Survey, kind: str) -> str:
    """How masks of that mode became labels: a table of colours says nothing of indices."""
    table = "colour_table" if kind in COLOURED else "value_table"
    through = getattr(survey.dataset, table, None) is not None
    return RULES.get(kind, kind) + (" through the table" if through else "")


def sizes(survey: Survey) -> list[str]:
    """The sizes of the images in a few words."""
    known = survey.sizes[survey.sizes[:, 0] > 0]
    if not len(known):
        return []
    by_area = known[known.prod(axis=1, dtype="int64").argsort(kind="stable")]
    low, high = (f"{w}x{h}" for w, h in (by_area[0].tolist(), by_area[-1].tolist()))
    return [low if low == high else f"{low} to {high}"]


def as_json(surveys: Sequence[Survey], found: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs; the names are fixed."""
    count = Counter(f.severity for f in found)
    return {
        "verdict": verdict(surveys, found),
        "errors": count["error"],
        "warnings": count["warning"],
        "notes": count["note"],
        "splits": {
            survey.split: {
                "pairs": len(survey),
                "void_share": survey.void / survey.total if survey.total else None,
                "mask_modes": dict(survey.mask_kinds),
            }
            for survey in surveys
        },
        "findings": [asdict(finding) for finding in found],
    }
