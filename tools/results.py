"""Rebuild what README.md and docs/results/README.md say in numbers from files that runs wrote.

    python tools/results.py            rewrite both
    python tools/results.py --check    exit 1 if either is out of date

Every folder under docs/results/ is one experiment: its ``score*.json`` as evaluations wrote them,
pictures, and an optional ``run.json`` with ``command``, ``minutes``, ``machine``. The fault suite
writes ``docs/results/reliability.json``. Nothing is typed by hand. In README.md the lines between
the two ``results`` comments, and those between the two ``reliability`` comments, are replaced; in
docs/input.md those between the two ``input`` comments, out of ``bench/cpu/input.json`` under
docs/results; in docs/evaluation.md those between the two ``crf`` comments, out of
``crf_agreement.json`` and every ``bench/*/crf.json`` there, and those between the two ``protocols``
comments, out of ``protocols.json``.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from segkit.errors import DataError, SegkitError
from segkit.report.signature import Signature, percent, score_line
from segkit.report.tables import markdown_table, markdown_text
from segkit.whole_files import write_whole

RESULTS = Path("docs/results")
BENCH = RESULTS / "bench"  # a folder a machine, a file a row of segkit bench


@dataclass(frozen=True)
class Score:
    """One ``score*.json``."""

    path: Path
    signature: Signature
    miou: float | None
    iou: dict[str, float | None]
    images: int


@dataclass(frozen=True)
class Experiment:
    """One folder: its scores and what is known about the run."""

    folder: Path
    run: dict[str, Any]
    scores: list[Score]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = parser.parse_args(argv)
    try:
        stale = [path for path, text in pages(arguments.root) if _read(path) != text]
        if arguments.check:
            for path in stale:
                print(f"{path} is out of date; run: python tools/results.py", file=sys.stderr)
            return 1 if stale else 0
        for path, text in pages(arguments.root):
            if path in stale:
                write_whole(path, text.encode())
                print(f"wrote {path}")
    except SegkitError as fault:
        print(fault.line(), file=sys.stderr)
        return int(fault.code)
    return 0


def pages(root: Path) -> list[tuple[Path, str]]:
    """The files this tool owns, wholly or in part, with what they should hold."""
    experiments = read_experiments(root / RESULTS)
    readme = root / "README.md"
    table = overview(experiments, RESULTS.as_posix() + "/README.md")
    text = replace_block(readme, _read(readme), "results", table)
    figures = root / RESULTS / "reliability.json"
    if figures.exists():
        text = replace_block(readme, text, "reliability", reliability(figures))
    found = [(readme, text)]
    if (costs := root / BENCH / "cpu/input.json").exists():
        page = root / "docs/input.md"
        found.append((page, replace_block(page, _read(page), "input", measured(costs))))
    page = root / "docs/evaluation.md"
    text = _read(page)
    if (agreement := root / RESULTS / "crf_agreement.json").exists():
        block = crf_figures(agreement, sorted((root / BENCH).glob("*/crf.json")))
        text = replace_block(page, text, "crf", block)
    if (asked := root / RESULTS / "protocols.json").exists():
        text = replace_block(page, text, "protocols", protocols(asked))
    if text:
        found.append((page, text))
    if experiments:
        found.append((root / RESULTS / "README.md", results_page(experiments)))
    return found


def read_experiments(folder: Path) -> list[Experiment]:
    """Every folder with scores, by name; DataError for a file that is not what it should be."""
    experiments = []
    for place in sorted({path.parent for path in folder.glob("*/score*.json")}):
        scores = [_read_score(path) for path in sorted(place.glob("score*.json"), key=_stem)]
        run = _read_json(place / "run.json") if (place / "run.json").exists() else {}
        experiments.append(Experiment(place, run, scores))
    return experiments


def overview(experiments: list[Experiment], page: str) -> str:
    """One row per score, each with its protocol: the numbers of one column need not compare."""
    if not experiments:
        return "No results yet."
    rows = [
        [
            f"[{markdown_text(experiment.folder.name)}]({page}#{_anchor(experiment)})",
            markdown_text(f"{score.signature.model} {score.signature.backbone}"),
            markdown_text(f"{score.signature.dataset} {score.signature.split}"),
            _protocol(score),
            percent(score.miou),
            str(score.images),
        ]
        for experiment in experiments
        for score in experiment.scores
    ]
    header = ["experiment", "network", "data", "protocol", "mIoU", "images"]
    note = f"Rows with different protocols do not compare. Full signatures: [{page}]({page})."
    return markdown_table(header, rows, "llllrr") + "\n\n" + note


def results_page(experiments: list[Experiment]) -> str:
    """The overview and, per experiment, its run, signatures, classes and pictures."""
    parts = [
        "# Results",
        "Made by `python tools/results.py` from the files beside this page; not edited by hand.",
        overview(experiments, "README.md"),
    ]
    for experiment in experiments:
        parts += [f"## {markdown_text(experiment.folder.name)}", *_facts(experiment)]
        parts += [_class_table(experiment), *_pictures(experiment)]
    return "\n\n".join(parts) + "\n"


def replace_block(path: Path, text: str, name: str, block: str) -> str:
    """``text`` with ``block`` between the marks of ``name``; DataError where they are missing."""
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end) or first in after:
        raise DataError("MARKS", path, "has no pair of marks", f"add {first} and {last} once")
    return f"{before}{first}\n{block}\n{last}{after}"


# What is promised, the figures that a suite kept for it, and how they read.
PROMISES = {
    "B1": "{trials} runs killed with -9 at {kills} random moments ({in_a_save} in the middle of a "
    "save), each resumed to its end: **{different} ends differ** in any bit.",
    "B2": "A save killed at each of its {crash_points} system calls, and made to fail at "
    "{failing_calls}: **{unloadable} times** no checkpoint loads.",
    "B3": "Damaged checkpoints that were noticed: **{cuts_noticed} of {cuts}** cuts, "
    "**{flips_noticed} of {flips}** flipped bits, **{swaps_noticed} of {swaps}** swapped files.",
    "B4": "SIGINT, SIGTERM and SIGUSR1 at {signals} awkward moments: saved and out after at most "
    "{signal_to_exit_worst} s.",
    "B5": "Two processes, one killed: all down {killed_rank_0_seconds} s later (rank 0) and "
    "{killed_rank_1_seconds} s later (rank 1); one hanging: {hung_rank_seconds} s, with a timeout "
    "of 5 s. Processes alive 5 s after an end: **{alive_after_5_seconds}**.",
    "B7": "{pickles} malicious pickles through {entry_points} entry points and {safetensors} "
    "crafted tensor files: **{pickles_executed} executed**.",
    "B8": "Evaluated by 1, 2 and 3 processes: **{differing_cells} cells** of the confusion matrix "
    "differ.",
    "B10": "Seeded defects caught by the test that should: **{caught} of {mutants}**.",
}


def measured(path: Path) -> str:
    """What one file of benchmarks/ found, and on which machine."""
    found = _read_json(path)
    header = ["", "against", "ours", "theirs", "times as fast", "bar", ""]
    body = [
        [
            markdown_text(row["name"]),
            markdown_text(row["against"] or ""),
            _elapsed(row["seconds"]),
            _elapsed(row["theirs"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            _bars(row),
            markdown_text(row["note"]),
        ]
        for row in found["rows"]
    ]
    machine = found["machine"]
    where = machine.get("card") or machine["cpu"]
    says = f"{where}, {machine['cores']} cores, load {machine['load']}"
    return f"{markdown_table(header, body, 'llrrrrl')}\n\nMeasured on {markdown_text(says)}."


def _elapsed(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _bars(row: dict[str, Any]) -> str:
    bars = [f"≥ {row['least']:g}"] if row["least"] is not None else []
    bars += [f"≤ {_elapsed(row['most'])}"] if row["most"] is not None else []
    return ", ".join(bars) + (" missed" if row["met"] is False else "")


def crf_figures(agreement: Path, costs: list[Path]) -> str:
    """What tools/crf_agreement.py and benchmarks/crf.py found."""
    found = _read_json(agreement)
    way = [
        "ten iterations by",
        "normalisation",
        "largest difference in probability",
        "equal labels",
    ]
    sums = [
        [
            markdown_text(row["way"]),
            row["normalization"],
            f"{row['largest_difference']:.1e}",
            _share(row["least_equal_labels"]),
        ]
        for row in found["against_the_sums"]
    ]
    lattice = [
        [row["images"], row["size"], row["normalization"], _share(row["equal_labels"])]
        for row in found["pydensecrf_against_exact"]
    ]
    classes = found["classes"]
    return "\n\n".join(
        [
            f"Against the sums in float64, {found['cases']} images of {found['size']}, {classes}"
            " classes, the worst of them (drawn: noise, flat, hard; pieces of photos):",
            markdown_table(way, sums, "llrr"),
            "Labels of pydensecrf equal to those of exact, mean over images:",
            markdown_table(["images", "size", "normalisation", "equal labels"], lattice, "lllr"),
            "What ten iterations cost:",
            *map(measured, costs),
        ]
    )


def _share(value: float) -> str:
    """Cut, not rounded: 100 % is all of them."""
    return f"{int(value * 1e4) / 100:.2f} %"


def protocols(path: Path) -> str:
    """What tools/protocols.py found: a table for each network and data set."""
    tables = []
    rows = _read_json(path)["rows"]
    for subject in dict.fromkeys(row["subject"] for row in rows):
        own = [row for row in rows if row["subject"] == subject]
        body = [
            [
                markdown_text(row["protocol"]),
                f"`{row['words']}`" if row["words"] else "",
                percent(row["miou"]),
                percent((row["boundary"] or {}).get("miou")),
                _seconds(row),
            ]
            for row in own
        ]
        header = ["asked", "words", "mIoU", "boundary IoU", "s per image"]
        machine = next((row["machine"] for row in own if "machine" in row), "not measured")
        title = f"{subject}, {own[0]['images']} images (times: {machine}):"
        tables.append(f"{markdown_text(title)}\n\n{markdown_table(header, body, 'llrrr')}")
    return "\n\n".join(tables)


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds_per_image']:.2f}" if "seconds_per_image" in row else "not measured"


def reliability(path: Path) -> str:
    """A sentence for each promise that the fault suite kept all figures of."""
    figures = _read_json(path)
    lines = []
    for promise, sentence in PROMISES.items():
        try:
            lines.append("- " + sentence.format(**figures.get(promise, {})))
        except KeyError:  # not measured: nothing is said
            continue
    return "\n".join(lines) or "Not measured."


def _facts(experiment: Experiment) -> list[str]:
    parts = []
    run = experiment.run
    if "command" in run:
        parts.append(f"    {_plain(run['command'])}")
    where = [f"{run['minutes']} minutes" if "minutes" in run else "", run.get("machine", "")]
    if any(where):
        parts.append(markdown_text(", ".join(str(word) for word in where if word)))
    lines = [f"    {score_line(score.miou, score.signature)}" for score in experiment.scores]
    return [*parts, "Signed scores:", "\n".join(lines)]


def _class_table(experiment: Experiment) -> str:
    """IoU per class; one column per score, headed by its file and its protocol."""
    names = list(dict.fromkeys(name for score in experiment.scores for name in score.iou))
    header = ["class", *(f"{_link(score)}<br>{_protocol(score)}" for score in experiment.scores)]
    rows = [
        [markdown_text(name), *(percent(score.iou.get(name)) for score in experiment.scores)]
        for name in names
    ]
    rows.append(["**mean**", *(f"**{percent(score.miou)}**" for score in experiment.scores)])
    return markdown_table(header, rows, "l" + "r" * len(experiment.scores))


def _pictures(experiment: Experiment) -> list[str]:
    pictures = sorted(experiment.folder.glob("*.png"))
    place = experiment.folder.name
    return [f"![{markdown_text(path.stem)}]({_url(f'{place}/{path.name}')})" for path in pictures]


def _protocol(score: Score) -> str:
    return markdown_text(", ".join(score.signature.protocol()))


def _link(score: Score) -> str:
    target = f"{score.path.parent.name}/{score.path.name}"
    return f"[{markdown_text(score.path.stem)}]({_url(target)})"


def _url(path: str) -> str:
    return quote(path)


def _anchor(experiment: Experiment) -> str:
    """The heading's anchor as GitHub makes it."""
    kept = (c for c in experiment.folder.name.lower() if c.isalnum() or c in "-_ ")
    return "".join(kept).replace(" ", "-")


def _stem(path: Path) -> str:
    return path.stem


def _plain(text: object) -> str:
    return " ".join(str(text).split())


def _read_score(path: Path) -> Score:
    document = _read_json(path)
    try:
        signature = Signature.from_dict(document["signature"])
        return Score(path, signature, document["miou"], document["iou"], document["images"])
    except (KeyError, TypeError) as fault:
        raise DataError("SCORE", path, f"is not a score ({fault!r})", "see segkit eval") from fault
    except DataError as fault:
        raise DataError("SCORE", path, fault.what, fault.fix) from fault


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(word: str) -> float:
        raise ValueError(f"{word} is not JSON")

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except ValueError as fault:
        raise DataError("JSON", path, f"cannot be read: {fault}") from fault
    if not isinstance(document, dict):
        raise DataError("JSON", path, "is not a JSON object")
    return document


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
