"""What the network says about the images of a search, kept on the disk: it is asked once."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from segkit.data.dataset import Dataset
from segkit.data.loader import read_sample
from segkit.report.names import prediction_path
from segkit.whole_files import clean, write_whole


class Probabilities:
    """float16 [C, H, W] of each image of ``dataset``, one file each below ``out``.

    ``asked`` names what was asked of the network. A file holds the sum of its image's bytes, and is
    no longer taken once they change. What a killed process left half-written is removed. ``seen``
    is a sum of all images and labels that ``missing`` has looked at.
    """

    def __init__(self, out: Path, asked: str, dataset: Dataset, classes: int) -> None:
        self._out, self._asked, self._dataset, self._classes = out, asked, dataset, classes
        self.seen = 0
        clean(self._path(0).parent)

    def missing(self) -> Iterator[tuple[int, bool]]:
        """Looks at every image: its index, and whether its probabilities have to be made."""
        for index in range(len(self._dataset)):
            rgb, label = read_sample(self._dataset, index)
            self.seen = zlib.crc32(label.tobytes(), zlib.crc32(rgb.tobytes(), self.seen))
            found = self._read(index)
            shape = (self._classes, *rgb.shape[:2])
            yield index, found is None or found[0].shape != shape or found[1] != _sum(rgb)

    def load(self, index: int) -> NDArray[np.float32]:
        found = self._read(index)
        assert found is not None, "missing() was asked before"
        return found[0].astype(np.float32)

    def keep(self, index: int, rgb: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
        buffer = io.BytesIO()
        half = probabilities.astype(np.float16)
        np.savez(buffer, probabilities=half, image=np.uint32(_sum(rgb)))
        write_whole(self._path(index), buffer.getvalue())

    def _read(self, index: int) -> tuple[NDArray[np.float16], int] | None:
        try:
            with np.load(self._path(index), allow_pickle=False) as file:
                return file["probabilities"], int(file["image"])
        except (OSError, EOFError, ValueError, KeyError, BadZipFile):
            return None

    def _path(self, index: int) -> Path:
        return prediction_path(self._out, f"probabilities/{self._asked}/{index:06d}", ".npz")


def _sum(rgb: NDArray[np.uint8]) -> int:
    return zlib.crc32(rgb.tobytes())
