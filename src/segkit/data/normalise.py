"""From RGB bytes to the network's input: the same table for training, evaluation and prediction."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

# ImageNet statistics in RGB, of values scaled to 0..1: torchvision's, which its weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(rgb: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(rgb / 255 − mean) / std of uint8 [H,W,3], as float32 [H,W,3]."""
    return cv2.LUT(rgb, _table(tuple(mean), tuple(std)))


def denormalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The inverse for pictures: float [3,H,W] to uint8 RGB [H,W,3]."""
    unit = image.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
    return np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    values = np.arange(256, dtype=np.float64)[:, None] / 255
    return ((values - np.array(mean)) / np.array(std)).astype(np.float32)[None]
