"""iIoU of Cityscapes: IoU in which every instance weighs as much as one of average size.

Cordts et al. 2016, section 4: iIoU = iTP / (iTP + FP + iFN), where each pixel of iTP and iFN
weighs the average size of its class's instances over the size of its own instance. FP is not
weighted, for a prediction has no instances. Equal to cityscapesScripts'
evalPixelLevelSemanticLabeling.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from segkit.errors import DataError
from segkit.metrics.confusion import rows_of
from segkit.metrics.derived import Matrix, merged
from segkit.metrics.label_maps import Labelled, found_map

PER_CLASS = 1000  # an instance is named class * PER_CLASS + number

# Average size of an instance in pixels of 2048×1024 images: the constants of the benchmark
# (avgClassSize of cityscapesScripts 2.2.4, evalPixelLevelSemanticLabeling.py).
AVERAGE_SIZES = {
    "bicycle": 4672.3249222261,
    "motorcycle": 6298.7200839748,
    "rider": 3930.4788056518,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "car": 12794.0202738185,
    "person": 3462.4756337644,
    "truck": 27855.1264367816,
}

# A share of an instance is counted in units of 2**-42: whole numbers add up to the same bits in
# any order, two million instances of a class fit, and the error stays below 1.2e-13 of one.
_ONE = 2**42


class Instances:
    """Per class: instances, the sum of their shares that are found, and found in their category.

    ``instances(index)`` gives the instance map of an image, integers [H, W] (``class * 1000 +
    number``, negative where there is none), or None where there is no such map. ``categories``
    has the category of every class. ``counts`` is int64 [C + 1, 3]; the last row has the images
    with and without a map.
    """

    def __init__(
        self, instances: Callable[[int], np.ndarray | None], categories: Sequence[str]
    ) -> None:
        self._instances, self._classes = instances, len(categories)
        names = list(dict.fromkeys(categories))
        self._category = np.array([names.index(name) for name in categories])
        self._counts = np.zeros((len(categories) + 1, 3), np.int64)

    def update(self, sample: Labelled, prediction: Tensor) -> None:
        ids = self._instances(sample.index)
        self._counts[-1, 0 if ids is not None else 1] += 1
        if ids is None:
            return
        truth = np.asarray(sample.label)
        if ids.shape != truth.shape:
            what = f"instances {ids.shape}, label {truth.shape}"
            raise DataError("SIZE", f"sample {sample.index}", what, "both show the same image")
        inside = ids >= 0
        named, found = ids[inside], found_map(truth, prediction)[inside]
        # What lies outside of the classes is refused by the confusion matrix; here it is no hit.
        hit = found < self._classes
        kind, said = named // PER_CLASS, np.where(hit, found, 0)
        size = np.bincount(named, minlength=self._classes * PER_CLASS)
        same = hit & (kind == said)
        akin = hit & (self._category[kind] == self._category[said])
        self._add(size, np.bincount(named[same], minlength=len(size)), column=1)
        self._add(size, np.bincount(named[akin], minlength=len(size)), column=2)
        self._counts[:-1, 0] += (size > 0).reshape(self._classes, PER_CLASS).sum(1)

    def _add(self, size: np.ndarray, part: np.ndarray, column: int) -> None:
        shares = np.rint(part / np.maximum(size, 1) * _ONE).astype(np.int64)
        self._counts[:-1, column] += shares.reshape(self._classes, PER_CLASS).sum(1)

    def counts(self) -> Tensor:
        return torch.from_numpy(self._counts)


def without_map(counts: Tensor) -> int:
    """How many images had no instance map; the scores are for sets in which each has one."""
    return int(counts[-1, 1])


def class_iiou(counts: Tensor, matrix: Matrix, names: Sequence[str]) -> dict[str, float | None]:
    """iIoU of every class that has instances; ``None`` where it is neither in the truth as an
    instance nor wrongly predicted. ``matrix`` is the confusion matrix of the same images."""
    columns = [list(column) for column in zip(*rows_of(matrix), strict=True)]
    return {
        name: _weighted([(AVERAGE_SIZES[name], *counts[c, :2].tolist())], wrong)
        for c, name in enumerate(names)
        if name in AVERAGE_SIZES
        for wrong in [sum(columns[c]) - columns[c][c]]
    }


def category_iiou(
    counts: Tensor, matrix: Matrix, names: Sequence[str], categories: Sequence[str]
) -> dict[str, float | None]:
    """iIoU of every category whose classes all have instances (human, vehicle).

    A pixel of an instance counts as found where the prediction is of the instance's category.
    """
    scores: dict[str, float | None] = {}
    for category, row in _transposed(merged(matrix, categories)).items():
        members = [c for c, own in enumerate(categories) if own == category]
        if all(names[c] in AVERAGE_SIZES for c in members):
            terms = [(AVERAGE_SIZES[names[c]], *counts[c, [0, 2]].tolist()) for c in members]
            scores[category] = _weighted(terms, sum(row.values()) - row[category])
    return scores


def _weighted(terms: list[tuple[float, int, int]], wrong: int) -> float | None:
    """iTP / (iTP + FP + iFN) of (average size, instances, sum of shares) and FP."""
    right = sum(size * (share / _ONE) for size, _, share in terms)
    whole = sum(size * count for size, count, _ in terms) + wrong
    return right / whole if whole else None


def _transposed(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {found: {truth: counts[truth][found] for truth in counts} for found in counts}
