"""What a search leaves behind: a table, all its numbers, a YAML, and the words to type."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from segkit.inference.crf import DenseCrf
from segkit.report.names import prediction_path
from segkit.report.signature import percent
from segkit.report.tables import markdown_table
from segkit.tuning.grid import Search
from segkit.tuning.search import Row, best
from segkit.whole_files import write_whole

SHOWN = 10
EXPERIMENT = "crf_tuned"


@dataclass(frozen=True)
class Result:
    """``asked`` signs the probabilities; ``crf`` has what was not searched; ``alone`` is the mIoU
    without the CRF; ``rows`` come in the order of the search; ``command`` is an evaluation."""

    asked: str
    search: Search
    backend: str
    crf: DenseCrf
    alone: float
    rows: list[Row]
    command: str

    @property
    def node(self) -> dict[str, Any]:
        """The best point's ``densecrf``."""
        return asdict(self.crf) | asdict(best(self.rows).point)


def write_result(out: Path, result: Result) -> list[str]:
    """``tune.md``, ``tune.json`` and a config folder in ``out``; gives the lines to print."""
    table, numbers = prediction_path(out, "tune", ".md"), prediction_path(out, "tune", ".json")
    ready = prediction_path(out, f"config/experiment/{EXPERIMENT}", ".yaml")
    write_whole(table, markdown(result).encode())
    write_whole(numbers, (json.dumps(document(result), indent=1, allow_nan=False) + "\n").encode())
    write_whole(ready, yaml_text(result).encode())
    folder = shlex.quote(str(out / "config"))
    lines = [f"mIoU {percent(result.alone)} without the CRF"]
    for row in ordered(result.rows)[:SHOWN]:
        lines.append(f"mIoU {percent(row.miou)} ({gain(row, result)}) {row.point} {row.round}")
    if best(result.rows).miou <= result.alone:
        lines.append("no point is better than no CRF at all")
    return [
        *lines,
        f"table: {table} ({len(result.rows)} points; tune.json has every class)",
        f"config: {ready} (segkit train ... experiment={EXPERIMENT} --config-dir {folder})",
        result.command,
    ]


def ordered(rows: list[Row]) -> list[Row]:
    """The best first; of equals, the one that was tried first."""
    return sorted(rows, key=lambda row: -row.miou)


def gain(row: Row, result: Result) -> str:
    return f"{100 * (row.miou - result.alone):+.2f}"


def document(result: Result) -> dict[str, Any]:
    return {
        "asked": result.asked,
        "search": {"paper": result.search.paper, **result.search.ranges()},
        "backend": result.backend,
        "densecrf": result.node,
        "miou_without_crf": result.alone,
        "miou": best(result.rows).miou,
        "command": result.command,
        "points": [row.document() for row in result.rows],
    }


def markdown(result: Result) -> str:
    """All points, the best first."""
    cells = []
    for row in ordered(result.rows):
        numbers = [f"{value:g}" for value in asdict(row.point).values()]
        cells.append([*numbers, percent(row.miou), gain(row, result), row.round])
    head = ("bilateral_weight", "bilateral_xy", "bilateral_rgb", "mIoU", "gain", "round")
    crf = result.crf
    fixed = (
        f"{result.backend}, {crf.iterations} iterations, gaussian {crf.gaussian_weight:g}/"
        f"{crf.gaussian_xy:g}, {crf.normalization}"
    )
    return "\n".join(
        (
            "# The dense CRF's parameters",
            "",
            f"First round ({result.search.paper}): {result.search}. Second round: half the steps"
            f" around its best. Fixed: {fixed}. Images are spread evenly over the split.",
            "",
            f"Without the CRF: mIoU {percent(result.alone)} =",
            "",
            f"    {result.asked}",
            "",
            f"    {result.command}",
            "",
            markdown_table(head, cells),
            "",
        )
    )


def yaml_text(result: Result) -> str:
    note = f"mIoU {percent(best(result.rows).miou)}, {percent(result.alone)} without the CRF"
    node = yaml.safe_dump({"densecrf": result.node}, sort_keys=False)
    return f"# @package _global_\n# Found by segkit crf tune: {note}.\n{node}"
