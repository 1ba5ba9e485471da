"""Does the papers' order of rows hold: pairs of rows, and what the paper says of neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

from segkit.report.decimals import rounded


@dataclass(frozen=True)
class Standing:
    """A row's number in the paper and ours: the mean over seeds, and the variance (one seed: 0)."""

    key: str
    paper: Fraction
    ours: Fraction
    variance: Fraction = Fraction(0)


def order(rows: Sequence[Standing], column: str) -> dict[str, Any] | None:
    """What ``table.json`` has under ``order``; None with fewer than two rows that the paper tells
    apart.

    ``tau`` is Kendall's, over the ``pairs`` whose numbers in the paper differ. A pair of ours that
    is closer than the larger spread of the two is undecided: it counts as neither.
    """
    ranked = sorted(rows, key=lambda row: -row.paper)
    pairs = [(a, b) for a, b in combinations(ranked, 2) if a.paper != b.paper]
    if not pairs:
        return None
    held = {(a.key, b.key): holds(a, b) for a, b in pairs}
    same = sum(value is True for value in held.values())
    other = sum(value is False for value in held.values())
    best = max(rows, key=lambda row: row.ours)
    return {
        "column": column,
        "pairs": len(pairs),
        "same": same,
        "undecided": [list(pair) for pair, value in held.items() if value is None],
        "tau": float(rounded(Fraction(same - other, len(pairs)), 2)),
        "best_of_paper": [row.key for row in ranked if row.paper == ranked[0].paper],
        "best_of_ours": [row.key for row in rows if row.ours == best.ours],
        "neighbours": [
            {"better": a.key, "worse": b.key, "holds": held[a.key, b.key]}
            for a, b in pairwise(ranked)
            if a.paper != b.paper
        ],
    }


def holds(better: Standing, worse: Standing) -> bool | None:
    """Whether ours are in the paper's order; None where they are closer than their spread."""
    apart = better.ours - worse.ours
    if apart == 0 or apart**2 < max(better.variance, worse.variance):
        return None
    return apart > 0
