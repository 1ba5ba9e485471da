"""Does the papers' order of rows hold: pairs of rows, and what the paper says of neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

from segkit.ablation.book import Row, Table
from segkit.ablation.cells import printed
from segkit.report.decimals import mean, rounded, variance


@dataclass(frozen=True)
class Placed:
    """A row's number in the paper and ours: the mean over seeds, and the variance (one seed: None,
    its noise is not known)."""

    key: str
    paper: Fraction
    ours: Fraction
    variance: Fraction | None = None


def ordered(
    table: Table, values: Mapping[tuple[str, str], Sequence[Fraction]]
) -> dict[str, Any] | None:
    """The order of a table's rows, over the first column whose numbers come from scores.

    ``values`` has our numbers by the keys of row and column.
    """
    for column in table.columns:
        if not column.computed and column.kind != "train_rate":
            rows = [row for row in table.rows if column.name in row.paper]
            return order([*_placed(rows, column.name, values)], column.name, of=len(rows))
    return None


def _placed(
    rows: Sequence[Row], column: str, values: Mapping[tuple[str, str], Sequence[Fraction]]
) -> Iterator[Placed]:
    for row in rows:
        if ours := values.get((row.key, column)):
            spread = variance(ours) if len(ours) > 1 else None
            yield Placed(row.key, printed(row.paper[column]), mean(ours), spread)


def order(rows: Sequence[Placed], column: str, *, of: int | None = None) -> dict[str, Any] | None:
    """What ``table.json`` has under ``order``; None with fewer than two rows that the paper tells
    apart. ``of`` is how many rows of the column have a number in the paper (None: these).

    ``tau`` is Kendall's, over the ``pairs`` whose numbers in the paper differ. A pair of ours that
    is equal, or closer than the larger known spread of the two, counts as neither.
    """
    ranked = sorted(rows, key=lambda row: -row.paper)
    pairs = [(a, b) for a, b in combinations(ranked, 2) if a.paper != b.paper]
    if not pairs:
        return None
    held = {(a.key, b.key): holds(a, b) for a, b in pairs}
    same = sum(value is True for value in held.values())
    other = sum(value is False for value in held.values())
    equal = [[a.key, b.key] for a, b in pairs if a.ours == b.ours]
    none = [list(pair) for pair, value in held.items() if value is None]
    best = max(rows, key=lambda row: row.ours)
    return {
        "column": column,
        "rows": len(rows),
        "of": len(rows) if of is None else of,
        "one_seed": [row.key for row in rows if row.variance is None],
        "pairs": len(pairs),
        "same": same,
        "equal": equal,
        "undecided": [pair for pair in none if pair not in equal],
        "tau": float(rounded(Fraction(same - other, len(pairs)), 2)),
        "best_of_paper": [row.key for row in ranked if row.paper == ranked[0].paper],
        "best_of_ours": [row.key for row in rows if row.ours == best.ours],
        "neighbours": [
            {"better": a.key, "worse": b.key, "holds": held[a.key, b.key]}
            for a, b in pairwise(ranked)
            if a.paper != b.paper
        ],
    }


def holds(better: Placed, worse: Placed) -> bool | None:
    """Whether ours are in the paper's order; None where they are equal, or closer than their
    spread."""
    apart = better.ours - worse.ours
    known = [row.variance for row in (better, worse) if row.variance is not None]
    if apart == 0 or apart**2 < max(known, default=Fraction(0)):
        return None
    return apart > 0
