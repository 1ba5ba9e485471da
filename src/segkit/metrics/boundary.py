"""Boundary IoU and the boundary F-score, per class.

Both compare binary masks of one class, in the truth and in the prediction, each without the
truth's void pixels: what is predicted where nobody knows is neither right nor wrong.

*Boundary IoU* (Cheng et al. 2021): the pixels of a mask no further than d from its contour, in
chessboard distance, where the contour also runs along the image's border; d is 2 % of the image's
diagonal, rounded, at least one pixel. Intersection and union of these strips in truth and
prediction are summed over the data set, as for the IoU itself.

*Boundary F* (Csurka et al. 2013; Perazzi et al. 2016): precision is the share of the prediction's
contour pixels with one of the truth's within the tolerance (Euclid), recall the converse,
F = 2PR / (P + R). A contour pixel is a pixel of the mask with one of its four neighbours outside
of the mask; the image's border is none. The tolerance is 0.75 % of the diagonal, at least one
pixel. A class's score is the mean over the images where truth or prediction has the class; it is 0
where only one of them has, or only one has a contour.
"""

import math

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from segkit.metrics.derived import Scores, quotient
from segkit.metrics.label_maps import Labelled, histogram, label_maps

WIDTH = 0.02  # of the diagonal: d of the boundary IoU
TOLERANCE = 0.0075  # of the diagonal

# F of an image is added up in units of 2**-40: whole numbers give the same bits in any order.
_ONE = 2**40


class Boundary:
    """Per class: intersection and union of the strips, sum of F, images that have the class.

    ``width`` and ``tolerance`` are shares of the diagonal. ``counts`` is int64 [C, 4].
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int,
        width: float = WIDTH,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.width, self.tolerance = width, tolerance
        self._counts = np.zeros((num_classes, 4), np.int64)

    def update(self, sample: Labelled, prediction: Tensor) -> None:
        truth, found = label_maps(sample, prediction, self.ignore_label)
        diagonal = math.hypot(*truth.shape)
        self._add_strips(truth, found, max(1, round(self.width * diagonal)))
        self._add_f(truth, found, max(1.0, self.tolerance * diagonal))

    def _add_strips(self, truth: np.ndarray, found: np.ndarray, width: int) -> None:
        t, f = (np.where(strip(m, width), m, self.ignore_label) for m in (truth, found))
        both = histogram(np.where(t == f, t, self.ignore_label), self.num_classes)
        either = histogram(t, self.num_classes) + histogram(f, self.num_classes) - both
        self._counts[:, 0] += both
        self._counts[:, 1] += either

    def _add_f(self, truth: np.ndarray, found: np.ndarray, tolerance: float) -> None:
        t, f = (contours(m, self.num_classes) for m in (truth, found))
        recalled = self._per_class(t[_near(t, f, tolerance)])
        exact = self._per_class(f[_near(f, t, tolerance)])
        count_t, count_f = self._per_class(t), self._per_class(f)
        has_t, has_f = (histogram(m, self.num_classes) > 0 for m in (truth, found))
        # Without a contour a class fills all that counts: then the other, if it has none, does so.
        filled = has_t & has_f & (count_t + count_f == 0)
        recall = np.where(filled, 1.0, recalled / np.maximum(count_t, 1))
        precision = np.where(filled, 1.0, exact / np.maximum(count_f, 1))
        score = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        self._counts[:, 2] += np.rint(score * _ONE).astype(np.int64)
        self._counts[:, 3] += has_t | has_f

    def _per_class(self, points: np.ndarray) -> np.ndarray:
        return np.bincount(points[:, 2], minlength=self.num_classes)

    def counts(self) -> Tensor:
        return torch.from_numpy(self._counts)


def strip(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels [H, W] no further than ``width`` (chessboard) from another label or from outside.

    One pass for all classes: a window around a pixel holds another label where its largest and
    its smallest value differ.
    """
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    near: np.ndarray = cv2.dilate(labels, window) != cv2.erode(labels, window)
    near[:width] = near[-width:] = True
    near[:, :width] = near[:, -width:] = True
    return near


def contours(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The contour pixels of all classes, int64 [N, 3]: y, x, class."""
    edge = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        other = labels[a] != labels[b]
        edge[a] |= other
        edge[b] |= other
    edge &= labels < num_classes
    y, x = np.nonzero(edge)
    return np.stack([y, x, labels[y, x]], axis=1).astype(np.int64)


def _near(points: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """Which of ``points`` [N, 3] (y, x, class) have one of ``others``, of their own class, within
    ``tolerance``; bool [N]."""
    near = np.zeros(len(points), bool)
    if not len(points) or not len(others):
        return near
    # Classes lie further apart than the tolerance in a third dimension: one search for them all.
    apart = np.array([1, 1, 2 * math.ceil(tolerance) + 2])
    tree = cKDTree(others * apart, compact_nodes=False, balanced_tree=False)
    # The search leaves out what is exactly at its limit.
    far, _ = tree.query(points * apart, distance_upper_bound=tolerance + 1e-9)
    near[:] = np.isfinite(far)
    return near


def boundary_iou(counts: Tensor) -> Scores:
    """Boundary IoU per class; ``None`` for a class absent from truth and prediction."""
    return [quotient(both, either) for both, either, *_ in counts.tolist()]


def boundary_f(counts: Tensor) -> Scores:
    """Boundary F per class; ``None`` for a class absent from truth and prediction."""
    return [quotient(score, images * _ONE) for *_, score, images in counts.tolist()]
