"""The file that holds a data set's decoded pixels, and the data set that reads them out of it.

    header   magic, content key, count, where the table begins, the CRC-32 of table and header
    samples  RGB uint8 [H,W,3], then labels uint8 or uint16 [H,W], each at a multiple of 64
    table    for each sample: place, height, width, bytes of a label, CRC-32 of image and labels

Header and table are verified when the file is opened, a sample when it is read for the first time
by any worker of this process: 1 ms for 4 MB, once in a training.
"""

import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segkit.data.bars import size
from segkit.data.loader import Dataset
from segkit.data.workers import shared_array
from segkit.errors import DataError, EnvironmentFault

FIRST, ALIGN = 4096, 64
ENTRY = np.dtype(
    [
        ("place", "<i8"), ("height", "<i4"), ("width", "<i4"), ("label_bytes", "<i4"),
        ("image_crc", "<u4"), ("label_crc", "<u4"),
    ]
)  # fmt: skip

_MAGIC = b"segkit cache 1\n\n"
_HEADER = struct.Struct("<16s32sQQII")
_CHUNK = 2**20

Say = Callable[[str], None]


class Cached:
    """``dataset`` with its pixels out of the open file ``handle``, which it closes in the end.

    ``read`` gives read-only views. Raises ``DataError`` CACHE for a sample that does not match its
    checksum.
    """

    def __init__(self, dataset: Dataset, handle: int, table: np.ndarray, name: str) -> None:
        self.labels, self.ids = dataset.labels, dataset.ids
        self._handle, self._table, self._name = handle, table, name
        self._mapped = mmap.mmap(handle, 0, prot=mmap.PROT_READ)
        # Shared, so that what one worker has verified no other one does.
        self._verified = shared_array((len(table),), np.uint8)
        weakref.finalize(self, os.close, handle)

    def __len__(self) -> int:
        return len(self._table)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB uint8 [H,W,3] and labels uint8 or uint16 [H,W]."""
        if not self._verified[index]:
            self._verify(index)
        place, height, width, label_bytes = self._table[index].tolist()[:4]
        rgb = np.ndarray((height, width, 3), np.uint8, self._mapped, place)
        kind = np.dtype(f"<u{label_bytes}")
        place = aligned(place + rgb.nbytes)
        return rgb, np.ndarray((height, width), kind, self._mapped, place)

    def _verify(self, index: int) -> None:
        place, height, width, label_bytes, *expected = self._table[index].tolist()
        after = place + 3 * height * width
        # Not through the map: a whole sample would stay in this process's memory.
        found = [
            _checksum(self._handle, place, 3 * height * width),
            _checksum(self._handle, aligned(after), label_bytes * height * width),
        ]
        if found != expected or not label_bytes:
            what = f"sample {self.ids[index]} does not match its checksum"
            raise DataError("CACHE", self._name, what, "remove the file; it is made again")
        self._verified[index] = 1


def opened(dataset: Dataset, path: Path, key: str, say: Say) -> Cached | None:
    """The cache at ``path``; None where there is none, or one that is to be made again."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnvironmentFault("WRITE", path, f"cannot be read ({error.strerror})") from error
    table = _table(handle, key, len(dataset))
    if table is None:
        os.close(handle)
        say(f"{path} is damaged and is made again")
        return None
    say(f"dataset.cache=disk: {path} ({size(path.stat().st_size)})")
    return Cached(dataset, handle, table, str(path))


def finish(handle: int, key: str, table: np.ndarray) -> None:
    """Table and header: only now is it a cache."""
    place = os.fstat(handle).st_size
    write(handle, table.tobytes(), place)
    os.fsync(handle)
    os.pwrite(handle, _header(key, table, place), 0)
    os.fsync(handle)


def _header(key: str, table: np.ndarray, place: int) -> bytes:
    fields = (_MAGIC, key.encode(), len(table), place, zlib.crc32(table.tobytes()))
    own = zlib.crc32(_HEADER.pack(*fields, 0))
    return _HEADER.pack(*fields, own)


def _table(handle: int, key: str, count: int) -> np.ndarray | None:
    """The table of a sound cache of ``key``, or None."""
    head = os.pread(handle, _HEADER.size, 0)
    length = os.fstat(handle).st_size
    if len(head) < _HEADER.size:
        return None
    place = _HEADER.unpack(head)[3]
    if place + count * ENTRY.itemsize != length:
        return None
    table = np.frombuffer(os.pread(handle, count * ENTRY.itemsize, place), ENTRY)
    if head != _header(key, table, place):
        return None
    pixels = table["height"].astype(np.int64) * table["width"]
    ends = table["place"] + pixels * (3 + table["label_bytes"]) + ALIGN
    sound = np.isin(table["label_bytes"], (0, 1, 2)) & (pixels >= 0) & (ends <= place + ALIGN)
    return table if bool(sound.all()) else None


def _checksum(handle: int, place: int, length: int) -> int:
    found = 0
    for begin in range(place, place + length, _CHUNK):
        found = zlib.crc32(os.pread(handle, min(_CHUNK, place + length - begin), begin), found)
    return found


def write(handle: int, content: memoryview | bytes, place: int) -> None:
    """All of ``content`` at ``place``: near a full disk the system may take less at a time."""
    rest = memoryview(content)
    while rest:
        count = os.pwrite(handle, rest, place)
        rest, place = rest[count:], place + count


def aligned(place: int) -> int:
    return -(-place // ALIGN) * ALIGN
