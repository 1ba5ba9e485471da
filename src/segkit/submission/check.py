"""Whether an archive of label maps, from here or elsewhere, is what its server takes.

Members are read one by one and never extracted; links, bombs and names that lead out of the archive
refuse the whole of it (prepare/archives.py), from the members' headers alone.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from segkit.data.files import open_file
from segkit.errors import DataError
from segkit.prepare.archives import Read, contents
from segkit.prepare.known import Budget
from segkit.submission.servers import Server, Size

# A label map of 2048x1024 pixels has 2 MiB before it is packed.
MOST_MEMBER = 16 * 2**20
_HEADERS = 2**16  # of one map: its palette, and what programs write about themselves
Members = Generator[tuple[str, Read], None, None]

_MODES = ("P", "L")
_PNG_END = b"IEND\xaeB`\x82"
_PACKINGS = {
    b"PK": "a zip",
    b"\x1f\x8b": "a tar packed with gzip",
    b"BZ": "a tar packed with bzip2",
    b"\xfd7": "a tar packed with xz",
}


@dataclass
class Checked:
    """What an archive was found to hold. ``faults`` name the member, or the image that has none.

    ``notes`` are what the server may not mind.
    """

    maps: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: set[int] = field(default_factory=set)

    def fault(self, where: str, what: str) -> None:
        self.faults.append((where, what))


def check(
    path: Path, server: Server, sizes: Mapping[str, Size], own: Collection[str] = ()
) -> Checked:
    """Look at every member of an archive (.zip, .tar, .tgz) or at every file of a folder.

    ``sizes`` are those of the images that need a label map. The files ``own`` may lie in a folder
    beside them. Raises ``RefusedError`` for what must not be read and ``DataError`` for what is no
    archive.
    """
    found, seen = Checked(), Counter[str]()
    strangers: list[str] = []
    example = server.member(next(iter(sizes)))
    with closing(_members(path, example, sizes, own, found)) as members:
        for name, read in members:
            sample = server.sample_of(name)
            if sample is None:
                strangers.append(name)
                continue
            seen[sample] += 1
            _check_map(name, read, sizes[sample], server.allowed, found)
    if not seen and (advice := server.advice(strangers)):
        found.fault(path.name, advice)
        return found
    _judge_strangers(strangers, server, example, found)
    for sample in sizes:
        if not seen[sample]:
            found.fault(server.member(sample), "is missing")
        elif seen[sample] > 1:
            found.fault(server.member(sample), f"there are {seen[sample]} label maps of this image")
    found.maps = seen.total()
    if doubt := server.doubt(found.values):
        found.fault(path.name, doubt)
    if path.is_file():
        packing = _packing(path)
        if packing != server.packing:
            wanted = f"{server.archive}, {server.packing}"
            found.notes.append(f"{path.name} is {packing}; the server asks for {wanted}")
    return found


def _judge_strangers(names: list[str], server: Server, example: str, found: Checked) -> None:
    if not server.passes_over:
        for name in names:
            found.fault(name, f"is no label map of {server.split}; one is called {example}")
    elif names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        found.notes.append(f"no label map of {server.split}: {names[0]}{more}; the server skips it")


def _packing(path: Path) -> str:
    with open_file(path) as file:
        return _PACKINGS.get(file.read(2), "a tar that is not packed")


def values_of(path: Path, server: Server) -> Iterator[tuple[str, np.ndarray]]:
    """Image and classes [H, W] of every label map in a sound archive."""
    sizes = server.sizes()
    for name, read in _members(path, server.member(next(iter(sizes))), sizes, (), Checked()):
        sample = server.sample_of(name)
        if sample is not None:
            yield sample, server.classes(_decoded(read(MOST_MEMBER)))


def _members(
    path: Path, example: str, sizes: Mapping[str, Size], own: Collection[str], found: Checked
) -> Members:
    if path.is_dir():
        return _files(path, PurePosixPath(example).parts[0], own, found)
    # What the maps have at most, a byte for each pixel and a filter for each row, and one file
    # more; but twice as many files as there should be, so that what is too much can be named.
    most = sum(height * (width + 1) + _HEADERS for height, width in sizes.values())
    budget = Budget(bytes=most + MOST_MEMBER, files=2 * len(sizes) + 1000)
    return contents(path, budget, MOST_MEMBER)


def _files(folder: Path, tree: str, own: Collection[str], found: Checked) -> Members:
    """Name and content of every plain file below ``folder``; links and the like are faults.

    Names begin with ``tree``, be it in ``folder`` or ``folder`` itself.
    """
    is_tree = folder.resolve().name == tree and not (folder / tree).is_dir()

    def unreadable(error: OSError) -> None:
        raise DataError("UNREADABLE", error.filename, error.strerror or str(error))

    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted([*files, *(n for n in folders if (Path(here) / n).is_symlink())]):
            path = Path(here) / name
            member = path.relative_to(folder).as_posix()
            if member in own:
                continue
            if is_tree:
                member = f"{tree}/{member}"
            if path.is_symlink() or not path.is_file():
                found.fault(member, "is a link, or no plain file")
            elif path.stat().st_size:
                with open_file(path) as content:
                    yield member, content.read
            else:
                yield member, lambda _: b""


def _check_map(name: str, read: Read, size: Size, allowed: range, found: Checked) -> None:
    data = read(MOST_MEMBER + 1)
    if len(data) > MOST_MEMBER:
        found.fault(name, f"has more than {MOST_MEMBER} bytes")
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("PNG",))
        height, width = size
        if image.size != (width, height):
            shape = f"{image.width}x{image.height}"
            found.fault(name, f"is {shape} pixels, its image has {width}x{height}")
            return
        if image.mode not in _MODES:
            found.fault(name, f"is a PNG of mode {image.mode}; palette (P) or grey (L), 8 bits")
            return
        values = np.unique(_decoded(data)).tolist()
    except MemoryError:
        raise
    except UnidentifiedImageError:  # its own words name a place in memory
        found.fault(name, "is no sound PNG (it does not begin as one)")
        return
    except Exception as error:  # whatever a decoder raises on foreign bytes is the file's fault
        found.fault(name, f"is no sound PNG ({error or type(error).__name__})")
        return
    found.values |= set(values)
    wrong = [value for value in values if value not in allowed]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        found.fault(name, f"has the values {shown}; allowed: {allowed[0]}..{allowed[-1]}")


def _decoded(data: bytes) -> np.ndarray:
    if not data.rstrip(b"\0").endswith(_PNG_END):
        raise DataError("UNREADABLE", "", "a PNG without its end")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image)
