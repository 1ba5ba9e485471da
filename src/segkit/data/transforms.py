"""Training augmentation: scale, crop, pad, flip (facts 8, "order"), bytes in and bytes out."""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segkit.data.geometry import Window, resample_image, resample_label, scaled_size
from segkit.data.normalise import IMAGENET_MEAN, mean_pixel
from segkit.errors import ConfigError
from segkit.randomness import integer

if TYPE_CHECKING:
    from segkit.data.extra_transforms import ExtraTransforms

CROP_TRIES = 10


class TrainTransform:
    """RGB uint8 [H,W,3] and labels [H,W] to uint8 [h,w,3] and labels [h,w] of the crop's size.

    ``crop`` is a side or (height, width). The scale is continuous in [scale_min, scale_max], or on
    a grid of ``scale_step`` (0.25 in the original code, facts 4.9). ``flip`` is a probability.
    Where a crop's labelled pixels are of one class to more than ``one_class_max``, another is
    drawn, at the same scale and ten times at most. What the scaled image does not fill, right and
    below, is void and the mean pixel in bytes: half a grey level off 0 at most once normalised,
    0.009 of a standard deviation with ImageNet's statistics.
    ``extra`` names albumentations transforms, as ``"GaussNoise"`` or ``{"Rotate": {"limit": 10,
    "fill_mask": 255}}``; they run on the crop and see the picture unpadded.
    Raises ``ConfigError`` for values out of range and transforms that do not exist.
    """

    def __init__(
        self,
        crop: int | Sequence[int],
        scale_min: float = 0.5,
        scale_max: float = 2.0,
        scale_step: float = 0.0,
        flip: float = 0.5,
        one_class_max: float | None = None,
        ignore_label: int = 255,
        mean: Sequence[float] = IMAGENET_MEAN,
        extra: Sequence[str | Mapping[str, Mapping[str, Any]]] = (),
    ) -> None:
        self.size = _size(crop)
        _check_scales(scale_min, scale_max, scale_step)
        _check_shares(flip, one_class_max)
        self.scale_min, self.scale_max, self.scale_step = scale_min, scale_max, scale_step
        self.flip, self.one_class_max, self.ignore_label = flip, one_class_max, ignore_label
        self.fill = mean_pixel(mean)
        self._extra_count, self._extra = len(extra), _extra(extra)

    def __call__(
        self, rgb: np.ndarray, label: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every draw follows from ``seed``."""
        window, truth = self._drawn(label, Random(integer(seed, "transform", 0)))
        picture = resample_image(rgb, window)
        after = self._extra_count + 1
        if self._extra:
            seeds = [integer(seed, "transform", number) for number in range(1, after)]
            picture, truth = self._extra(picture, truth, seeds)
        picture, truth = self._padded(picture, truth)
        if Random(integer(seed, "transform", after + 1)).random() < self.flip:
            picture, truth = cv2.flip(picture, 1), cv2.flip(truth, 1)
        return picture, truth

    def _drawn(self, label: np.ndarray, draw: Random) -> tuple[Window, np.ndarray]:
        """The part of the scaled image that a crop shows, and its labels."""
        scaled = scaled_size(label.shape[0], label.shape[1], self._scale(draw))
        height, width = (min(c, s) for c, s in zip(self.size, scaled, strict=True))
        for _ in range(CROP_TRIES):
            top = draw.randint(0, scaled[0] - height)
            left = draw.randint(0, scaled[1] - width)
            window = Window(scaled, top, left, height, width)
            truth = resample_label(label, window)
            if self.one_class_max is None or self._is_mixed(truth):
                break
        return window, truth

    def _scale(self, draw: Random) -> float:
        if not self.scale_step:
            return draw.uniform(self.scale_min, self.scale_max)
        steps = round((self.scale_max - self.scale_min) / self.scale_step)
        return self.scale_min + self.scale_step * draw.randint(0, steps)

    def _is_mixed(self, label: np.ndarray) -> bool:
        assert self.one_class_max is not None
        counts = np.bincount(label.ravel(), minlength=self.ignore_label + 1)
        counts[self.ignore_label] = 0
        return bool(counts.any() and counts.max() <= self.one_class_max * counts.sum())

    def _padded(self, rgb: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if rgb.shape[:2] == self.size and rgb.dtype == np.uint8:
            return rgb, label
        if rgb.dtype != np.uint8 or rgb.shape[0] > self.size[0] or rgb.shape[1] > self.size[1]:
            what = f"they made {rgb.dtype} {rgb.shape} of a crop of {self.size}"
            raise ConfigError("TRANSFORM", "augment.extra", what, "uint8, not larger than the crop")
        below, right = self.size[0] - rgb.shape[0], self.size[1] - rgb.shape[1]
        edges = (0, below, 0, right, cv2.BORDER_CONSTANT)
        picture = cv2.copyMakeBorder(rgb, *edges, value=self.fill)
        return picture, cv2.copyMakeBorder(label, *edges, value=self.ignore_label)


def _extra(specs: Sequence[Any]) -> "ExtraTransforms | None":
    if not specs:
        return None
    from segkit.data.extra_transforms import ExtraTransforms  # it takes a second to import

    return ExtraTransforms(specs)


def _size(crop: int | Sequence[int]) -> tuple[int, int]:
    sides = (crop, crop) if isinstance(crop, int) else tuple(crop)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigError("RANGE", "augment.crop", f"{crop!r}", "a side of at least 1, or two")
    return sides[0], sides[1]


def _check_scales(low: float, high: float, step: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low <= high):
        what = f"{low} with augment.scale_max={high}"
        raise ConfigError("RANGE", "augment.scale_min", what, "0 < scale_min <= scale_max")
    if not 0 <= step < math.inf:
        raise ConfigError("RANGE", "augment.scale_step", f"{step}", "0 (continuous) or a step")


def _check_shares(flip: float, one_class_max: float | None) -> None:
    if not 0 <= flip <= 1:
        raise ConfigError("RANGE", "augment.flip", f"{flip}", "a probability, 0 to 1")
    if one_class_max is not None and not 0 < one_class_max <= 1:
        fix = "a share above 0 and at most 1, or null"
        raise ConfigError("RANGE", "augment.one_class_max", f"{one_class_max}", fix)
