"""One cell: exact numbers to printed ones, and the words for what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from segkit.ablation.state import Standing
from segkit.report.decimals import mean, root, rounded, variance


@dataclass(frozen=True)
class Taken:
    """What one seed gives a cell: the exact ``value``, or in ``state`` why there is none.

    ``asked`` says, part by part, how the network was asked.
    """

    state: str
    value: Fraction | None = None
    asked: tuple[str, ...] = ()
    entry: Mapping[str, Any] | None = None


def words_of(stands: Standing) -> str:
    """How a job stands, in the words of a cell."""
    if stands.state == "failed":
        return f"failed {stands.code if stands.code is not None else '?'}: {stands.line}"
    if stands.state == "running":
        return f"running {stands.percent} %"
    if stands.steps and stands.step >= stands.steps:
        return "trained, not scored"
    if stands.state == "stopped" and not stands.step:
        return "interrupted before its first step"
    if stands.state == "stopped":
        return f"interrupted at step {stands.step} of {stands.steps}"
    return {"waiting": "not run", "done": "not scored"}.get(stands.state, stands.state)


def numbers_of(values: Sequence[Fraction], paper: float | None, digits: int) -> dict[str, Any]:
    """Mean, sample standard deviation and difference to the paper, each rounded once."""
    if not values:
        return {"ours": None, "spread": None, "difference": None}
    middle = mean(values)
    apart = None if paper is None else float(rounded(middle - printed(paper), digits))
    spread = float(root(variance(values), digits)) if len(values) > 1 else None
    return {"ours": float(rounded(middle, digits)), "spread": spread, "difference": apart}


def paper_text(paper: float | None) -> str | None:
    """The paper's number as it is written in the table's file."""
    return getattr(paper, "text", paper if paper is None else repr(paper))


def printed(number: float) -> Fraction:
    """The decimal number that a float stands for: 77.21 and not the nearest binary fraction."""
    return Fraction(Decimal(repr(float(number))))


def entry_of(seed: int, named: Mapping[str, Any], value: Fraction, digits: int) -> dict[str, Any]:
    return {**named, "seed": seed, "state": "scored", **value_of(value, digits)}


def value_of(value: Fraction, digits: int) -> dict[str, float]:
    """A seed's number as a document has it: rounded once, and as it is."""
    return {"value": float(rounded(value, digits)), "exact": float(value)}


def joined(taken: Sequence[Taken], seeds: Sequence[int]) -> str:
    """One state for all seeds."""
    states = list(dict.fromkeys(one.state for one in taken))
    if len(states) == 1:
        return states[0]
    done = sum(one.value is not None for one in taken)
    others = [
        f"seed {seed} {one.state}"
        for seed, one in zip(seeds, taken, strict=True)
        if one.value is None
    ]
    return "; ".join([f"{done} of {len(taken)} seeds: {others[0]}", *others[1:]])
