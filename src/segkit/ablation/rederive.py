"""Every cell of a ``table.json`` once more, from the score files that it names."""

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from segkit.ablation import scored
from segkit.ablation.cells import numbers_of
from segkit.errors import DataError
from segkit.report.decimals import rounded


def check_table(path: Path, runs: Path) -> int:
    """How many cells of the ``table.json`` at ``path`` were derived again.

    Raises DataError DATA-TABLE for the first that comes out otherwise, or a file that is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        wrong = rederive(document, runs)
    except FileNotFoundError as error:
        fix = "the same command without --check writes it"
        raise DataError("TABLE", path, "is not there", fix) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("TABLE", path, f"is no table.json: {error!r}") from error
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DataError("TABLE", path, wrong[0] + more, "the same command without --check")
    return sum(bool(c["n"]) for row in document["rows"] for c in row["numbers"].values())


def rederive(document: Mapping[str, Any], runs: Path) -> list[str]:
    """What a document says otherwise than the scores below ``runs``; nothing where all is well.

    Computed cells need no run and are not looked at.
    """
    columns = {column["name"]: column for column in document["columns"]}
    return [
        f"{document['table']} {row['key']}, {name}: {what}"
        for row in document["rows"]
        for name, cell in row["numbers"].items()
        if cell["n"]
        for what in _differences(cell, columns[name], runs)
    ]


def _differences(cell: Mapping[str, Any], column: Mapping[str, Any], runs: Path) -> Iterator[str]:
    values = []
    for seed in cell["seeds"]:
        if seed["state"] != "scored":
            continue
        try:
            value = _value(seed, column["measure"], runs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield f"seed {seed['seed']}: {error}"
            continue
        values.append(value)
        found = {"value": float(rounded(value, column["digits"])), "exact": float(value)}
        yield from _unequal(f"seed {seed['seed']} ", seed, found)
    yield from _unequal("", cell, {"n": len(values)})
    yield from _unequal("", cell, numbers_of(values, cell["paper"], column["digits"]))


def _value(seed: Mapping[str, Any], measure: str, runs: Path) -> Fraction:
    """The number of one seed; of a gain, less that of its base."""
    value = _read(seed, measure, runs)
    return value - _read(seed["base"], measure, runs) if "base" in seed else value


def _read(named: Mapping[str, Any], measure: str, runs: Path) -> Fraction:
    path = runs / named["score"]
    score = scored.read_score(path)
    if score is None:
        raise ValueError(f"{path} is not there")
    if (line := str(scored.signature_of(score))) != named["signature"]:
        raise ValueError(f"{path} is signed {line}")
    value = scored.number(measure, score, runs / named["run"])
    if value is None:
        raise ValueError(f"{path} has no {measure}")
    return value


def _unequal(before: str, told: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if told[name] != value:
            yield f"{before}{name} is {told[name]}, the scores give {value}"
