"""Files of a data set on their way to their place: whole under their name, or not there.

Nothing here waits for the disk: ten thousand small files would take minutes. ``settle`` waits once,
before what has been written gets its final name.
"""

import errno
import os
from pathlib import Path
from typing import IO

from segkit.data.bars import size
from segkit.data.files import open_file
from segkit.errors import EnvironmentFault
from segkit.whole_files import faults, free_bytes, temporary, write_all

_CHUNK = 1 << 20
_NO_CLONING = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def put(path: Path, data: bytes, work: Path | None = None) -> None:
    """Write a small file, replacing one of that name.

    What a kill leaves of it lies in ``work``, of the same file system, or else beside ``path``.
    """
    fresh = temporary((work or path.parent) / path.name)
    with faults(path, len(data)):
        handle = os.open(fresh, _FLAGS, 0o666)
        try:
            write_all(handle, data)
        finally:
            os.close(handle)
        fresh.replace(path)


def put_stream(path: Path, content: IO[bytes], limit: int) -> int:
    """Write a new file from a stream, at most a byte over ``limit``; returns the bytes written."""
    written = 0
    with faults(path, limit):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, _FLAGS, 0o666)
    try:
        while chunk := content.read(min(_CHUNK, limit + 1 - written)):
            with faults(path, limit):
                write_all(handle, chunk)
            written += len(chunk)
    finally:
        os.close(handle)
    return written


def link_or_copy(source: Path, path: Path, work: Path | None = None, *, link: bool = False) -> bool:
    """``source`` under another name: a copy, or with ``link`` a hard link where the file system
    takes one; returns whether it is one.

    Lists are copied always: people edit them in place. ``work`` is as for ``put``. Raises
    ``DataError`` for a source that is no plain file.
    """
    with faults(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
    if link and path.suffix != ".txt" and source.is_file():
        try:
            os.link(source.resolve(), path)
            return True
        except OSError:
            pass
    fresh = temporary((work or path.parent) / path.name)
    with open_file(source) as content, faults(path, known := os.fstat(content.fileno()).st_size):
        if not _cloned(content, fresh, known):
            put_stream(fresh, content, known)
        fresh.replace(path)
    return False


def _cloned(content: IO[bytes], path: Path, size: int) -> bool:
    """Copy within the kernel, which shares the blocks where the file system can.

    False, with nothing left behind, where it cannot at all; faults of the disk are raised.
    """
    if not hasattr(os, "copy_file_range"):
        return False
    handle = os.open(path, _FLAGS, 0o666)
    done = 0
    try:
        while done < size and (some := os.copy_file_range(content.fileno(), handle, size - done)):
            done += some
    except OSError as error:
        if error.errno not in _NO_CLONING or done:
            raise
    finally:
        os.close(handle)
    if done < size:
        path.unlink()
        content.seek(0)
    return done == size


def require_room(folder: Path, needed: int, name: str) -> None:
    """``EnvironmentFault`` before the first byte of what does not fit."""
    free = free_bytes(folder)
    if needed > free:
        what = f"{name} needs {size(needed)}, {size(free)} are free"
        raise EnvironmentFault("DISK-FULL", folder, what, "make room, or choose another root=")


def settle() -> None:
    """Wait until everything written so far is on the disk."""
    os.sync()
