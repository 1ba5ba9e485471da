"""Data sets made of image and mask files, named by a list or found in their folders."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from segkit.data.files import read_text
from segkit.data.images import MAX_PIXELS, check_same_size, read_image
from segkit.data.labels import Colour, LabelSet
from segkit.data.masks import read_mask
from segkit.data.tree import Refuse, refuse
from segkit.errors import DataError, RefusedError, SegkitError

MAX_LIST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps things, relative to its root; ``folder`` is its place in a data room.

    ``list_file`` holds one sample per line: an id, or the two paths ``/images/ID /masks/ID``.
    Where it is empty, the samples are the files below ``images``.
    """

    name: str
    folder: str
    images: str
    masks: str
    list_file: str = ""
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"

    @property
    def expected(self) -> str:
        images, masks = f"{self.images}/*{self.image_suffix}", f"{self.masks}/*{self.mask_suffix}"
        return ", ".join(filter(None, (images, masks, self.list_file)))


class FilePairs:
    """Image and mask files of one split, in the sorted order of their ids.

    ``root`` is the data set's own folder; ``None`` means ``$SEGKIT_DATA/<layout.folder>``, and
    ``./data/<layout.folder>`` where the variable is not set. Opening reads the list and the two
    directories, no picture. The tables are those of ``read_mask``. A split without ``has_labels``
    has images alone. Raises ``DataError`` (missing data set, list or file; empty list; duplicates)
    and ``RefusedError`` (an id that leaves the root).
    """

    split = ""
    has_labels = True

    def __init__(
        self,
        root: str | Path | None,
        layout: Layout,
        labels: LabelSet,
        *,
        colour_table: Mapping[Colour, int] | None = None,
        value_table: Mapping[int, int] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.labels = labels
        self.layout = layout
        self.colour_table, self.value_table = colour_table, value_table
        self.max_pixels = max_pixels
        self.root = _find(root, layout)
        # One flat array: worker processes share its pages, where a list of str would be copied
        # into every worker object by object as reference counts change.
        self.ids = np.array(self._find_ids())

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, index: int) -> Path:
        return self.root / self.layout.images / f"{self.ids[index]}{self.layout.image_suffix}"

    def mask_path(self, index: int) -> Path:
        return self.root / self.layout.masks / f"{self.ids[index]}{self.layout.mask_suffix}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB uint8 [H,W,3] and labels uint8 or uint16 [H,W], range-checked and of one size.

        Raises what reading raises, and ``DataError`` DATA-NO-LABELS where there are none.
        """
        if not self.has_labels:
            folder = self.root / self.layout.images
            what = f"the labels of the {self.split} split are not public, so nothing can be scored"
            fix = f"score eval.split=val; to segment the images: segkit predict {folder}, or submit"
            raise DataError("NO-LABELS", folder, what, fix)
        image = self.read_image(index)
        mask = self.read_label(index)
        check_same_size(self.image_path(index), image, self.mask_path(index), mask)
        return image, mask

    def read_image(self, index: int) -> np.ndarray:
        """RGB uint8 [H,W,3], of a split without labels too."""
        return read_image(self.image_path(index), self.max_pixels)

    def read_label(self, index: int) -> np.ndarray:
        """Labels uint8 or uint16 [H,W], range-checked."""
        return read_mask(
            self.mask_path(index),
            self.labels,
            colour_table=self.colour_table,
            value_table=self.value_table,
            max_pixels=self.max_pixels,
        )

    def _refuse(self, error: SegkitError, names: Sequence[str] = ()) -> None:
        """What opening finds wrong, and the names that it is about, all of them.

        Raises it; ``segkit data check`` notes it instead, and goes on with what is left.
        """
        refuse(error, names)

    def _find_ids(self) -> list[str]:
        """The sorted ids of the samples, whose files are there."""
        ids = read_list(self.root / self.layout.list_file, self.layout, self._refuse)
        self._require_files(ids)
        return ids

    def _require_files(self, ids: list[str]) -> None:
        layout = self.layout
        kinds = [("image", layout.images, layout.image_suffix)]
        if self.has_labels:
            kinds.append(("mask", layout.masks, layout.mask_suffix))
        for kind, folder, suffix in kinds:
            present = _listing(self.root / folder, {PurePosixPath(i).parent for i in ids})
            missing = [i for i in ids if f"{i}{suffix}" not in present]
            if missing:
                more = f" ({len(missing)} of {len(ids)} are)" if len(missing) > 1 else ""
                where = self.root / folder / f"{missing[0]}{suffix}"
                what = f"{kind} named in {layout.list_file} is missing{more}"
                raise DataError("MISSING-FILE", where, what)


def read_list(path: Path, layout: Layout, refuse: Refuse = refuse) -> list[str]:
    """The sorted ids of a list file.

    Blank lines, lines that begin with ``#``, a byte order mark, CRLF and blanks around an id are
    accepted.
    """
    return ids_in(read_text(path, MAX_LIST_BYTES), path, layout, refuse)


def ids_in(text: str, path: Path, layout: Layout, refuse: Refuse = refuse) -> list[str]:
    """The sorted ids of a list's text, which stands in ``path``."""
    ids: list[str] = []
    for number, line in _lines(text):
        try:
            ids.append(_id(path, number, line, layout))
        except SegkitError as error:
            refuse(error)
    if not ids:
        refuse(DataError("EMPTY-SPLIT", path, "names no sample", "one id per line"))
    twice = sorted(i for i, count in Counter(ids).items() if count > 1)
    if twice:
        shown = ", ".join(twice[:3]) + (" ..." if len(twice) > 3 else "")
        refuse(DataError("DUPLICATE", path, f"{len(twice)} ids stand there twice: {shown}"), twice)
    return sorted(set(ids))


