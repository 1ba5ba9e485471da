"""Finished scores -> the document ``table.json``: the paper's numbers, ours, and what each is of.

Numbers are exact (fractions of the confusion matrices' counts) until they are rounded, once, half
up. What is missing is said in words and never filled. Nothing in a document depends on when or
where it is made, so the same scores give the same bytes.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from segkit.ablation import scored
from segkit.ablation.book import Column, Row, Table
from segkit.ablation.cells import (
    Taken,
    entry_of,
    joined,
    numbers_of,
    paper_text,
    printed,
    words_of,
)
from segkit.ablation.jobs import Job, Place, Plan
from segkit.ablation.order import ordered
from segkit.ablation.spent import hours_of, spent
from segkit.ablation.state import Standing, other_start, standing
from segkit.report.signature import Signature

FORMAT = 1


def collect(
    table: Table,
    plan: Plan,
    scale: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    command: str,
    computed: Callable[[Row, Column], float | None],
    stands: Callable[[Job], Standing] = standing,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """The document of ``table``: plain JSON, null for no number.

    ``rows[].numbers`` has a cell for each column: ``paper`` (``printed`` is its text), ``ours``
    (the mean over ``n`` seeds), ``spread`` (sample standard deviation), ``difference``, ``state``
    and ``seeds``, each with run, score (below the folder of the runs), signature and value.

    ``scale`` is the node of the config. ``computed`` gives the numbers that need no training.
    ``stands`` says how a job stands whose score is missing. ``words`` are those by which all
    trainings differ from the scale's (``written.changes``).
    """
    compare = bool(scale.get("compare", True))
    reading = _Reading(table, plan, tuple(seeds), computed, stands, compare)
    rows = [reading.row(row) for row in table.rows]
    common = _common(rows)
    for row in rows:
        asked = [parts for cell in row["numbers"].values() for parts in cell.pop("asked")]
        said = (part for parts in asked for part in parts if part not in common)
        row["protocol"] = list(dict.fromkeys(said))
    return {
        "format": FORMAT,
        "table": table.id,
        "title": table.title,
        "source": table.source,
        "setting": table.setting,
        "note": table.note,
        "scale": {"name": scale["name"], "note": scale["note"], "compare": compare},
        "words": list(words),
        "seeds": list(seeds),
        "command": command,
        "labels": list(table.labels),
        "columns": [
            {"name": c.name, "measure": c.measure, "digits": c.digits, "words": list(c.evaluate)}
            for c in table.columns
        ],
        "protocol": common,
        "rows": rows,
        "trainings": reading.trainings(),
        "order": reading.order(),
    }


def text_of(document: Mapping[str, Any]) -> bytes:
    """``table.json``."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


