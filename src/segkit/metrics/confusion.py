"""The one score of the field: a confusion matrix over the whole set, and IoU read off it.

Definition (printed with every score): a class counts when TP + FP + FN > 0. A class absent from
truth and prediction has no IoU (``None``) and stays out of the mean; every other class counts.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import DataError

# Counting on a GPU adds into this many copies of the matrix: a picture is mostly one class, and
# thousands of threads adding to one cell wait for one another.
_COPIES = 64
# OpenCV hands its counts out in float32, which is exact up to here.
_EXACT = 2**24


class ConfusionMatrix:
    """Counts pixels by (truth, prediction) in int64; rows are truth, columns are prediction.

    Pixels labelled ``ignore_label`` are in no cell, whatever was predicted there.
    """

    def __init__(self, num_classes: int, ignore_label: int, device: torch.device | str) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        # Two cells beyond the matrix: ignored pixels, and values that belong in no cell.
        cells = num_classes * num_classes + 2
        self._counts = torch.zeros(cells, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count ``prediction`` against ``label``: integer tensors of one shape, any width.

        Never waits for the device; values out of range are reported by ``matrix``. Bytes are
        counted as they are, everything else is widened first. Raises ValueError for two shapes.
        """
        if prediction.shape != label.shape:
            shapes = f"{list(prediction.shape)} and {list(label.shape)}"
            raise ValueError(f"a prediction and a label of different shapes: {shapes}")
        if prediction.dtype == label.dtype == torch.uint8:
            truth, found = (t.to(self._counts.device).flatten() for t in (label, prediction))
            table = _lines if truth.device.type == "cpu" else _lanes
            self._counts += self._cells(table(truth, found))
            return
        truth = label.to(self._counts.device, torch.int64).flatten()
        found = prediction.to(self._counts.device, torch.int64).flatten()
        classes = self.num_classes
        ignored, foul = classes * classes, classes * classes + 1
        # In uint8 the next line would be taken modulo 256: hence int64 above.
        cell = truth * classes + found
        fits = (truth >= 0) & (truth < classes) & (found >= 0) & (found < classes)
        cell = torch.where(fits, cell, foul)
        cell = torch.where(truth == self.ignore_label, ignored, cell)
        self._counts += _count(cell, self._counts.numel())

    def _cells(self, table: Tensor) -> Tensor:
        """What a table [256, 256] of bytes says, in the cells of this matrix."""
        ignored = torch.zeros((), dtype=torch.int64, device=table.device)
        if 0 <= self.ignore_label < len(table):
            ignored = table[self.ignore_label].sum()
            table[self.ignore_label] = 0
        inside = table[: self.num_classes, : self.num_classes]
        return torch.cat([inside.flatten(), torch.stack([ignored, table.sum() - inside.sum()])])

    def add(self, matrix: Tensor) -> None:
        """Add another confusion matrix [C, C] over the same classes."""
        self._counts[:-2] += matrix.to(self._counts.device, torch.int64).flatten()

    def matrix(self) -> Tensor:
        """The counts, int64 [C, C] on the device.

        Raises DataError if a label or a prediction was outside 0..C-1 (and not ignored).
        """
        foul = int(self._counts[-1])
        if foul:
            raise DataError(
                "LABEL-RANGE",
                "confusion matrix",
                f"{foul} pixels have a label or a prediction outside 0..{self.num_classes - 1}",
                f"labels are 0..{self.num_classes - 1} or {self.ignore_label}",
            )
        return self._counts[:-2].view(self.num_classes, self.num_classes).clone()


def _lines(truth: Tensor, found: Tensor) -> Tensor:
    """Pixels by (truth, prediction), int64 [256, 256], of bytes [N] on the CPU."""
    table = torch.zeros((256, 256), dtype=torch.int64)
    for pair in zip(truth.split(_EXACT), found.split(_EXACT), strict=True):
        # Neighbours are mostly one class, and adding to a cell waits for the last addition to it:
        # the next pixel is taken from another quarter.
        quarter = pair[0].numel() // 4
        if quarter:
            parts = [[q.numpy()[None] for q in t.split(quarter)[:4]] for t in pair]
            table += _table(*(cv2.merge(four).reshape(1, -1) for four in parts))
        if pair[0].numel() % 4:
            table += _table(*(t[4 * quarter :].numpy()[None] for t in pair))
    return table


def _table(truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> Tensor:
    counts = cv2.calcHist([truth, found], [0, 1], None, [256, 256], [0, 256, 0, 256])
    return torch.from_numpy(counts).to(torch.int64)


def _lanes(truth: Tensor, found: Tensor) -> Tensor:
    """As ``_lines`` on any device, and without waiting for it."""
    cell = truth.to(torch.int32).mul_(256).add_(found)
    whole = cell.numel() // _COPIES * _COPIES
    lanes = torch.arange(_COPIES, dtype=torch.int32, device=cell.device) * 65536
    cell[:whole].view(-1, _COPIES).add_(lanes)
    counts = torch.zeros(_COPIES * 65536, dtype=torch.int32, device=cell.device)
    one = torch.ones((), dtype=torch.int32, device=cell.device)
    counts.scatter_add_(0, cell.to(torch.int64), one.expand(cell.numel()))
    return counts.view(_COPIES, 256, 256).sum(0)


def _count(cell: Tensor, cells: int) -> Tensor:
    if cell.device.type == "cpu":
        return torch.bincount(cell, minlength=cells)
    # bincount on a GPU reads the largest value back to the host, and so waits for the device.
    lane = torch.arange(cell.numel(), device=cell.device) % _COPIES
    counts = torch.zeros(_COPIES * cells, dtype=torch.int64, device=cell.device)
    counts.scatter_add_(0, lane * cells + cell, torch.ones_like(cell))
    return counts.view(_COPIES, cells).sum(0)


def iou(matrix: Tensor | Sequence[Sequence[int]]) -> list[float | None]:
    """TP / (TP + FP + FN) per class, exact to the last bit; ``None`` for an absent class."""
    rows = rows_of(matrix)
    truth = [sum(row) for row in rows]
    found = [sum(column) for column in zip(*rows, strict=True)]
    union = [truth[c] + found[c] - rows[c][c] for c in range(len(rows))]
    return [rows[c][c] / union[c] if union[c] else None for c in range(len(rows))]


def mean_iou(matrix: Tensor | Sequence[Sequence[int]]) -> float | None:
    """Mean of ``iou`` over the classes that have one; ``None`` if none has."""
    present = [value for value in iou(matrix) if value is not None]
    return sum(present) / len(present) if present else None


def pixel_accuracy(matrix: Tensor | Sequence[Sequence[int]]) -> float | None:
    """Share of counted pixels that are right; ``None`` if none was counted."""
    rows = rows_of(matrix)
    pixels = sum(map(sum, rows))
    return sum(rows[c][c] for c in range(len(rows))) / pixels if pixels else None


def rows_of(matrix: Tensor | Sequence[Sequence[int]]) -> list[list[int]]:
    # Python's integers neither round nor overflow.
    return matrix.tolist() if isinstance(matrix, Tensor) else [list(row) for row in matrix]
