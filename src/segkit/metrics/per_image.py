"""Counts of every image by itself: to find the worst ones, and to draw images with replacement.

The mean over images of an image's own IoU is another number than the IoU of the data set (a class
that is rare in an image weighs as much as one that fills it), and no score of this toolkit. The
counts themselves add up to the data set's.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.metrics.derived import ious, mean
from segkit.metrics.label_maps import Labelled, histogram, label_maps


class PerImage:
    """Pixels of every class in every image: right, wrongly found, missed.

    ``counts`` is int64 [images, C, 3] (TP, FP, FN); the row of an image that was not seen is 0.
    """

    def __init__(self, images: int, num_classes: int, ignore_label: int) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self._counts = torch.zeros((images, num_classes, 3), dtype=torch.int64)

    def update(self, sample: Labelled, prediction: Tensor) -> None:
        truth, found = label_maps(sample, prediction, self.ignore_label)
        right = np.where(truth == found, truth, self.ignore_label)
        hit, here, said = (histogram(m, self.num_classes) for m in (right, truth, found))
        rows = np.stack([hit, said - hit, here - hit], axis=1)
        self._counts[sample.index] = torch.from_numpy(rows)

    def counts(self) -> Tensor:
        return self._counts


def image_miou(counts: Tensor) -> float | None:
    """Mean IoU in one image, of its ``counts`` [C, 3]: over the classes that are in the truth or
    in the prediction there; ``None`` where all is void."""
    return mean(ious(*_columns(counts)))


def images_document(
    counts: Tensor, ids: list[str], classes: tuple[str, ...]
) -> dict[str, list[Any]]:
    """The content of ``images.json``; ``counts`` [images, C, 3] has a row for each of ``ids``."""
    images = [
        {"id": name, "miou": image_miou(row)}
        | dict(zip(("tp", "fp", "fn"), row.T.tolist(), strict=True))
        for name, row in zip(ids, counts, strict=True)
    ]
    return {"classes": list(classes), "images": images}


def _columns(counts: Tensor) -> tuple[list[int], list[int], list[int]]:
    right, wrong, missed = counts.T
    return right.tolist(), (right + missed).tolist(), (right + wrong).tolist()
