"""Training augmentation: scale, pad, crop, flip, normalise (facts 8, "order").

Only this file imports albumentations; it takes a second, and evaluation has no use for it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

# At its first import albumentations asks a server for its newest version; nothing here may.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segkit.data.geometry import Window, resample_image, resample_label, scaled_size
from segkit.data.normalise import IMAGENET_MEAN, IMAGENET_STD, normalise
from segkit.errors import ConfigError
from segkit.randomness import integer

ExtraTransform = str | Mapping[str, Mapping[str, Any]]


class ScaleCrop(A.DualTransform):
    """The part of a random crop of a randomly scaled image that shows the image.

    Smaller than the crop where the scaled image is: ``NormalisePad`` fills the rest.
    """

    def __init__(
        self, crop: tuple[int, int], scale_min: float, scale_max: float, scale_step: float
    ) -> None:
        super().__init__(p=1.0)
        self.crop = crop
        self.scale_min, self.scale_max, self.scale_step = scale_min, scale_max, scale_step

    def get_params_dependent_on_data(
        self,
        params: dict[str, Any],  # noqa: ARG002 (albumentations' signature)
        data: dict[str, Any],
    ) -> dict[str, Any]:
        rows, cols = data["image"].shape[:2]
        scaled = scaled_size(rows, cols, self._scale())
        height, width = (min(c, s) for c, s in zip(self.crop, scaled, strict=True))
        top = self.py_random.randint(0, scaled[0] - height)
        left = self.py_random.randint(0, scaled[1] - width)
        return {"window": Window(scaled, top, left, height, width)}

    def apply(self, img: np.ndarray, window: Window, **_: Any) -> np.ndarray:
        return resample_image(img, window)

    def apply_to_mask(self, mask: np.ndarray, window: Window, **_: Any) -> np.ndarray:
        return resample_label(mask, window)

    def _scale(self) -> float:
        if not self.scale_step:
            return self.py_random.uniform(self.scale_min, self.scale_max)
        steps = round((self.scale_max - self.scale_min) / self.scale_step)
        return self.scale_min + self.scale_step * self.py_random.randint(0, steps)


class NormalisePad(A.DualTransform):
    """Normalise; pad right and bottom with the mean pixel, which is 0, and the ignore label."""

    def __init__(
        self,
        crop: tuple[int, int],
        ignore_label: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__(p=1.0)
        self.crop, self.ignore_label, self.mean, self.std = crop, ignore_label, mean, std

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        if img.dtype != np.uint8 or img.shape[0] > self.crop[0] or img.shape[1] > self.crop[1]:
            what = f"they made {img.dtype} {img.shape} of a crop of {self.crop}"
            raise ConfigError("TRANSFORM", EXTRA_KEY, what, "uint8, not larger than the crop")
        padded = np.zeros((*self.crop, 3), np.float32)
        padded[: img.shape[0], : img.shape[1]] = normalise(img, self.mean, self.std)
        return padded

    def apply_to_mask(self, mask: np.ndarray, **_: Any) -> np.ndarray:
        padded = np.full(self.crop, self.ignore_label, mask.dtype)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        return padded


class TrainTransform:
    """RGB uint8 [H,W,3] and labels [H,W] to float32 [3,h,w] and labels [h,w] of the crop's size.

    ``crop`` is a side or (height, width). The scale is continuous in [scale_min, scale_max], or on
    a grid of ``scale_step`` (0.25 in the original code, facts 4.9). ``flip`` is a probability.
    ``extra`` names albumentations transforms, as ``"GaussNoise"`` or ``{"Rotate": {"limit": 10,
    "fill_mask": 255}}``; they run between crop and normalisation and see the picture unpadded.
    Raises ``ConfigError`` for values out of range and transforms that do not exist.
    """

    def __init__(
        self,
        crop: int | Sequence[int],
        scale_min: float = 0.5,
        scale_max: float = 2.0,
        scale_step: float = 0.0,
        flip: float = 0.5,
        ignore_label: int = 255,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        extra: Sequence[ExtraTransform] = (),
    ) -> None:
        self.size = _size(crop)
        _check_scales(scale_min, scale_max, scale_step)
        if not 0 <= flip <= 1:
            raise ConfigError("RANGE", "augment.flip", f"{flip}", "a probability, 0 to 1")
        self._pipeline = A.Compose(
            [
                ScaleCrop(self.size, scale_min, scale_max, scale_step),
                *(_extra(number, spec) for number, spec in enumerate(extra)),
                NormalisePad(self.size, ignore_label, tuple(mean), tuple(std)),
                A.HorizontalFlip(p=flip),
            ]
        )

    def __call__(
        self, rgb: np.ndarray, label: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every draw follows from ``seed``."""
        # Compose would seed all its transforms alike: the scale would then decide the flip.
        for number, transform in enumerate(self._pipeline.transforms):
            transform.set_random_seed(integer(seed, "transform", number))
        result = self._pipeline(image=rgb, mask=label)
        return result["image"].transpose(2, 0, 1), result["mask"]


EXTRA_KEY = "augment.extra"


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


def _extra(number: int, spec: ExtraTransform) -> A.BasicTransform:
    where = f"{EXTRA_KEY}.{number}"
    if not isinstance(spec, str) and not (isinstance(spec, Mapping) and len(spec) == 1):
        raise ConfigError("TRANSFORM", where, f"{spec!r}", "Name or {Name: {argument: value}}")
    name, arguments = (spec, {}) if isinstance(spec, str) else next(iter(spec.items()))
    known = _transforms()
    if name not in known:
        near = get_close_matches(str(name), known, n=3) or sorted(known)[:3]
        what = f"albumentations has no transform {name!r}"
        raise ConfigError("TRANSFORM", where, what, f"nearest: {', '.join(near)}")
    try:
        return known[name](**(arguments or {}), strict=True)
    except (TypeError, ValueError) as error:
        raise ConfigError("TRANSFORM", where, f"{name}: {error}") from error


def _transforms() -> dict[str, type[A.BasicTransform]]:
    return {
        name: value
        for name, value in vars(A).items()
        if isinstance(value, type)
        and issubclass(value, A.BasicTransform)
        and value.__module__.startswith("albumentations.augmentations.")  # no base classes
    }
