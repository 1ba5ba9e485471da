"""Sliding windows: each an image of its own, joined where they overlap.

v2 evaluated full-resolution Cityscapes on overlapping regions (its Cityscapes tables; size and
overlap are not in the paper); v3 and v3+ take whole images. Memory is one row of windows, not the
image.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segkit.errors import ConfigError
from segkit.inference.bands import Bands, Block, Size

Corner = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Square windows of ``size`` pixels; of each, the next one sees at least ``overlap`` again.

    ``weighting`` says how much each of several windows counts at a pixel: all alike (``uniform``),
    or by its distance to the window's border (``linear``: the product of a triangle over the rows
    and one over the columns, above 0 everywhere).
    """

    size: int
    overlap: float = 0.33
    weighting: Literal["uniform", "linear"] = "uniform"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ConfigError("WINDOW", "eval.window.size", f"{self.size!r}", "a side in pixels")
        if not 0 <= self.overlap < 1:
            fix = "0 or more and below 1"
            raise ConfigError("WINDOW", "eval.window.overlap", f"{self.overlap!r}", fix)
        if self.weighting not in ("uniform", "linear"):
            fix = "uniform or linear"
            raise ConfigError("WINDOW", "eval.window.weighting", f"{self.weighting!r}", fix)

    def starts(self, side: int) -> list[int]:
        """Where windows begin along ``side`` pixels, which they cover: one that would stick out is
        moved in to the border. A side shorter than a window has one window, at 0."""
        step = max(1, self.size - math.ceil(self.overlap * self.size))
        last = max(0, side - self.size)
        return [*range(0, last, step), last]

    def weights(self, device: torch.device) -> Tensor:
        """How much each row (or column) of a window counts, [size]."""
        if self.weighting == "uniform":
            return torch.ones(self.size, device=device)
        places = torch.arange(1.0, self.size + 1, device=device)
        return torch.minimum(places, places.flip(0)) / (self.size + 1)


def joined(
    window: Window,
    size: Size,
    look: Callable[[Sequence[Corner]], Iterable[Bands]],
    most_bytes: int,
) -> Iterator[Block]:
    """The rows of an image of ``size`` in order, each with its probabilities [C, rows, W].

    ``look`` gives the windows with these upper left corners, one after another. A block is only
    good until the next one is asked for. Memory: C · size of a window · width of the image.
    """
    height, width = (max(side, window.size) for side in size)
    tops, lefts = window.starts(height), window.starts(width)
    row = _Row(window, lefts, width)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left, bands in zip(lefts, look([(top, left) for left in lefts]), strict=True):
            for rows, probabilities in bands.blocks(most_bytes):
                row.add(rows, left, probabilities)
        count = following - top
        yield slice(top, min(following, size[0])), row.done(count)[:, : size[0] - top, : size[1]]
        row.move_up(count)


class _Row:
    """What one row of windows has summed up: [C, size of a window, width]."""

    def __init__(self, window: Window, lefts: Sequence[int], width: int) -> None:
        self._window, self._lefts, self._width = window, lefts, width
        self._sums: Tensor | None = None

    def add(self, rows: slice, left: int, probabilities: Tensor) -> None:
        """Add some rows of the window that begins at ``left``."""
        side = self._window.size
        if self._sums is None:
            self._begin(len(probabilities), probabilities.device)
        assert self._sums is not None
        if self._window.weighting == "linear":
            probabilities = probabilities * (self._weights[rows, None] * self._weights)
        self._sums[:, rows, left : left + side] += probabilities
        if left == self._lefts[0]:
            self._weight[rows] += self._weights[rows]

    def done(self, count: int) -> Tensor:
        """The upper ``count`` rows, which no later window sees: their weighted mean."""
        assert self._sums is not None
        upper = self._sums[:, :count]
        # Windows stand in rows and columns, so that the sum of weights is a product of two.
        return upper.div_(self._weight[:count, None] * self._across)

    def move_up(self, count: int) -> None:
        """Drop the upper ``count`` rows; the lower ones, of which there is no copy, take their
        place."""
        side = self._window.size
        assert self._sums is not None
        for top in range(0, side - count, count):
            rows = slice(top, min(top + count, side - count))
            below = slice(rows.start + count, rows.stop + count)
            self._sums[:, rows] = self._sums[:, below]
            self._weight[rows] = self._weight[below]
        self._sums[:, side - count :] = 0
        self._weight[side - count :] = 0

    def _begin(self, classes: int, device: torch.device) -> None:
        side = self._window.size
        self._weights = self._window.weights(device)
        self._sums = torch.zeros(classes, side, self._width, device=device)
        self._weight = torch.zeros(side, device=device)
        self._across = torch.zeros(self._width, device=device)
        for left in self._lefts:
            self._across[left : left + side] += self._weights