def list_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that name something, stripped, with their numbers from 1."""
    return _lines(read_text(path, MAX_LIST_BYTES))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        told = line.strip()
        if told and told[0] != "#":
            yield number, told


def _id(path: Path, number: int, line: str, layout: Layout) -> str:
    parts = line.split()
    if len(parts) == 2 and _are_paths(parts, layout):
        line = _id_of_paths(path, number, parts, layout)
    name = PurePosixPath(line)
    if name.is_absolute() or ".." in name.parts or "\\" in line or not is_one_line(line):
        what = f"line {number}: {line!r} leaves the data set's folder"
        raise RefusedError("PATH", path, what, "ids are relative names")
    return line


def _are_paths(parts: list[str], layout: Layout) -> bool:
    """Whether a line is two paths. Where folders are of one's own, their names have blanks."""
    if layout.list_file:
        return all("/" in part for part in parts)
    folders = (f"{layout.images}/", f"{layout.masks}/")
    return all(p.removeprefix("/").startswith(f) for p, f in zip(parts, folders, strict=True))


def is_one_line(text: str) -> bool:
    """Whether a name can be written in a line: any blank will do, no control character."""
    return all(c.isprintable() or unicodedata.category(c) == "Zs" for c in text)


def _id_of_paths(path: Path, number: int, parts: list[str], layout: Layout) -> str:
    """The id of a line in the form of the DeepLab authors: ``/JPEGImages/ID.jpg /Masks/ID.png``."""
    image, mask = (part.removeprefix("/") for part in parts)
    name = image.removeprefix(f"{layout.images}/").removesuffix(layout.image_suffix)
    if (image, mask) != (
        f"{layout.images}/{name}{layout.image_suffix}",
        f"{layout.masks}/{name}{layout.mask_suffix}",
    ):
        what = f"line {number}: {parts[0]} {parts[1]} do not fit {layout.images} and {layout.masks}"
        raise DataError("LIST", path, what, f"expected layout: {layout.expected}")
    return name


def _listing(folder: Path, parents: Iterable[PurePosixPath]) -> set[str]:
    """Names below ``folder``, relative to it, in those of its subfolders that the ids use."""
    names: set[str] = set()
    for parent in parents:
        if (folder / parent).is_dir():
            with os.scandir(folder / parent) as entries:
                names.update(str(parent / entry.name) for entry in entries)
    return names


def _refuse_missing_list(path: Path, layout: Layout) -> None:
    """``DataError`` for a list that a set lacks beside others that it has."""
    others = sorted(other.stem for other in path.parent.glob("*.txt") if other.is_file())
    if others:
        what = f"list not found; the lists here are {', '.join(others)}"
        fix = f"choose one of these splits, or type segkit data prepare {layout.name}"
        raise DataError("MISSING", path, what, fix)


def _find(root: str | Path | None, layout: Layout) -> Path:
    room = os.environ.get("SEGKIT_DATA")
    place = Path(root) if root is not None else Path(room or "data") / layout.folder
    needed = place / (layout.list_file or layout.images)
    try:
        found = place.is_dir() and needed.exists()
    except OSError:
        found = False
    if not found and (place / layout.images).is_dir():
        _refuse_missing_list(needed, layout)
    if not found:
        where = place if not place.is_dir() else needed
        what = (
            f"{layout.name} not found (dataset.root={'null' if root is None else root}, "
            f"SEGKIT_DATA={room or 'not set'})"
        )
        fix = (
            f"expected layout: {layout.expected}; set dataset.root=/path or SEGKIT_DATA, "
            f"type segkit data prepare {layout.name}, or try dataset=shapes"
        )
        raise DataError("MISSING", where, what, fix)
    return place
