"""What a data set holds, as a key: what was made of it is used as long as that is the same."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL

from segkit.data.loader import Dataset
from segkit.data.pairs import FilePairs
from segkit.errors import DataError, EnvironmentFault
from segkit.lock import Lock

_PROBES = 8


def cache_folder(typed: str | None) -> Path:
    """``typed``, or ``$XDG_CACHE_HOME/segkit``, without the variable ``~/.cache/segkit``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    place = Path(typed) if typed else home / "segkit"
    try:
        return place.expanduser()
    except RuntimeError:  # nobody's home
        return place


def content_key(dataset: Dataset, described: str) -> str:
    """32 hex digits, of which two data sets have the same if they read the same.

    ``described`` is how the data set is made. Of files it counts each one's name below the root,
    size and time of change: to hash 11 GB of pictures at each start would take a minute, and who
    writes another content with the same size and time does so on purpose. The root does not count,
    so that a data set may be moved. A data set without files is known by how it is made and by
    eight of its samples. Raises ``DataError`` for a file that is gone.
    """
    found = hashlib.sha256()
    for line in (described, PIL.__version__, cv2.__version__, *_lines(dataset)):
        found.update(f"{line}\n".encode())
    if not isinstance(dataset, FilePairs):
        for index in probes(len(dataset)):
            found.update(_pixels(dataset, index))
    return found.hexdigest()[:32]


def probes(count: int) -> list[int]:
    """A few samples, from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, _PROBES))})


def lock(path: Path) -> Lock | None:
    """The lock of who makes ``path``; None if another process has it."""
    try:
        return Lock(path.with_name(f"{path.name}.lock"), "CACHE-LOCKED")
    except EnvironmentFault as fault:
        if fault.name == "CACHE-LOCKED":
            return None
        raise


def _pixels(dataset: Dataset, index: int) -> bytes:
    try:
        return b"".join(np.ascontiguousarray(array).tobytes() for array in dataset.read(index))
    except DataError as error:  # whether that may be is for others to say
        return str(error).encode()


def _lines(dataset: Dataset) -> Iterator[str]:
    yield str(dataset.labels.to_dict())
    yield from map(str, dataset.ids)
    if not isinstance(dataset, FilePairs):
        return
    yield repr((dataset.colour_table, dataset.value_table))
    for index in range(len(dataset)):
        for path in (dataset.image_path(index), dataset.mask_path(index)):
            try:
                status = path.stat()
            except OSError as error:
                raise DataError("MISSING-FILE", path, error.strerror or str(error)) from None
            below = os.path.relpath(path, dataset.root)
            yield f"{below} {status.st_size} {status.st_mtime_ns}"
