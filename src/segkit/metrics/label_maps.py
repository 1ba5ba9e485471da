"""Truth and prediction of one image as arrays, and counting in them without large copies."""

from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

# Pixels counted in one go. OpenCV counts in float32, which is exact up to 2**24.
_AT_ONCE = 1 << 22


class Labelled(Protocol):
    """A sample of a data set: its place there, and its truth [H, W], whole numbers."""

    @property
    def index(self) -> int: ...
    @property
    def label(self) -> Any: ...


def found_map(truth: np.ndarray, prediction: Tensor) -> np.ndarray:
    """``prediction`` [H, W] in the type of ``truth``, from whatever device.

    A value that does not fit in wraps round; the confusion matrix refuses the whole evaluation
    for it.
    """
    small = torch.uint8 if truth.dtype == np.uint8 else torch.int32
    return prediction.to(small).cpu().numpy().astype(truth.dtype, copy=False)


def label_maps(sample: Labelled, prediction: Tensor, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """(truth, prediction) [H, W] in the truth's type; void pixels are ``ignore`` in both."""
    truth = np.asarray(sample.label)
    if truth.dtype not in (np.uint8, np.uint16):
        truth = truth.astype(np.uint16)
    found = found_map(truth, prediction)
    return truth, np.where(truth == ignore, truth, found)


def histogram(labels: np.ndarray, classes: int) -> np.ndarray:
    """How often each of 0..classes-1 comes in ``labels`` [H, W], int64 [classes]."""
    return _count([labels], [classes])


def joint_histogram(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often each pair of values comes at one place of two maps [H, W], int64 ``shape``.

    Values beyond ``shape`` are not counted.
    """
    return _count([rows.astype(columns.dtype, copy=False), columns], list(shape))


def _count(maps: list[np.ndarray], bins: list[int]) -> np.ndarray:
    # A tenth of what numpy's bincount takes, which would have eight bytes for every pixel.
    counts = np.zeros(bins, np.int64)
    ranges = [float(limit) for size in bins for limit in (0, size)]
    channels = list(range(len(maps)))
    flat = [values.reshape(-1, 1) for values in maps]
    for start in range(0, len(flat[0]), _AT_ONCE):
        part = [values[start : start + _AT_ONCE] for values in flat]
        found = cv2.calcHist(part, channels, None, bins, ranges)
        counts += found.reshape(bins).astype(np.int64)
    return counts
