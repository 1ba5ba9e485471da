"""The images that a report shows: which ones, and their small pictures.

Label maps wait as small PNGs in a temporary file while the evaluation runs: which images are the
worst, the median and the best is known at its end only.
"""

import io
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from segkit.report.pictures import Labels, Rgb, colourise, encode_png, error_map

WIDEST, HIGHEST = 480, 720  # pixels of a small picture
EACH = 4  # images of a group
ROOM = 1 << 28  # bytes that the temporary file may take
_QUALITY = 82  # of a photo's JPEG


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery; ``miou`` and ``accuracy`` (0..1) are this image's own.

    ``photo`` is a JPEG; ``truth``, ``prediction`` and ``error`` are PNGs of its size.
    """

    id: str
    miou: float
    accuracy: float
    width: int
    height: int
    photo: bytes
    truth: bytes
    prediction: bytes
    error: bytes


@dataclass(frozen=True)
class Group:
    """Images under one heading; of ``left_out`` more the prediction was not kept."""

    title: str
    exhibits: Sequence[Exhibit]
    left_out: int = 0


def choose(miou: Sequence[float], each: int = EACH) -> dict[str, list[int]]:
    """Indices of the ``each`` worst, median and best images by their own mean IoU, by heading.

    NaN: no labelled pixel. With no more images than three groups take, all of them in one group.
    The worst comes first, of equal ones the lower index.
    """
    order = [i for _, i in sorted((v, i) for i, v in enumerate(miou) if not math.isnan(v))]
    if len(order) <= 3 * each:
        return {"All images, worst first": order} if order else {}
    middle = (len(order) - each) // 2
    groups = {"Worst": order[:each], "Median": order[middle : middle + each]}
    return groups | {"Best": order[-each:]}


def small_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a small picture: never larger than the image."""
    factor = min(1.0, WIDEST / width, HIGHEST / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def shrunk(labels: Tensor) -> Tensor:
    """Labels [H, W] at every so many pixels, on their own device."""
    height, width = small_size(*labels.shape)
    rows = _centres(labels.shape[0], height).to(labels.device)
    columns = _centres(labels.shape[1], width).to(labels.device)
    return labels[rows][:, columns]


def _centres(side: int, count: int) -> Tensor:
    """Of each of ``count`` equal parts of a side, the pixel in the middle."""
    return ((torch.arange(count) + 0.5) * (side / count)).long().clamp_(max=side - 1)


class Spool:
    """Small label maps of any number of images, by index; a context manager.

    At most ``room`` bytes in a temporary file: what comes after, and what the disk does not take,
    is not kept. A report must not cost an evaluation its score.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room, self._end = room, 0
        self._places: dict[int, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Spool":
        with suppress(OSError):
            self._file = tempfile.TemporaryFile(prefix="segkit-")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def keep(self, index: int, labels: Tensor) -> None:
        """Take the label map [H, W] of image ``index``."""
        data = _packed(shrunk(labels).cpu().numpy())
        if self._file is None or self._end + len(data) > self._room:
            return
        with suppress(OSError):
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
            self._places[index] = (self._end, len(data))
            self._end += len(data)

    def taken(self, index: int) -> bytes:
        """The PNG kept for image ``index``; empty where there is none."""
        if index not in self._places or self._file is None:
            return b""
        start, length = self._places[index]
        self._file.seek(start)
        return self._file.read(length)


def _packed(labels: Labels) -> bytes:
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    return encode_png(Image.fromarray(np.ascontiguousarray(labels, kind)))


def exhibit(
    name: str,
    rgb: Rgb,
    truth: Labels,
    prediction: bytes,
    *,
    miou: float,
    accuracy: float,
    colours: ArrayLike,
    ignore: int,
) -> Exhibit:
    """The small pictures of one image, whose ``prediction`` is what a ``Spool`` kept."""
    found = np.asarray(Image.open(io.BytesIO(prediction))).astype(np.int64)
    labels = shrunk(torch.from_numpy(np.asarray(truth).astype(np.int64))).numpy()
    height, width = labels.shape
    return Exhibit(
        name,
        miou,
        accuracy,
        width,
        height,
        _jpeg(rgb, (width, height)),
        *(
            encode_png(Image.fromarray(picture))
            for picture in (
                colourise(labels, colours, ignore),
                colourise(found, colours, ignore),
                error_map(labels, found, ignore),
            )
        ),
    )


def _jpeg(rgb: Rgb, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    photo = Image.fromarray(rgb)
    if photo.size != size:
        photo = photo.resize(size, Image.Resampling.BOX)
    photo.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
