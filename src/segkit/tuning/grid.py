"""Where the papers looked: a coarse grid, then half its steps around the best of it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product

# Fixed in both papers (v1 §5, v2 §4.1.1): w2 and σγ, "for simplicity"; they hardly matter.
FIXED = {"gaussian_weight": 3.0, "gaussian_xy": 3.0}


@dataclass(frozen=True, order=True)
class Point:
    """The parameters that are searched: w1, σα (pixels) and σβ (steps of 0..255)."""

    bilateral_weight: float
    bilateral_xy: float
    bilateral_rgb: float

    def __str__(self) -> str:
        return f"bi{self.bilateral_weight:g}/{self.bilateral_xy:g}/{self.bilateral_rgb:g}"


NEIGHBOURS = 26  # the points of the second round
SEARCHED = tuple(field.name for field in fields(Point))


@dataclass(frozen=True)
class Search:
    """The first round's ranges, as (first, last, step) of w1, σα and σβ."""

    paper: str
    weight: tuple[int, int, int]
    xy: tuple[int, int, int]
    rgb: tuple[int, int, int]

    def coarse(self) -> list[Point]:
        return [Point(*map(float, found)) for found in product(*map(_values, self._ranges))]

    def fine(self, best: Point) -> list[Point]:
        """The ``NEIGHBOURS`` of ``best`` at half the steps; they may leave the ranges so far."""
        weights, distances, colours = (
            (middle - step / 2, middle, middle + step / 2)
            for middle, (_, _, step) in zip(_numbers(best), self._ranges, strict=True)
        )
        around = (Point(*found) for found in product(weights, distances, colours))
        return [point for point in around if point != best]

    def __str__(self) -> str:
        ranges = zip(SEARCHED, self._ranges, strict=True)
        return ", ".join(f"{name} {a} to {b} by {step}" for name, (a, b, step) in ranges)

    def ranges(self) -> dict[str, list[float]]:
        """The values of the first round, by the name of their key."""
        ranges = zip(SEARCHED, self._ranges, strict=True)
        return {name: list(map(float, _values(found))) for name, found in ranges}

    @property
    def _ranges(self) -> tuple[tuple[int, int, int], ...]:
        return self.weight, self.xy, self.rgb


# v1 gives w1 as the interval [5, 10]; whole numbers are taken.
SEARCHES = {
    "v1": Search("v1, section 5", (5, 10, 1), (50, 100, 10), (3, 10, 1)),
    "v2": Search("v2, section 4.1.1", (3, 6, 1), (30, 100, 10), (3, 6, 1)),
}


def search_for(model: str) -> Search:
    """The ranges of the model's own paper; v3 and v3+ have no CRF, and take v2's."""
    return SEARCHES["v1" if model.startswith("v1") else "v2"]


def spread(count: int, most: int) -> list[int]:
    """``most`` of the numbers 0..count-1, evenly spaced from the first on (all if there are fewer).

    Neighbours in a list are often alike, frames of one street even more so.
    """
    taken = min(count, most)
    return [number * count // taken for number in range(taken)]


def _values(bounds: tuple[int, int, int]) -> Iterator[int]:
    first, last, step = bounds
    yield from range(first, last + 1, step)


def _numbers(point: Point) -> tuple[float, float, float]:
    return point.bilateral_weight, point.bilateral_xy, point.bilateral_rgb