class _Reading:
    """A table's cells, each score read once."""

    def __init__(
        self,
        table: Table,
        plan: Plan,
        seeds: tuple[int, ...],
        computed: Callable[[Row, Column], float | None],
        stands: Callable[[Job], Standing],
        compare: bool,
    ) -> None:
        self.table, self.plan, self.seeds = table, plan, seeds
        self.computed, self.stands, self.compare = computed, stands, compare
        self.jobs = {job.run: job for job in plan.jobs}
        self.values: dict[tuple[str, str], list[Fraction]] = {}
        self.said: dict[Path, str] = {}

    # -- rows ----------------------------------------------------------------------------------

    def row(self, row: Row) -> dict[str, Any]:
        numbers = {column.name: self.cell(row, column) for column in self.table.columns}
        runs = self.runs_of(row)
        images = [seed["images"] for cell in numbers.values() for seed in cell["seeds"]]
        return {
            "key": row.key,
            "label": list(row.label),
            "blocked": self.plan.blocked.get((self.table.id, row.key)),
            "against": row.against,
            "numbers": numbers,
            "images": sorted({count for count in images if count is not None}),
            "runs": [run.name for run in runs],
            "scores": list(dict.fromkeys(map(_below, self.places_of(row)))),
            "hours": hours_of(runs, self.scores_of(row)),
        }

    def places_of(self, row: Row) -> Iterator[Place]:
        for (table, key, _, seed), place in self.plan.places.items():
            if (table, key) == (self.table.id, row.key) and seed in self.seeds:
                yield place

    def runs_of(self, row: Row) -> list[Path]:
        return list(dict.fromkeys(place.run for place in self.places_of(row)))

    def scores_of(self, row: Row) -> list[Path]:
        return list(dict.fromkeys(place.evaluation.score for place in self.places_of(row)))

    def trainings(self) -> list[dict[str, Any]]:
        """Every training of the table, with the rows that share it."""
        rows: dict[Path, list[str]] = {}
        for row in self.table.rows:
            for run in self.runs_of(row):
                rows.setdefault(run, []).append(row.key)
        return [{"run": run.name, "rows": keys, **spent(run)} for run, keys in rows.items()]

    def order(self) -> dict[str, Any] | None:
        """None where the scale's numbers are not to be compared."""
        return ordered(self.table, self.values) if self.compare else None

    # -- cells ---------------------------------------------------------------------------------

    def cell(self, row: Row, column: Column) -> dict[str, Any]:
        """One number of the paper and ours beside it."""
        taken = self.of_computation(row, column) if column.computed else self.of_scores(row, column)
        values = [one.value for one in taken if one.value is not None]
        self.values[row.key, column.name] = values
        paper = row.paper.get(column.name)
        compared = self.compare or column.computed
        return {
            "paper": paper,
            "printed": paper_text(paper),
            **numbers_of(values, paper if compared else None, column.digits),
            "n": len(values) if not column.computed else 0,
            "state": joined(taken, self.seeds),
            "seeds": [dict(one.entry) for one in taken if one.entry is not None],
            "asked": [one.asked for one in taken if one.asked],
        }

    def of_computation(self, row: Row, column: Column) -> list[Taken]:
        if column.kind == "none":
            return [Taken("nothing of ours answers to it" if column.name in row.paper else "")]
        found = self.computed(row, column)
        if found is not None:
            return [Taken("computed", printed(found))]
        reason = self.plan.blocked.get((self.table.id, row.key))
        return [Taken(f"blocked: {reason}" if reason else "not computed")]

    def of_scores(self, row: Row, column: Column) -> list[Taken]:
        """One for each seed; one alone for a row that is blocked."""
        if reason := self.plan.blocked.get((self.table.id, row.key)):
            return [Taken(f"blocked: {reason}" if column.name in row.paper else "")]
        if column.kind.endswith("gain") and row.against is None:
            return [Taken("")]  # what others are compared with has no gain
        return [self.one(row, column, seed) for seed in self.seeds]

    def one(self, row: Row, column: Column, seed: int) -> Taken:
        place = self.plan.places.get((self.table.id, row.key, column.name, seed))
        if place is None:
            return Taken("not run")
        found = self.read(place, column, seed)
        if not column.kind.endswith("gain") or found.value is None:
            return found
        base = self.plan.places.get((self.table.id, str(row.against), column.name, seed))
        other = self.read(base, column, seed) if base is not None else Taken("not run")
        if other.value is None or other.entry is None or found.entry is None:
            return Taken(f"{other.state} (row {row.against})", entry=found.entry)
        gain = found.value - other.value
        names = {name: other.entry[name] for name in ("run", "score", "signature")}
        entry = entry_of(seed, found.entry, gain, column.digits) | {"base": names}
        return Taken("scored", gain, found.asked, entry)

    def read(self, place: Place, column: Column, seed: int) -> Taken:
        """The number that one run and one score give."""
        path = place.evaluation.score
        named: dict[str, Any] = {
            "run": place.run.name,
            "score": _below(place),
            "signature": None,
            "images": None,
        }
        try:
            score = scored.read_score(path)
            if score is None:
                state = self.missing(place)
                return Taken(state, entry={"seed": seed, **named, "state": state})
            signature = scored.signature_of(score)
            why = scored.stale(signature, place.run, place.evaluation.words) or self.begun(place)
            value = None if why else scored.number(column.measure, score, place.run)
        except ValueError as error:
            state = f"stale: {path.name} {error}"
            return Taken(state, entry={"seed": seed, **named, "state": state})
        named |= {"signature": str(signature), "images": signature.images}
        if why or value is None:
            state = f"stale: {why}" if why else f"scored without {column.measure}"
            return Taken(state, entry={"seed": seed, **named, "state": state})
        entry = entry_of(seed, named, value, column.digits)
        return Taken("scored", value, _asked(signature, column, score), entry)

    def begun(self, place: Place) -> str | None:
        """What is wrong if the run began with other weights than are asked for."""
        job = self.jobs.get(place.run)
        fault = other_start(job) if job else None
        return fault.what if fault else None

    def missing(self, place: Place) -> str:
        if place.run not in self.said:
            job = self.jobs.get(place.run)
            self.said[place.run] = words_of(self.stands(job)) if job else "not run"
        return self.said[place.run]


def _below(place: Place) -> str:
    """The score file, below the folder of the runs."""
    return os.path.relpath(place.evaluation.score, place.run.parent)


def _asked(signature: Signature, column: Column, score: Mapping[str, Any]) -> tuple[str, ...]:
    """How a network was asked, and what computed it."""
    origin = f"{signature.precision} {signature.device}"
    band = [f"trimap around {score['trimap']['around']}"] if column.kind[:6] == "trimap" else []
    return (signature.subject()[0], *signature.protocol(), *band, origin)


def _common(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What all scores of the table have in common."""
    asked = [parts for row in rows for cell in row["numbers"].values() for parts in cell["asked"]]
    return [part for part in asked[0] if all(part in parts for parts in asked)] if asked else []
