"""``segkit compare A B``: scores side by side, and whether they differ."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segkit.errors import ConfigError, DataError, ExitCode
from segkit.report import comparison
from segkit.report.comparison import Counts, Scored, Side
from segkit.report.tables import printable

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

USAGE = """\
segkit compare A B [C ...] [--json]

  segkit compare runs/first runs/second
  segkit compare runs/a-s0,runs/a-s1,runs/a-s2 runs/b-s0,runs/b-s1,runs/b-s2

A side is a run, a folder with a score.json, or the file itself; several, joined by commas, are
the seeds of one method. Of a run with several scores one is taken whose protocol all others have.
Each side is compared with the first: per class, in mIoU, and with a 95 % interval of the
difference by drawing the images 10,000 times anew (paired; needs images.json beside score.json).

Scores of different protocols, images or classes are shown, and the exit code is 2: what they
differ by is no difference between networks. What may differ in their signatures is what names the
network and its arithmetic: model, training, seed, checkpoint, precision, versions."""


def main(argv: Sequence[str]) -> int:
    """Compare; ConfigError CFG-PROTOCOL after the table where there is no difference to call."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    unknown = [word for word in argv if word.startswith("--") and word != "--json"]
    if unknown:
        raise ConfigError("USAGE", unknown[0], "no such option", "see segkit compare --help")
    words = [word for word in argv if word != "--json"]
    if not 2 <= len(words) <= len(_LETTERS):
        what = f"{len(words)} sides"
        raise ConfigError("USAGE", "compare", what, "segkit compare A B; see segkit compare --help")
    sides = sides_of(words)
    protocol = comparison.differing(sides, Scored.protocol)
    if not comparison.same_images(sides):
        protocol["ids of images"] = [_told(side) for side in sides]
    network = comparison.differing(sides, Scored.network)
    found = [] if protocol else comparison.differences(sides)
    without = [s.path for side in sides for s in side.scores if s.counts is None]
    why = f"{without[0]} has no images.json beside it; evaluate again" if without else ""
    if "--json" in argv:
        document = comparison.document(sides, protocol, network, found, why)
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        lines = [comparison.text(sides, not protocol), ""]
        lines += [f"networks differ in {comparison.listed(network)}"] if network else []
        lines += [difference.verdict(why) for difference in found]
        print(printable("\n".join(lines), sys.stdout))
    if protocol:
        sys.stdout.flush()  # before the error's line, where both go into one file
        raise ConfigError(
            "PROTOCOL",
            " ".join(words),
            f"no difference is called between scores that differ in {comparison.listed(protocol)}",
            "evaluate all with the same words",
        )
    return ExitCode.OK


def _told(side: Side) -> str:
    counts = [score.counts for score in side.scores if score.counts is not None]
    return ", ".join(dict.fromkeys(f"{len(c.ids)} from {c.ids[0]}" for c in counts)) or "none"


# -- which scores ----------------------------------------------------------------------------------


def sides_of(words: Sequence[str]) -> list[Side]:
    """A side for each word, its scores joined by commas; says on stderr what it took of a run."""
    # os.path: a Path raises where joined names are longer than a name may be.
    named = [[word] if os.path.exists(word) else word.split(",") for word in words]  # noqa: PTH110
    if not all(name for names in named for name in names):
        raise ConfigError("USAGE", "compare", "a side without a name", "segkit compare A B")
    found = {name: [read(path) for path in candidates(name)] for names in named for name in names}
    chosen = taken(found)
    for names in named:
        check_once([chosen[name].path for name in names])
    return [
        Side(letter, [with_images(chosen[name]) for name in names])
        for letter, names in zip(_LETTERS, named, strict=False)
    ]


def check_once(paths: Sequence[str]) -> None:
    """ConfigError for a file that stands for several seeds: it would narrow their spread."""
    seen = set()
    for path in paths:
        file = os.path.realpath(path)
        if file in seen:
            what = "is one score, given several times as seeds of one side"
            raise ConfigError("SEEDS", path, what, "name each seed's own")
        seen.add(file)


