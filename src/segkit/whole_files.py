"""Files that are whole or absent: every write under a final name goes through here.

A leaf: checkpoints and run records, predictions and reports are written by the same few lines.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segkit.errors import EnvironmentFault, RefusedError
from segkit.limits import fault_of

LEFTOVER = r"\..*\.[0-9a-f]{12}\.tmp"  # what ``temporary`` makes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary(path: Path) -> Path:
    """A name beside ``path`` that nobody can have waited at; ``clean`` removes left-overs.

    Only the start of the own name: a file's may be as long as the file system takes.
    """
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")


def write_whole(path: Path, data: bytes, check: Callable[[bytes], None] | None = None) -> None:
    """Put ``data`` at ``path``: after a kill at any moment the old content or the new is there.

    A link at ``path`` is replaced, never followed. Raises EnvironmentFault (disk full,
    unwritable, folder gone), with ``path`` untouched. ``check`` is given what can be read back
    before it has its name; what it raises leaves ``path`` untouched, too.
    """
    fresh = temporary(path)
    with faults(path, len(data)):
        try:
            write_new(fresh, data)
            if check is not None:
                check(fresh.read_bytes())
            fresh.replace(path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Create ``path`` with ``data`` and wait until it is on the disk; never follows a link."""
    write_parts(path, [memoryview(data)])


def write_parts(path: Path, parts: Iterable[memoryview]) -> None:
    """``write_new`` for what is not in memory as a whole: ``parts`` (of bytes) one by one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0) as file:
        for part in parts:
            write_all(file.fileno(), part)
        os.fsync(file.fileno())


def append(path: Path, data: bytes) -> None:
    """Add all of ``data`` to an existing file and wait for the disk, or (raising) none of it.

    A missing file stays missing.
    """
    with faults(path, len(data)):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            try:
                write_all(handle, data)
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """``os.write`` may take less than it is given, the more so near a full disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_links(root: Path, path: Path) -> None:
    """Raise RefusedError if a link stands below ``root`` on the way to ``path``, or at it.

    ``root`` itself may be one: where a run lies is the user's own choice.
    """
    steps = [path, *path.parents]
    for step in steps[: steps.index(root)]:
        if step.is_symlink():
            what = "is a link, where a run writes files of its own"
            raise RefusedError("PATH-LINK", step, what, "remove it")


def clean(folder: Path) -> list[str]:
    """Remove what killed writers left in ``folder``; returns the names."""
    found = sorted(folder.glob(".*.tmp"))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [path.name for path in found]


@contextmanager
def faults(path: Path, needed: int) -> Iterator[None]:
    """Turn an OSError while writing ``needed`` bytes to ``path`` into an EnvironmentFault."""
    try:
        yield
    except OSError as error:
        raise fault_of(error) or _fault(error, path, needed) from error


def _fault(error: OSError, path: Path, needed: int) -> EnvironmentFault:
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return EnvironmentFault("RUN-GONE", path.parent, "the folder is not there (any more)")
    if error.errno in FULL:
        return EnvironmentFault(
            "DISK-FULL",
            path,
            f"{os.strerror(error.errno)}: needs {needed} bytes, {free_bytes(path.parent)} are free",
            "make room, then type the command again (a training with resume=true)",
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return EnvironmentFault("NO-FOLDER", path, "a file stands where a folder belongs")
    what = f"cannot be written ({error.strerror or error})"
    return EnvironmentFault("WRITE", path, what, f"needs {needed} bytes in a writable folder")


def free_bytes(folder: Path) -> int:
    """What the file system of ``folder`` has left; 0 if the folder went with the room."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0
