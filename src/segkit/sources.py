"""Where pictures to be segmented come from: files, folders, patterns, lists and videos."""

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from segkit.data import video
from segkit.data.files import open_file
from segkit.data.images import read_image
from segkit.data.video import Video
from segkit.errors import ConfigError, DataError, SegkitError
from segkit.finished import RECORD, digest_of_file
from segkit.outputs import KINDS
from segkit.record import notice
from segkit.report.names import relative_names

SUFFIXES = (".jpg", ".jpeg", ".png")
OTHER_SUFFIXES = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp")
BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # of a PNG, a JPEG
STANDARD_INPUT = "-"
_LOOKED_FOR = SUFFIXES + video.SUFFIXES
_MOST_LIST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Photo:
    """A picture and the name of its results; ``content`` stands for the bytes it was read from."""

    id: str
    rgb: np.ndarray
    content: str


# Whether the picture of a name and a content needs nothing more.
IsDone = Callable[[str, str], bool]


class Source(Protocol):
    """An input: one picture or many. ``where`` is what messages call it, ``expected`` how many
    pictures it seems to have. ``photos`` leaves out what is done."""

    @property
    def where(self) -> Path: ...
    @property
    def expected(self) -> int: ...
    def photos(self, is_done: IsDone) -> Iterator[Photo]: ...


@dataclass(frozen=True)
class ImageFile:
    """A picture in a file."""

    where: Path
    name: str
    expected: int = 1

    def photos(self, is_done: IsDone) -> Iterator[Photo]:
        content = digest_of_file(self.where)
        if not is_done(self.name, content):
            yield Photo(self.name, read_image(self.where), content)


