"""From small score maps to full-size probabilities, a band of rows at a time.

A network scores at a stride; a score map at the image's size is 64 to 1000 times larger, and there
would be one for each scale and mirror image. So the small maps of all views are kept, and only a
few rows of the result exist at full size at any time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# A band enlarges the two or three small rows around it across the whole width, and the next one
# does so again: with hundreds of classes, of which a row fills the cache, half of the work.
LEAST_ROWS = 4

Size = tuple[int, int]
Block = tuple[slice, Tensor]


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear with aligned corners, the convention of Caffe's Interp and of the TF code."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


@dataclass(frozen=True)
class Bands:
    """One image as the small score maps [C, h, w] of its views, float32, all of the same field.

    The field is the padded image of size ``full`` (height, width), of which ``size`` is wanted.
    """

    maps: Sequence[Tensor]
    full: Size
    size: Size

    @property
    def classes(self) -> int:
        return self.maps[0].shape[0]

    def blocks(self, most_bytes: int) -> Iterator[Block]:
        """The rows of the image in order, each with its probabilities [C, rows, W].

        They are the mean over the views of the softmax of the resized scores; one band of scores
        takes at most ``most_bytes`` (or ``LEAST_ROWS``), and three are alive.
        """
        for rows in self._rows(most_bytes):
            total = self._enlarged(self.maps[0], rows).softmax(0)
            for scores in self.maps[1:]:
                total += self._enlarged(scores, rows).softmax(0)
            yield rows, total.div_(len(self.maps))

    def rankings(self, most_bytes: int) -> Iterator[Block]:
        """As ``blocks``, but only the order of the classes counts: one view needs no softmax."""
        if len(self.maps) > 1:
            yield from self.blocks(most_bytes)
            return
        for rows in self._rows(most_bytes):
            yield rows, self._enlarged(self.maps[0], rows)

    def _rows(self, most_bytes: int) -> Iterator[slice]:
        height, width = self.size
        step = max(LEAST_ROWS, most_bytes // (4 * self.classes * width))
        for top in range(0, height, step):
            yield slice(top, min(top + step, height))

    def _enlarged(self, scores: Tensor, rows: slice) -> Tensor:
        """The scores [C, rows, W] of some rows of the full size: columns first, then rows."""
        (small, across), (large, width) = scores.shape[1:], self.full
        if small == large:
            near = scores[:, rows]
        else:
            here, there = _positions(small, large, str(scores.device))
            first, last = int(here[rows.start]), min(int(here[rows.stop - 1]) + 2, small)
            near = scores[:, first:last]
        if across != width:
            near = resize(near[None], (near.shape[1], width))[0]
        near = near[..., : self.size[1]]
        if small == large:
            return near
        mix = mixed_by_product if near.device.type == "cpu" else mixed_by_lookup
        return mix(near, there[rows] - first)


def mixed_by_product(near: Tensor, places: Tensor) -> Tensor:
    """Rows [C, n, W] at n ``places`` between the rows of ``near`` [C, r, W]: a matrix product.

    A narrow one, for few rows are near; on a processor three times as fast as looking up.
    """
    sources = torch.arange(near.shape[1], device=near.device)
    return (1 - (places[:, None] - sources).abs()).clamp_min(0) @ near


def mixed_by_lookup(near: Tensor, places: Tensor) -> Tensor:
    """The same; on a GPU, where a product may be one of TF32, of which scores want more bits."""
    above = places.long()
    below = (above + 1).clamp_max(near.shape[1] - 1)
    upper, lower = near.index_select(1, above), near.index_select(1, below)
    return upper.lerp_(lower, (places - above)[:, None])


@lru_cache(maxsize=64)
def _positions(small: int, large: int, device: str) -> tuple[Tensor, Tensor]:
    """Where each of ``large`` rows lies among ``small`` ones, here and on the device.

    In float32, as ``F.interpolate`` reckons: a score must not depend on which of the two it was.
    """
    scale = torch.tensor((small - 1) / max(large - 1, 1), dtype=torch.float32)
    here = (scale * torch.arange(large, dtype=torch.float32)).clamp_max(small - 1)
    return here, here.to(device, non_blocking=True)
