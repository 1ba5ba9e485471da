"""How far colour alone gets: a classifier that sees one pixel's RGB and nothing else."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from segkit.data.labels import LabelSet

BITS = 4  # per channel: 16³ colour bins


class Readable(Protocol):
    labels: LabelSet

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


class ColourClassifier:
    """The most frequent class of each RGB bin, and of all pixels where a bin was not seen."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        self.counts = np.zeros((labels.num_classes, 2 ** (3 * BITS)), np.int64)

    def fit(self, samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> "ColourClassifier":
        for rgb, label in samples:
            valid = label != self.labels.ignore_label
            flat = label[valid].astype(np.int64) * self.counts.shape[1] + _bins(rgb)[valid]
            self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        return self

    def predict(self, rgb: np.ndarray) -> np.ndarray:
        """Labels int64 [H,W] of uint8 [H,W,3]."""
        best = self.counts.argmax(axis=0)
        best[self.counts.sum(axis=0) == 0] = self.counts.sum(axis=1).argmax()
        return best[_bins(rgb)]


def colour_miou(
    train: Readable, val: Readable, limit: int = 400
) -> tuple[float, list[float | None]]:
    """mIoU and IoU per class on ``val`` of the classifier fitted on ``train``, in 0..1.

    At most ``limit`` samples of each are read. One confusion matrix over all pixels; a class
    absent from truth and prediction has no IoU and does not count.
    """
    classifier = ColourClassifier(train.labels).fit(_samples(train, limit))
    classes = train.labels.num_classes
    confusion = np.zeros((classes, classes), np.int64)
    for rgb, label in _samples(val, limit):
        valid = label != val.labels.ignore_label
        flat = label[valid].astype(np.int64) * classes + classifier.predict(rgb)[valid]
        confusion += np.bincount(flat, minlength=classes**2).reshape(classes, classes)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = [float(h / n) if n else None for h, n in zip(hits, union, strict=True)]
    return float(np.mean([value for value in iou if value is not None])), iou


def _samples(dataset: Readable, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return (dataset.read(index) for index in range(min(limit, len(dataset))))


def _bins(rgb: np.ndarray) -> np.ndarray:
    high = (rgb >> (8 - BITS)).astype(np.int64)
    return (high[..., 0] << 2 * BITS) | (high[..., 1] << BITS) | high[..., 2]
