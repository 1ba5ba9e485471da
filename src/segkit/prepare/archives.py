"""Archives from elsewhere: the whole member list is judged before the first byte is written.

Plain files and folders with relative names, within a budget; anything else refuses the archive by
the member's name. What is wanted of it appears in one rename, in a folder that was not there.
"""

import bz2
import gzip
import io
import lzma
import math
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from segkit.data.bars import bar
from segkit.data.files import open_file
from segkit.errors import DataError, RefusedError, SegkitError
from segkit.prepare.files import put_stream, require_room
from segkit.prepare.known import Budget
from segkit.whole_files import temporary

# A member's name to its place in the target folder, or None for what is not wanted.
Pick = Callable[[str], str | None]
# At most so many bytes of a member.
Read = Callable[[int], bytes]

_CHUNK = 1 << 20
_MOST_PARTS = 32
_LONGEST_PART = 255  # bytes, what file systems take
_ENTRY_BYTES = 256  # of a zip's directory, per file; a name of the known archives has below 100
_MOST_HEADER = 1 << 20  # bytes of one tar member's header: name, extended attributes

Opener = Callable[..., Any]
_COMPRESSED: dict[bytes, Opener] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


@dataclass
class Judge:
    """Takes members one by one and raises ``RefusedError`` SAFE-ARCHIVE at the first bad one."""

    archive: Path
    budget: Budget
    most: float = math.inf  # bytes of one member
    doubles: bool = False  # whether a file may be there twice: to be seen, not to be written
    claimed: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    _folders: set[str] = field(default_factory=set)
    _spelled: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def folder(self, name: str) -> None:
        self._count_one()
        path = self._path(name)
        if path.parts:
            self._place(path, is_folder=True)

    def file(self, name: str, claimed: int) -> str:
        """The normalised name of a plain file that says it has ``claimed`` bytes."""
        self._count_one()
        path = self._path(name)
        if not path.parts:
            raise self.refusal(name, "has no name")
        self._place(path, is_folder=False)
        if claimed > self.most:
            raise self.refusal(name, f"claims {claimed} bytes, at most {self.most}")
        self.claimed += claimed
        if claimed < 0 or self.claimed > self.budget.bytes:
            what = f"brings the archive to {self.claimed} bytes, at most {self.budget.bytes}"
            raise self.refusal(name, what)
        self.sizes[str(path)] = claimed
        return str(path)

    def refusal(self, member: str, what: str) -> RefusedError:
        shown = member if len(member) <= 80 else f"{member[:60]}... ({len(member)} characters)"
        fix = "nothing was extracted"
        return RefusedError("ARCHIVE", self.archive, f"member {shown!r} {what}", fix)

    def _count_one(self) -> None:
        self._count += 1
        if self._count > self.budget.files:
            what = f"has more than {self.budget.files} members"
            raise RefusedError("ARCHIVE", self.archive, what, "nothing was extracted")

    def _path(self, name: str) -> PurePosixPath:
        if not name.isprintable() or "\\" in name:
            raise self.refusal(name, "has characters that no name of a data set has")
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts:
            raise self.refusal(name, "leaves the folder")
        if len(path.parts) > _MOST_PARTS:
            raise self.refusal(name, f"lies deeper than {_MOST_PARTS} folders")
        if any(len(part.encode()) > _LONGEST_PART for part in path.parts):
            raise self.refusal(name, f"has a part of more than {_LONGEST_PART} bytes")
        return path

    def _place(self, path: PurePosixPath, *, is_folder: bool) -> None:
        """No file twice, no file that is also a folder, no two spellings of one name."""
        for step in [*list(path.parents)[-2::-1], path]:
            text = str(step)
            other = self._spelled.setdefault(_folded(text), text)
            if other != text:
                raise self.refusal(str(path), f"differs from {other!r} in case alone")
            if step != path or is_folder:
                if text in self.sizes:
                    raise self.refusal(str(path), f"needs a folder where {text!r} is a file")
                self._folders.add(text)
        if is_folder:
            return
        if str(path) in self._folders or (str(path) in self.sizes and not self.doubles):
            raise self.refusal(str(path), "is there twice")


def extract(archive: Path, into: Path, pick: Pick, budget: Budget) -> None:
    """Put what ``pick`` wants of a tar (plain, gz, bz2, xz) or zip under ``into``, all or nothing.

    ``into`` must not exist. Raises ``RefusedError`` SAFE-ARCHIVE, ``DataError`` DATA-ARCHIVE
    (damaged, or no archive), ``EnvironmentFault`` (no room).
    """
    with open_file(archive) as file, _faults(archive):
        head = file.read(4)
        if head[:2] == b"PK":
            with _zip(file, archive, budget) as opened:
                _extract_zip(opened, Judge(archive, budget), into, pick)
        else:
            stream = _Bounded(file, _COMPRESSED.get(head[:2]), archive)
            _extract_tar(stream, Judge(archive, budget), into, pick)


