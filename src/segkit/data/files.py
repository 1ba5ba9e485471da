"""Opening input files: a regular file or an error that names it, never a block."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from segkit.errors import DataError
from segkit.limits import fault_of


def open_file(path: str | Path) -> BinaryIO:
    """``path`` open for reading.

    Raises ``DataError`` where it is missing, unreadable, empty, or not a regular file.
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DataError("MISSING-FILE", path, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if limit := fault_of(error):
            raise limit from None
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError("UNREADABLE", path, reason) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        os.close(descriptor)
        what = "empty file" if stat.S_ISREG(status.st_mode) else "not a regular file"
        raise DataError("UNREADABLE", path, what)
    return os.fdopen(descriptor, "rb")


def read_text(path: str | Path, limit: int) -> str:
    """The text of a UTF-8 file of at most ``limit`` bytes, without its byte order mark.

    Raises ``DataError`` where it is longer or no such text, and what ``open_file`` raises.
    """
    with open_file(path) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise DataError("LIST", path, f"more than {limit} bytes", "is it the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("LIST", path, f"not UTF-8 ({error.reason})", "save it as UTF-8") from None
