"""Label maps as the archive that is uploaded: whole or absent, and the same bytes each time."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from segkit.data.files import open_file
from segkit.whole_files import faults, sync_folder, temporary

_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the oldest day that a zip can name
_MODE = 0o644


def pack(path: Path, members: Mapping[str, Path]) -> None:
    """Put the files ``members`` (name -> place) into a .tgz or .zip, sorted by name, without dates.

    Raises ``EnvironmentFault``, and ``DataError`` for a file that is not there.
    """
    needed = sum(place.stat().st_size for place in members.values() if place.is_file())
    with _new(path, needed) as file, faults(path, needed):
        write = _write_zip if path.suffix == ".zip" else _write_tgz
        write(file, members)


def _write_tgz(file: BinaryIO, members: Mapping[str, Path]) -> None:
    # PNGs are packed already: a low level is as small, and fast.
    with (
        gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in _contents(members):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), _MODE
            archive.addfile(member, io.BytesIO(content))


def _write_zip(file: BinaryIO, members: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _contents(members):
            member = zipfile.ZipInfo(name, _EARLIEST)
            member.create_system, member.external_attr = 3, _MODE << 16
            archive.writestr(member, content)


def _contents(members: Mapping[str, Path]) -> Iterator[tuple[str, bytes]]:
    for name in sorted(members):
        with open_file(members[name]) as file:
            yield name, file.read()


@contextmanager
def _new(path: Path, needed: int) -> Iterator[BinaryIO]:
    """A file that gets its name at the end, or is gone."""
    fresh = temporary(path)
    with faults(path, needed):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(fresh, flags, 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            with faults(path, needed):
                file.flush()
                os.fsync(file.fileno())
        with faults(path, needed):
            fresh.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
