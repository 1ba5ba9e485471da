"""Every cell of a ``table.json`` once more: from the table's file and the scores that it names."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from segkit.ablation import scored
from segkit.ablation.book import Column, Row, Table
from segkit.ablation.cells import numbers_of, paper_text, printed, value_of
from segkit.ablation.order import ordered
from segkit.ablation.spent import hours_of, spent
from segkit.engine.record import read_status
from segkit.errors import DataError

Json = Mapping[str, Any]
Computed = Callable[[Row, Column], float | None]


def check_table(path: Path, runs: Path, table: Table, computed: Computed) -> int:
    """How many cells of the ``table.json`` at ``path`` were derived again.

    Raises DataError DATA-TABLE for the first that comes out otherwise, or a file that is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        wrong = rederive(document, runs, table, computed)
    except FileNotFoundError as error:
        fix = "the same command without --check writes it"
        raise DataError("TABLE", path, "is not there", fix) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("TABLE", path, f"is no table.json: {error!r}") from error
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DataError("TABLE", path, wrong[0] + more, "the same command without --check")
    return sum(bool(c["n"]) for row in document["rows"] for c in row["numbers"].values())


def rederive(document: Json, runs: Path, table: Table, computed: Computed) -> list[str]:
    """What a document says otherwise than ``table``, what ``computed`` gives and the scores below
    ``runs``; nothing where all is well.

    How a job stood whose score is missing is not looked at, only that its cell has no number.
    """
    told = {row["key"]: row for row in document["rows"]}
    keys, known = list(told), [row.key for row in table.rows]
    if (document["table"], keys) != (table.id, known):
        return [f"{document['table']}: its rows are not those of {table.id}"]
    columns = [(c["name"], c["measure"], c["digits"]) for c in document["columns"]]
    if columns != [(c.name, c.measure, c.digits) for c in table.columns]:
        return [f"{document['table']}: its columns are not those of the table"]
    again = _Again(document, runs, computed)
    found = [line for row in table.rows for line in again.row(row, told[row.key], table.columns)]
    return found + list(again.rest(table))


class _Again:
    """A document's numbers once more."""

    def __init__(self, document: Json, runs: Path, computed: Computed) -> None:
        self.document, self.runs, self.computed = document, runs, computed
        self.compare = document["scale"]["compare"]
        self.values: dict[tuple[str, str], list[Fraction]] = {}

    def row(self, row: Row, told: Json, columns: Sequence[Column]) -> Iterator[str]:
        for column in columns:
            for what in self.cell(row, column, told["numbers"][column.name]):
                yield f"{self.document['table']} {row.key}, {column.name}: {what}"
        runs = [self.runs / name for name in told["runs"]]
        scores = [self.runs / name for name in told["scores"]]
        if told["hours"] is not None:
            for what in _unequal("", told, {"hours": hours_of(runs, scores)}):
                yield f"{self.document['table']} {row.key}: {what}"

    def cell(self, row: Row, column: Column, told: Json) -> Iterator[str]:
        paper = row.paper.get(column.name)
        yield from _unequal("", told, {"paper": paper, "printed": paper_text(paper)})
        if column.computed:
            found = self.computed(row, column) if told["state"] == "computed" else None
            made = [] if found is None else [printed(found)]
            yield from _unequal("", told, {"n": 0} | numbers_of(made, paper, column.digits))
            return
        values: list[Fraction] = []
        for seed in told["seeds"]:
            if seed["state"] == "scored":
                yield from self.seed(seed, column, values)
        self.values[row.key, column.name] = values
        compared = paper if self.compare else None
        numbers = numbers_of(values, compared, column.digits)
        yield from _unequal("", told, {"n": len(values)} | numbers)
        whole = len(values) == len(self.document["seeds"])
        if (told["state"] == "scored") != whole or told["state"] == "computed":
            yield f"state is {told['state']!r} of {len(values)} numbers"

    def seed(self, seed: Json, column: Column, values: list[Fraction]) -> Iterator[str]:
        try:
            value = _value(seed, column.measure, self.runs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield f"seed {seed['seed']}: {error}"
            return
        values.append(value)
        yield from _unequal(f"seed {seed['seed']} ", seed, value_of(value, column.digits))

    def rest(self, table: Table) -> Iterator[str]:
        """The order of rows, and the hours of the trainings that are finished."""
        again = ordered(table, self.values) if self.compare else None
        for what in _unequal("", self.document, {"order": again}):
            yield f"{table.id}: {what}"
        for told in self.document["trainings"]:
            run = self.runs / told["run"]
            if read_status(run).get("state") == "finished":
                for what in _unequal("", told, spent(run)):
                    yield f"{table.id}: training {told['run']}: {what}"


def _value(seed: Json, measure: str, runs: Path) -> Fraction:
    """The number of one seed; of a gain, less that of its base."""
    value = _read(seed, measure, runs)
    return value - _read(seed["base"], measure, runs) if "base" in seed else value


def _read(named: Json, measure: str, runs: Path) -> Fraction:
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


def _unequal(before: str, told: Json, found: Json) -> Iterator[str]:
    for name, value in found.items():
        if told[name] != value:
            yield f"{before}{name} is {told[name]}, not {value}"