@dataclass
class VideoFile:
    """Every ``every``-th frame of a video. ``frames`` has the names of those that there are, and
    ``rate`` how many of them make a second, once all have been gone through."""

    where: Path
    name: str
    every: int
    expected: int = 1
    content: str = ""
    rate: float = 0.0
    frames: list[str] = field(default_factory=list)

    def photos(self, is_done: IsDone) -> Iterator[Photo]:
        sha = digest_of_file(self.where)
        self.content = f"{sha}/{self.every}"
        with closing(Video(self.where)) as opened:
            self.expected = max(1, -(-opened.claimed // self.every))
            self.rate = opened.rate / self.every

            def wanted(number: int) -> bool:
                if number % self.every:
                    return False
                self.frames.append(self._frame(number))
                return not is_done(self.frames[-1], f"{sha}/{number}")

            for number, rgb in opened.frames(wanted):
                yield Photo(self._frame(number), rgb, f"{sha}/{number}")

    def _frame(self, number: int) -> str:
        return f"{self.name}/frame-{number:06}"


@dataclass
class Found:
    """What the words of a command line mean: sources, and the words that mean nothing."""

    sources: list[Source]
    faults: list[SegkitError]

    @property
    def total(self) -> int:
        return len(self.sources) + len(self.faults)


def sources_of(inputs: Sequence[str], every: int) -> Found:
    """The sources that ``inputs`` name, each file once, in the order of the words.

    A word is a file, a folder (searched in all its depth but for linked folders), a pattern such as
    ``photos/**/*.jpg`` (of files, or of folders to be searched), or ``-``, a list of files and
    folders on standard input. Names that begin with a dot, and what an earlier prediction wrote,
    are left out of folders and patterns. Raises ``ConfigError`` without any word.
    """
    if not inputs:
        fix = "type segkit predict FILE or FOLDER, 'PATTERN', or - for a list on standard input"
        raise ConfigError("INPUT", "predict", "no input", fix)
    faults: list[SegkitError] = []
    found: dict[str, Path] = {}
    for word in inputs:
        try:
            for path in _meant(word, faults):
                found.setdefault(os.path.normpath(path.absolute()), path)
        except SegkitError as fault:
            faults.append(fault)
    # What is no picture at all has no say in the names of the others.
    paths = [path for path in found.values() if _begins_well(path)]
    videos = {path for path in paths if video.is_video(path)}
    names = dict(zip(paths, map(str, relative_names(paths, videos)), strict=True))
    sources: list[Source] = [
        VideoFile(path, names.get(path, path.name), every)
        if video.is_video(path)
        else ImageFile(path, names.get(path, path.name))
        for path in found.values()
    ]
    return Found(sources, faults)


def _begins_well(path: Path) -> bool:
    """Whether a file begins as a picture or a video does; reading another one says what it is."""
    try:
        if video.is_video(path):
            video.check_beginning(path)
            return True
        with open_file(path) as file:
            return file.read(8).startswith(BEGINNINGS)
    except DataError:
        return False


def _meant(word: str, faults: list[SegkitError]) -> Iterator[Path]:
    """The files that a word of the command line means."""
    path = Path(word)
    if word == STANDARD_INPUT:
        for line in listed(sys.stdin.buffer.read(_MOST_LIST_BYTES + 1)):
            try:
                yield from _at(Path(line), faults)
            except SegkitError as fault:
                faults.append(_with_blanks_shown(line, fault))
    elif glob.has_magic(word) and not os.path.lexists(path):
        # Not Path.glob: it finds hidden files too.
        matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207
        yield from _pictures(word, _matched(matches, faults), "matches no picture or video")
    else:
        yield from _at(path, faults)


def _with_blanks_shown(line: str, fault: SegkitError) -> SegkitError:
    """``fault`` of a line of a list, with the file that it would name without its blanks."""
    bare = line.strip()
    if fault.name != "MISSING" or bare == line or not os.path.lexists(bare):
        return fault
    fix = f"there is {bare!r}: remove the blanks around it in the list"
    return type(fault)(fault.name, repr(line), fault.what, fix)


def _at(path: Path, faults: list[SegkitError]) -> Iterator[Path]:
    """A file, or what a folder holds."""
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError("UNREADABLE", path, str(error)) from None
    if is_folder:
        yield from _pictures(path, _inside(path, faults), "holds no picture or video")
        return
    if not os.path.lexists(path):
        raise DataError("MISSING", path, "no such file or folder")
    yield path


@dataclass
class _Search:
    """What a folder or a pattern leads to, and the linked folders that were not gone into."""

    files: list[Path] = field(default_factory=list)
    links: int = 0


def _pictures(where: object, search: _Search, nothing: str) -> list[Path]:
    """The pictures and videos among the files; says how many others are left out."""
    if search.links:
        linked = "1 linked folder is" if search.links == 1 else f"{search.links} linked folders are"
        notice(f"{where}: {linked} not searched (type their paths)")
    others = [file for file in search.files if file.suffix.lower() in OTHER_SUFFIXES]
    if others:
        kinds = ", ".join(sorted({file.suffix.lower() for file in others}))
        count = "1 picture" if len(others) == 1 else f"{len(others)} pictures"
        verb = "is" if len(others) == 1 else "are"
        notice(f"{where}: {count} of other kinds {verb} left out ({kinds})")
    found = [file for file in search.files if _is_readable(file)]
    if not found:
        raise DataError("EMPTY", where, nothing, f"looked for {', '.join(_LOOKED_FOR)}")
    return found


def _matched(matches: list[Path], faults: list[SegkitError]) -> _Search:
    """What a pattern matches, with all that lies in the folders among it."""
    matches = [path for path in matches if not (_is_kind(path) or _is_result(path))]
    folders = {path for path in matches if path.is_dir()}
    search = _Search()
    for path in matches:
        if not folders.isdisjoint(path.parents):
            continue  # found where that folder is searched
        if path in folders:
            inside = _inside(path, faults)
            search.files += inside.files
            search.links += inside.links
        else:
            search.files.append(path)
    return search


def _inside(folder: Path, faults: list[SegkitError]) -> _Search:
    """All files below ``folder``, sorted; what cannot be searched goes to ``faults``."""

    def unreadable(error: OSError) -> None:
        faults.append(DataError("UNREADABLE", error.filename, error.strerror or str(error)))

    search = _Search()
    for here, folders, files in os.walk(folder, onerror=unreadable):
        place = Path(here)
        folders[:] = [name for name in folders if not (name[0] == "." or _is_kind(place / name))]
        search.links += sum((place / name).is_symlink() for name in folders)
        search.files += [place / name for name in files if name[0] != "."]
    search.files.sort()
    return search


def _is_kind(folder: Path) -> bool:
    """Whether ``folder`` is where a prediction put its results: they are no input of the next."""
    return folder.name in KINDS and (folder.parent / RECORD).is_file()


def _is_result(path: Path) -> bool:
    return any(_is_kind(folder) for folder in path.parents)


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in _LOOKED_FOR and not path.is_dir()


def listed(raw: bytes) -> list[str]:
    """The names in a list: one a line, or with a NUL between them (``find -print0``)."""
    where = "standard input"
    if len(raw) > _MOST_LIST_BYTES:
        what = f"a list of more than {_MOST_LIST_BYTES} bytes"
        raise DataError("LIST", where, what, "one path a line")
    parts: Iterable[bytes]
    if b"\0" in raw:
        parts = raw.split(b"\0")
    else:
        parts = (line.removesuffix(b"\r") for line in raw.split(b"\n"))
    names = [os.fsdecode(part) for part in parts if part.strip()]
    if not names:
        raise DataError("EMPTY", where, "names no file", "one path a line")
    return names
