"""Seconds as a straight line over multiply-adds, through what was measured at small sizes."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """``fixed`` seconds whatever the size, and ``each`` for one multiply-add."""

    fixed: float
    each: float

    def at(self, macs: float) -> float:
        return self.fixed + self.each * macs


def through(points: Sequence[tuple[float, float]]) -> Line:
    """The line through the two largest of ``points`` (multiply-adds, seconds).

    What is measured wavers: a line never has a negative part. Where it would, all is laid to the
    multiply-adds of the largest point, or (larger work took no longer) to what is fixed.
    """
    (macs, seconds), *smaller = sorted(points, reverse=True)
    if not smaller:
        return Line(0.0, seconds / macs)
    less, sooner = smaller[0]
    each = (seconds - sooner) / (macs - less)
    if each <= 0:
        return Line(0.0, seconds / macs)
    fixed = seconds - each * macs
    return Line(fixed, each) if fixed >= 0 else Line(0.0, seconds / macs)
