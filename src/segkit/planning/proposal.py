"""Batch x accumulation that fits: the effective batch stays, a forward pass sees less of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd

# So much of the free memory is planned with: libraries take workspaces, and others use the machine.
MARGIN = 0.9


@dataclass(frozen=True)
class Proposal:
    """``accumulate`` is None where not even the smallest part fits; ``peak`` is its bytes then."""

    accumulate: int | None
    peak: int
    images: tuple[int, ...]


def parts_that_divide(batches: Sequence[int], devices: int, least: Sequence[int]) -> list[int]:
    """Every ``schedule.accumulate`` that splits each stage's batch evenly over ``devices``.

    ``least`` are the fewest images that a forward pass of each stage can take.
    """
    common = reduce(gcd, batches)
    if common % devices:
        return []
    share = common // devices
    return [
        parts
        for parts in range(1, share + 1)
        if share % parts == 0
        and all(
            batch // (devices * parts) >= few for batch, few in zip(batches, least, strict=True)
        )
    ]


def proposed(
    batches: Sequence[int],
    devices: int,
    least: Sequence[int],
    peak: Callable[[int], int],
    free: int,
) -> Proposal:
    """The smallest accumulation whose ``peak(parts)`` bytes are within ``MARGIN`` of ``free``."""
    candidates = parts_that_divide(batches, devices, least)
    taken = 0
    for parts in candidates:
        taken = peak(parts)
        if taken <= MARGIN * free:
            return Proposal(parts, taken, tuple(b // (devices * parts) for b in batches))
    return Proposal(None, taken, ())
