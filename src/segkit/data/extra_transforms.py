"""Albumentations transforms of the user's own, by name.

Only this file imports albumentations; it takes a second, so it is imported where one is asked for.
"""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

# At its first import albumentations asks a server for its newest version; nothing here may.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segkit.errors import ConfigError

EXTRA_KEY = "augment.extra"

ExtraTransform = str | Mapping[str, Mapping[str, Any]]


class ExtraTransforms:
    """The transforms that ``specs`` name, ``"GaussNoise"`` or ``{"Rotate": {"limit": 10}}``.

    They are called one by one and not through ``A.Compose``, which would seed all of them alike.
    Raises ``ConfigError`` for one that does not exist or cannot be made so.
    """

    def __init__(self, specs: Sequence[ExtraTransform]) -> None:
        self._transforms = [_transform(number, spec) for number, spec in enumerate(specs)]

    def __call__(
        self, rgb: np.ndarray, label: np.ndarray, seeds: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [h,w,3] and labels [h,w] through every transform, each with a seed of its own."""
        for transform, seed in zip(self._transforms, seeds, strict=True):
            transform.set_random_seed(seed)
            result = transform(image=rgb, mask=label)
            rgb, label = result["image"], result["mask"]
        return rgb, label


def _transform(number: int, spec: ExtraTransform) -> A.BasicTransform:
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
