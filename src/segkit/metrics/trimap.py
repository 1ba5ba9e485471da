"""IoU and accuracy in narrow bands around borders, as a curve over the width of the band.

The papers' experiment (v1 Fig. 5, v2 Fig. 10, v3+ Fig. 5): the ``void`` annotation that lines
VOC's objects is widened, and what lies inside the band is scored.

*around void*: a pixel is in the band of width w where the nearest void pixel of the truth is at
most w pixels away (Euclid, between pixel centres), so that width 1 is what touches void. Void
pixels themselves are in no band.

*around borders*, for truths in which void does not line the classes (CamVid, Cityscapes): a pixel
is in the band of width w where the nearest border pixel is at most w - 1 pixels away; a border
pixel has one of its four neighbours in another class (void is none). So width 1 is the two rows of
pixels along a border, and here as there a band of width w reaches w pixels into a class.
"""

from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from segkit.metrics.derived import ious, mean, quotient
from segkit.metrics.label_maps import Labelled, joint_histogram, label_maps

Around = Literal["void", "borders"]
AROUND: tuple[Around, ...] = ("void", "borders")
WIDTHS = range(1, 41)

# A distance is the root of a whole number: the next one after 40 is 40.012, and the transform's
# own error is far below.
_SLACK = 0.005


class Trimap:
    """Counts pixels by distance and class, both around void and around borders.

    ``counts`` is int64 [2, 40, 3, C]: void or borders, the narrowest band that a pixel is in,
    (right, truth, prediction). The two are told apart by ``curve``.
    """

    def __init__(self, num_classes: int, ignore_label: int) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self._counts = np.zeros((2, len(WIDTHS), 3, num_classes), np.int64)

    def update(self, sample: Labelled, prediction: Tensor) -> None:
        truth, found = label_maps(sample, prediction, self.ignore_label)
        void = truth == self.ignore_label
        self._count(self._counts[0], narrowest(void), truth, found)
        self._count(self._counts[1], narrowest(class_borders(truth, void), first=1), truth, found)

    def _count(
        self, into: np.ndarray, band: np.ndarray | None, truth: np.ndarray, found: np.ndarray
    ) -> None:
        if band is None:
            return
        right = np.where(truth == found, truth, self.ignore_label)
        shape = (len(WIDTHS) + 1, self.num_classes)
        for place, labels in enumerate((right, truth, found)):
            into[:, place] += joint_histogram(band, labels, shape)[1:]  # 0 is the source itself

    def counts(self) -> Tensor:
        return torch.from_numpy(self._counts)


def narrowest(source: np.ndarray, first: int = 0) -> np.ndarray | None:
    """For every pixel [H, W] the width of the narrowest band around ``source`` that it is in,
    uint8, 255 for all beyond; ``first`` is that of ``source`` itself. None without a source."""
    if not source.any():
        return None
    far = cv2.distanceTransform(
        (~source).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dstType=cv2.CV_32F
    )
    # Rounds to the nearest, so that this is the next whole number from the distance on.
    return cv2.convertScaleAbs(far, alpha=1.0, beta=first + 0.5 - _SLACK)


def class_borders(labels: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Pixels [H, W] of a class that have another class above, below, left or right; bool."""
    border = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        other = (labels[a] != labels[b]) & ~(void[a] | void[b])
        border[a] |= other
        border[b] |= other
    return border


def around(counts: Tensor) -> Around:
    """Around what the bands are: void where more pixels touch void than touch another class."""
    touching = counts[:, 0, 1].sum(1).tolist()
    return "void" if touching[0] > touching[1] else "borders"


def curve(counts: Tensor, kind: Around) -> tuple[list[float | None], list[float | None]]:
    """(mIoU, pixel accuracy) for every one of ``WIDTHS``; ``None`` where a band is empty."""
    miou, accuracy = [], []
    for right, truth, found in counts[AROUND.index(kind)].cumsum(0).tolist():
        miou.append(mean(ious(right, truth, found)))
        accuracy.append(quotient(sum(right), sum(truth)))
    return miou, accuracy
