"""Which pictures an earlier call finished: a line for each in the output folder.

A line is added once all files of its picture are whole. It names what they were made of (the bytes
of the input, the network and the protocol), so that a second call does the rest, and does again
what would come out otherwise.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segkit.data.files import open_file
from segkit.errors import DataError
from segkit.lock import Lock
from segkit.report.names import make_folder, prediction_path
from segkit.whole_files import LEFTOVER, append, write_whole

RECORD = "predictions.jsonl"
TAKEN = "NAME-TAKEN"
_MOST_BYTES = 2**30
_CHUNK = 2**20


@dataclass(frozen=True)
class Line:
    """``content`` and ``protocol`` are digests; ``files`` has the bytes of each file by name.

    ``source`` is the absolute path of the input. Without files it says that they were removed.
    """

    id: str
    content: str
    protocol: str
    files: Mapping[str, int]
    source: str = ""


class Finished:
    """The record in ``out``, and the right to write there: one process at a time has it.

    What a killed process left half-written, in ``out`` itself or anywhere below ``folders`` of it,
    is removed. Raises ``EnvironmentFault`` where another process works there, ``RefusedError`` for
    a link where the record belongs.
    """

    def __init__(self, out: Path, protocol: str, folders: Iterable[str]) -> None:
        self.out, self.protocol = out, protocol
        self._folders = tuple(folders)
        make_folder(out)
        path = prediction_path(out, RECORD.removesuffix(".jsonl"), ".jsonl")
        self._lock = Lock(out / ".lock", "OUT-LOCKED", "wait for it, or choose another out=")
        _clean(out, self._folders)
        self._path, self._lines = path, _read(path)
        # Without what a kill tore off, and without lines that later ones replace.
        write_whole(path, b"".join(map(_encoded, self._lines.values())))

    def has(self, name: str, content: str, files: Collection[str]) -> bool:
        """Whether ``files`` of the picture ``name`` are there and would come out the same."""
        line = self._lines.get(name)
        return (
            line is not None
            and (line.content, line.protocol) == (content, self.protocol)
            and all(self._is_there(line, file) for file in files)
        )

    def before(self, name: str) -> Collection[str]:
        """The files that an earlier call wrote for the picture ``name``."""
        line = self._lines.get(name)
        return line.files if line else ()

    def refuse(self, name: str, content: str, source: Path) -> None:
        """Raise ``DataError`` where ``name`` has results of another input's other bytes."""
        line = self._lines.get(name)
        if line is not None and not _is_of(line, content, source):
            what = f"{self.out / next(iter(line.files))} is the result of {line.source}"
            raise DataError(TAKEN, source, what, "type out= for another folder")

    def outdated(self, name: str, content: str, source: Path) -> list[str]:
        """Which results of ``source``, at ``name`` and below it, are not of this protocol and
        these bytes."""
        now = self.protocol, _bytes_of(content)
        return [
            line.id
            for line in self._lines.values()
            if f"{line.id}/".startswith(f"{name}/")
            and line.files
            and _is_of(line, content, source)
            and (line.protocol, _bytes_of(line.content)) != now
        ]

    def remove(self, name: str) -> None:
        """Remove what an earlier call wrote for the picture ``name``, and its line."""
        for file in self.before(name):
            if file.split("/")[0] in self._folders:  # the record may be anybody's
                place = Path(file)
                path = prediction_path(self.out, place.with_suffix(""), place.suffix)
                path.unlink(missing_ok=True)
        self._note(Line(name, "", "", {}))

    def add(self, name: str, content: str, files: Collection[str], source: Path) -> None:
        """Note that ``files`` are whole."""
        sizes = {file: (self.out / file).stat().st_size for file in files}
        self._note(Line(name, content, self.protocol, sizes, _absolute(source)))

    def _note(self, line: Line) -> None:
        append(self._path, _encoded(line))
        self._lines[line.id] = line

    def release(self) -> None:
        self._lock.release()

    def _is_there(self, line: Line, file: str) -> bool:
        path = self.out / file
        if file not in line.files or path.is_symlink() or not path.is_file():
            return False
        return path.stat().st_size == line.files[file]


def _absolute(source: Path) -> str:
    return os.path.normpath(source.absolute())


def _is_of(line: Line, content: str, source: Path) -> bool:
    """Whether ``line`` is about ``source``, or a file of the same bytes (it was moved)."""
    known = bool(line.files and line.source)
    same = _bytes_of(line.content) == _bytes_of(content)
    return not known or same or line.source == _absolute(source)


def _bytes_of(content: str) -> str:
    """What stands for the bytes of a file in what stands for a frame of it."""
    return content.split("/")[0]


def _clean(out: Path, folders: Iterable[str]) -> None:
    places = [out]
    for name in folders:
        # os.walk goes through no link but the one that it is given.
        if not (out / name).is_symlink():
            places += [Path(here) for here, _, _ in os.walk(out / name)]
    for path in (entry for place in places for entry in place.glob(".*.tmp")):
        if not re.fullmatch(LEFTOVER, path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def digest_of(value: Any) -> str:
    """A digest of plain values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises what ``open_file`` raises."""
    found = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _encoded(line: Line) -> bytes:
    return json.dumps(asdict(line)).encode() + b"\n"


def _read(path: Path) -> dict[str, Line]:
    if not path.exists() or not path.stat().st_size:
        return {}
    with open_file(path) as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        what = f"a record of more than {_MOST_BYTES} bytes"
        raise DataError("RECORD", path, what, "remove it; all pictures are then done again")
    lines = (_line(text) for text in raw.splitlines())
    last = {line.id: line for line in lines if line is not None}
    return {name: line for name, line in last.items() if line.files}


def _line(text: bytes) -> Line | None:
    """A line of the record, or None for what is none: the disk ended in the middle of it, say."""
    try:
        line = Line(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = all(
        isinstance(part, str) for part in (line.id, line.content, line.protocol, line.source)
    )
    return line if texts and isinstance(line.files, dict) else None
