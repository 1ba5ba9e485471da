"""From RGB bytes to the network's input: the same table for training, evaluation and prediction."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

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


def mean_pixel(mean: Sequence[float]) -> tuple[int, int, int]:
    """The RGB byte triple nearest to ``mean``: what bytes are padded with.

    Half a grey level off at most; with ImageNet's statistics that is 0.009 of a standard deviation.
    """
    red, green, blue = (round(255 * value) for value in mean)
    return red, green, blue


class Normalise:
    """Bytes [B,3,h,w] on any device to float32, channels last, bit for bit as ``normalise`` does.

    Bytes are a quarter of what floats would be on their way through shared memory and to the
    device; a table gives the same bits everywhere, which arithmetic on a GPU would not.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = tuple(mean), tuple(std)
        # Channel after channel: value v of channel c stands at 256·c + v.
        table = _table(self._mean, self._std)[0].T.flatten()
        self._table, self._offset = torch.from_numpy(table), 256 * torch.arange(3).int()

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1)
        if images.device.type == "cpu":
            count, height, width, _ = pixels.shape
            rows = pixels.reshape(count * height, width, 3).numpy()  # as one tall picture
            made = torch.from_numpy(normalise(rows, self._mean, self._std)).view(pixels.shape)
        else:
            if self._table.device != images.device:
                self._table = self._table.to(images.device)
                self._offset = self._offset.to(images.device)
            places = (pixels.int() + self._offset).flatten()
            made = self._table.index_select(0, places).view(pixels.shape)
        return made.permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    values = np.arange(256, dtype=np.float64)[:, None] / 255
    return ((values - np.array(mean)) / np.array(std)).astype(np.float32)[None]