def contents(
    archive: Path, budget: Budget, most: float = math.inf
) -> Generator[tuple[str, Read], None, None]:
    """Name of every file in a tar or zip, as ``extract`` judges them, and what reads its beginning.

    But a name may come twice, and a file that claims more than ``most`` bytes refuses the archive
    before anything of it is unpacked. A file is read before the next is asked for; nothing is
    written. Raises what ``extract`` raises, and so does reading.
    """
    judge = Judge(archive, budget, most, doubles=True)
    try:
        with open_file(archive) as file, _faults(archive):
            head = file.read(4)
            if head[:2] == b"PK":
                yield from _contents_of_zip(file, judge)
            else:
                stream = _Bounded(file, _COMPRESSED.get(head[:2]), archive)
                yield from _contents_of_tar(stream, judge)
    except RefusedError as error:  # nobody asked for anything to be extracted
        raise RefusedError(error.name, error.where, error.what, "it is not read") from error


def _contents_of_tar(stream: "_Bounded", judge: Judge) -> Iterator[tuple[str, Read]]:
    _judge_whole_tar(stream, judge)
    for opened, member in stream.members():
        content = opened.extractfile(member) if member.isreg() else None
        if content is not None:
            yield str(PurePosixPath(member.name)), partial(_read, content, judge.archive)


def _contents_of_zip(file: BinaryIO, judge: Judge) -> Iterator[tuple[str, Read]]:
    with _zip(file, judge.archive, judge.budget) as opened:
        for name, member in _judged_zip(opened, judge):
            with opened.open(member) as content:
                yield name, partial(_read, content, judge.archive)


def _read(content: IO[bytes], archive: Path, most: int) -> bytes:
    with _faults(archive):
        return content.read(most)


# -- tar -----------------------------------------------------------------------------------------


class _Bounded:
    """What tarfile reads from. A header that claims a gigabyte of name gets no such read."""

    def __init__(self, file: BinaryIO, opener: Opener | None, archive: Path) -> None:
        self._file, self._opener, self._archive = file, opener, archive
        self.left = float(_MOST_HEADER)

    def members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """The archive from its beginning, member by member."""
        self._file.seek(0)
        self._stream = self._opener(self._file) if self._opener else self._file
        self.seek, self.tell = self._stream.seek, self._stream.tell
        with tarfile.open(fileobj=self, mode="r:") as opened:  # type: ignore[call-overload]
            while (member := opened.next()) is not None:
                opened.members = []  # it would keep every one
                yield opened, member

    def read_rest(self, judge: Judge) -> None:
        """What stands behind the last member: at its end is the checksum of a compressed file."""
        rest = 0
        while self._opener and (chunk := self._stream.read(_CHUNK)):
            rest += len(chunk)
            if rest > judge.budget.bytes:
                what = f"goes on for {rest} bytes behind its last member"
                raise RefusedError("ARCHIVE", self._archive, what, "nothing was extracted")

    def read(self, count: int = -1) -> bytes:
        self.left -= count
        if count < 0 or self.left < 0:
            what = f"has a header of more than {_MOST_HEADER} bytes"
            raise RefusedError("ARCHIVE", self._archive, what, "nothing was extracted")
        return self._stream.read(count)


def _extract_tar(stream: _Bounded, judge: Judge, into: Path, pick: Pick) -> None:
    _judge_whole_tar(stream, judge)
    targets = _targets(judge, pick)
    with _fresh(judge, into, targets) as write:
        for opened, member in stream.members():
            name = str(PurePosixPath(member.name))
            content = opened.extractfile(member) if name in targets and member.isreg() else None
            if content is not None:
                write(name, content)


def _judge_whole_tar(stream: _Bounded, judge: Judge) -> None:
    for _, member in stream.members():
        _judge_tar(member, judge)
        stream.left = _MOST_HEADER
    stream.read_rest(judge)
    stream.left = math.inf  # from here on it reads contents too


def _judge_tar(member: tarfile.TarInfo, judge: Judge) -> None:
    if member.isdir():
        judge.folder(member.name)
        return
    kinds = {
        tarfile.SYMTYPE: "is a link",
        tarfile.LNKTYPE: "is a hard link",
        tarfile.FIFOTYPE: "is a FIFO",
        tarfile.CHRTYPE: "is a device",
        tarfile.BLKTYPE: "is a device",
    }
    if not member.isreg() or member.issparse():
        raise judge.refusal(member.name, kinds.get(member.type, "is no plain file"))
    if member.mode & (stat.S_ISUID | stat.S_ISGID):
        raise judge.refusal(member.name, "is setuid or setgid")
    judge.file(member.name, member.size)