def candidates(name: str) -> list[Path]:
    """The score files that ``name`` may mean; DataError where there is none."""
    path = Path(name)
    with suppress(RuntimeError):  # ~ of nobody known here
        path = path.expanduser()
    if os.path.isfile(path):  # noqa: PTH113
        return [path]
    if not os.path.isdir(path):  # noqa: PTH112
        what = "no such run, folder or file"
        raise DataError("NO-SCORE", name, what, "a run, or the path of a score.json")
    if (path / "score.json").is_file():
        return [path / "score.json"]
    found = sorted(path.glob("scores/*/score.json"))
    if not found:
        named = [str(file) for file in sorted(path.glob("score-*.json"))]
        fix = f"name a file: {', '.join(named)}" if named else f"segkit eval ckpt={name} writes one"
        raise DataError("NO-SCORE", name, "holds no score.json", fix)
    return found


def taken(found: Mapping[str, Sequence[Scored]]) -> dict[str, Scored]:
    """One score of each name: of a protocol that all have, if there is one; the shortest first."""
    protocols = {name: {_key(s): s for s in scores} for name, scores in found.items()}
    first = next(iter(protocols.values()))
    shared = [key for key in first if all(key in other for other in protocols.values())]
    wanted = min(shared, key=lambda key: _plainness(first[key])) if shared else ""
    chosen = {}
    for name, scores in found.items():
        of_protocol = [s for s in scores if _key(s) == wanted] or [min(scores, key=_plainness)]
        one = max(of_protocol, key=lambda s: (s.signature.get("step") or 0, s.path))
        if len(scores) > 1:
            print(f"segkit: {name}: {len(scores)} scores, took {one.path}", file=sys.stderr)
        chosen[name] = one
    return chosen


def _key(score: Scored) -> str:
    return json.dumps(score.protocol(), sort_keys=True)


def _plainness(score: Scored) -> tuple[int, str]:
    folder = Path(score.path).parent.name
    return len(folder), folder


# -- reading ---------------------------------------------------------------------------------------


def read(path: Path) -> Scored:
    """A ``score.json``, without its images. DataError SCORE for what is none."""
    document = _json(path)
    try:
        signature, iou = dict(document["signature"]), dict(document["iou"])
        if not all(_is_share(value) for value in (document["miou"], *iou.values())):
            raise ValueError("its IoU are no numbers of 0..1")
        if not isinstance(signature.get("step") or 0, int):
            raise ValueError("its step is no number")
    except (KeyError, TypeError, ValueError) as error:
        told = str(error) if type(error) is ValueError else f"no sound {error}"
        raise DataError("SCORE", path, f"is no score of segkit: {told}") from error
    return Scored(str(path), signature, document["miou"], iou)


def with_images(score: Scored) -> Scored:
    """``score`` with the counts of the ``images.json`` beside a ``score.json``, if there is one.

    DataError IMAGES where they are not those of the score.
    """
    path = Path(score.path).with_name("images.json")
    if Path(score.path).name != "score.json" or not path.is_file():
        return score
    counts = _counts(_json(path), len(score.iou))
    if counts is None:
        raise DataError("IMAGES", path, "does not hold the counts of each image and class")
    sums = zip(counts.right.sum(0), counts.union.sum(0), score.iou.values(), strict=True)
    if not all(_equal(r / u if u else None, iou) for r, u, iou in sums):
        what = "adds up to another score than the score.json beside it"
        raise DataError("IMAGES", path, what, "evaluate again")
    return replace(score, counts=counts)


def _counts(document: Mapping[str, Any], classes: int) -> Counts | None:
    """The counts in an ``images.json``; None if it holds something else."""
    try:
        rows = document["images"]
        ids = tuple(str(row["id"]) for row in rows)
        columns = [np.array([row[k] for row in rows], np.float64) for k in ("tp", "fp", "fn")]
    except (KeyError, TypeError, ValueError):
        return None
    shaped = ids and all(c.shape == (len(ids), classes) for c in columns)
    if not shaped or not all(((c >= 0) & (c < 2**53)).all() for c in columns):
        return None
    return Counts(ids, columns[0], columns[0] + columns[1] + columns[2])


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError("SCORE", path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError("SCORE", path, "is not JSON", "evaluate again") from error
    if not isinstance(document, dict):
        raise DataError("SCORE", path, "is no score of segkit")
    return document


def _is_share(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and 0 <= value <= 1)  # type: ignore[operator]


def _equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-12)
