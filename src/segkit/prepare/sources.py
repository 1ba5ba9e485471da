"""Where the user has a data set already: archives and trees, in any of the common places."""

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segkit.data.bars import bar, counted
from segkit.errors import DataError
from segkit.prepare.archives import Pick, extract
from segkit.prepare.download import download
from segkit.prepare.files import link_or_copy, require_room, settle
from segkit.prepare.known import Digests, Known, digest
from segkit.prepare.notes import Record, forget, note, noted
from segkit.whole_files import temporary

DOWNLOADS = "downloads"


@dataclass(frozen=True)
class Order:
    """What was typed: the room of all data sets, paths to look at first, leave to download and to
    share files of extracted trees instead of copying them."""

    root: Path
    given: tuple[Path, ...] = ()
    download: bool = False
    link: bool = False

    def places(self) -> list[Path]:
        """Folders that are looked at, in order."""
        given = [path for path in self.given if path.is_dir()]
        common = [self.root, self.root / DOWNLOADS, Path.cwd(), Path.cwd() / DOWNLOADS]
        return list(dict.fromkeys([*given, *common]))


@dataclass(frozen=True)
class Kind:
    """One thing that can be found: an archive, or a tree known by files or folders in it.

    ``folders`` are the tree's usual places, ``""`` being the place itself; ``marks`` are patterns
    each of which it has; ``named`` is a pattern of its own name.
    """

    label: str
    archive: Known | None = None
    folders: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    named: str = "*"

    @property
    def forms(self) -> str:
        """For messages."""
        tree = f"a folder with {', '.join(self.marks)}" if self.marks else ""
        return " or ".join(filter(None, (self.archive.name if self.archive else "", tree)))


def find(kind: Kind, order: Order) -> Path | None:
    """The first archive or tree of this kind, ``from=`` before the common places."""
    for path in order.given:
        if kind.archive and path.is_file() and path.name == kind.archive.name:
            return path
    for place in order.places():
        for inner in kind.folders:
            if _is_tree(place / inner, kind):
                return place / inner
        if kind.archive and (place / kind.archive.name).is_file():
            return place / kind.archive.name
    return None


def require(kind: Kind, order: Order, hint: str = "") -> Path:
    """As ``find``; raises ``DataError`` DATA-SOURCE that says what was looked for and where."""
    found = find(kind, order)
    if found is None:
        looked = ", ".join(str(place) for place in order.places())
        fix = " ".join(filter(None, (f"type from=PATH to {kind.forms};", hint)))
        raise DataError("SOURCE", kind.label, f"not found in {looked}", fix.rstrip(";"))
    return found


def check_given(order: Order, kinds: Sequence[Kind]) -> None:
    """Raise ``DataError`` DATA-SOURCE for a ``from=`` that holds nothing of these kinds."""
    for path in order.given:
        if not path.exists():
            raise DataError("SOURCE", path, "no such file or folder", "from=PATH")
        alone = Order(path, (path,))
        held = [find(kind, alone) for kind in kinds]
        if not any(found and found.is_relative_to(path) for found in held):
            forms = "; ".join(f"{kind.label}: {kind.forms}" for kind in kinds)
            raise DataError("SOURCE", path, "holds nothing that is looked for", forms)


def obtain(kind: Kind, order: Order, pick: Pick, into: Path, hint: str = "") -> Record:
    """Put what ``pick`` wants of the archive or tree under ``into``, whole or not at all.

    Where an earlier call has done that, nothing is read again. Returns what the manifest says of
    the source. Raises what ``require``, ``download`` and ``extract`` raise.
    """
    earlier = noted(into)
    if into.is_dir() and earlier is not None:
        return earlier
    archive = kind.archive
    downloads = bool(order.download and archive and archive.address)
    hint = "or download=true" if archive and archive.address else hint
    source = find(kind, order) if downloads else require(kind, order, hint)
    sums = None
    if source is None and archive is not None:
        source, sums = download(archive, order.root / DOWNLOADS)
    assert source is not None
    if source.is_dir():
        return _take_tree(source, pick, into, order.link)
    assert archive is not None
    record = _checked(source, archive, sums)
    note(into, record, source)
    try:
        extract(source, into, pick, archive.budget)
    except BaseException:
        forget(into)
        raise
    return record


def taken(source: Path, linked: bool) -> Record:
    """A tree as a source, and whether some of its files are shared with it now."""
    return {"name": source.name, "kind": "folder", "files": "hard-linked" if linked else "copied"}


def _checked(source: Path, archive: Known, sums: Digests | None) -> Record:
    sums = sums or digest(source)
    archive.check(source, sums)
    return {
        "name": archive.name,
        "kind": "archive",
        "verified": bool(archive.md5 or archive.sha256),
        **asdict(sums),
    }


def _take_tree(source: Path, pick: Pick, into: Path, link: bool) -> Record:
    """As ``extract``, from a folder."""
    targets = dict(_picked(source, pick))
    if not link:
        needed = sum((source / inner).stat().st_size for inner in targets)
        require_room(into.parent, needed, str(source))
    fresh = temporary(into)
    fresh.mkdir()
    linked = False
    with bar(f"take {source.name}", len(targets), "file") as advance:
        for inner, place in counted(targets.items(), advance):
            linked |= link_or_copy(source / inner, fresh / place, link=link)
    settle()
    record = taken(source, linked)
    note(into, record, source)
    fresh.rename(into)
    return record


def _picked(source: Path, pick: Pick) -> list[tuple[str, str]]:
    found = []
    for folder, folders, names in os.walk(source, followlinks=False):
        folders.sort()
        for name in sorted(names):
            inner = (Path(folder) / name).relative_to(source).as_posix()
            place = pick(inner)
            if place is not None and (source / inner).is_file():
                found.append((inner, place))
    return found


def picking(*patterns: str) -> Pick:
    """Wanted is a name that ends in what one of the patterns matches; its place is that end."""
    wanted = re.compile("(?:.*/)?(" + "|".join(patterns) + ")")

    def pick(name: str) -> str | None:
        found = wanted.fullmatch(name)
        return found[1] if found else None

    return pick


def _is_tree(folder: Path, kind: Kind) -> bool:
    try:
        return (
            folder.is_dir()
            and fnmatch.fnmatch(folder.resolve().name, kind.named)
            and all(next(folder.glob(mark), None) is not None for mark in kind.marks)
        )
    except OSError:
        return False