# -- zip -----------------------------------------------------------------------------------------


@contextmanager
def _zip(file: BinaryIO, archive: Path, budget: Budget) -> Iterator[zipfile.ZipFile]:
    """The zip, once its directory has proved small enough to be read into memory."""
    directory = _directory_bytes(file)
    if directory > budget.files * _ENTRY_BYTES:
        what = f"has a directory of {directory} bytes, so more than {budget.files} members"
        raise RefusedError("ARCHIVE", archive, what, "nothing was extracted")
    with zipfile.ZipFile(file) as opened:
        yield opened


def _directory_bytes(file: BinaryIO) -> int:
    """The claimed size of a zip's directory; 0 where there is none (zipfile says so then)."""
    end = file.seek(0, io.SEEK_END)
    start = file.seek(max(0, end - (1 << 16) - 22 - 20 - 56))
    tail = file.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < 22:
        return 0
    (count,) = struct.unpack_from("<I", tail, place + 12)
    if count != 0xFFFFFFFF or place < 20 or tail[place - 20 : place - 16] != b"PK\6\7":
        return int(count)
    (wide,) = struct.unpack_from("<Q", tail, place - 20 + 8)
    file.seek(wide if 0 <= wide <= end else start)
    record = file.read(56)
    return int(struct.unpack_from("<Q", record, 40)[0]) if len(record) == 56 else 0


def _extract_zip(opened: zipfile.ZipFile, judge: Judge, into: Path, pick: Pick) -> None:
    members = dict(_judged_zip(opened, judge))
    targets = _targets(judge, pick)
    with _fresh(judge, into, targets) as write:
        for name in sorted(targets, key=lambda name: members[name].header_offset):
            with opened.open(members[name]) as content:
                write(name, content)


def _judged_zip(opened: zipfile.ZipFile, judge: Judge) -> list[tuple[str, zipfile.ZipInfo]]:
    judged = [(_judge_zip(member, judge), member) for member in opened.infolist()]
    return [(name, member) for name, member in judged if name is not None]


def _judge_zip(member: zipfile.ZipInfo, judge: Judge) -> str | None:
    name, mode = member.orig_filename, member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise judge.refusal(name, "is a link" if stat.S_ISLNK(mode) else "is no plain file")
    if member.flag_bits & 1:
        raise judge.refusal(name, "is encrypted")
    if name.endswith("/") or stat.S_ISDIR(mode):
        judge.folder(name)
        return None
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise judge.refusal(name, "is setuid or setgid")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise judge.refusal(name, "is compressed in an unusual way")
    return judge.file(name, member.file_size)


# -- both ----------------------------------------------------------------------------------------


def _targets(judge: Judge, pick: Pick) -> dict[str, str]:
    """Every wanted member and its place below the target folder."""
    targets = {name: place for name in judge.sizes if (place := pick(name)) is not None}
    if len(set(targets.values())) != len(targets):
        seen: set[str] = set()
        twice = next(n for n, p in targets.items() if p in seen or seen.add(p))  # type: ignore[func-returns-value]
        raise judge.refusal(twice, "is there twice, in another folder")
    if not targets:
        what = f"none of its {len(judge.sizes)} files is one that is looked for"
        raise DataError("ARCHIVE", judge.archive, what, "is it the right archive?")
    return targets


@contextmanager
def _fresh(
    judge: Judge, into: Path, targets: dict[str, str]
) -> Iterator[Callable[[str, IO[bytes]], None]]:
    """Yields what writes one member; at the end the folder gets its name, or is gone."""
    needed = sum(judge.sizes[name] for name in targets)
    require_room(into.parent, needed, judge.archive.name)
    folder = temporary(into)
    folder.mkdir()
    try:
        with bar(f"extract {judge.archive.name}", needed, "B") as advance:

            def write(name: str, content: IO[bytes]) -> None:
                written = put_stream(folder / targets[name], content, judge.sizes[name])
                if written != judge.sizes[name]:
                    raise judge.refusal(name, f"has not the {judge.sizes[name]} bytes it claims")
                advance(written)

            yield write
        missing = [name for name in targets if not (folder / targets[name]).is_file()]
        if missing:
            raise judge.refusal(missing[0], "was gone when it was extracted")
        folder.rename(into)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@contextmanager
def _faults(archive: Path) -> Iterator[None]:
    """Whatever the libraries raise on foreign bytes is the archive's fault, and is told so."""
    try:
        yield
    except (SegkitError, MemoryError):
        raise
    except Exception as error:
        what = f"damaged, or no archive ({error or type(error).__name__})"
        raise DataError("ARCHIVE", archive, what, "get it again") from error
