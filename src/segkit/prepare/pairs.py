"""Images and masks named by a table: a line for each pair."""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from segkit.data.files import read_text
from segkit.data.folder import ALL, IMAGE_SUFFIXES, Folder
from segkit.data.pairs import MAX_LIST_BYTES, is_one_line
from segkit.errors import DataError, RefusedError

_HEADER = ("image", "mask")


class ListedPairs(Folder):
    """The pairs of a CSV file, whose paths are relative to ``root``; ``words`` are ``Folder``'s.

    A first line ``image,mask`` is a header; commas, semicolons or tabs separate. An id is the
    image's path without its ending, relative to ``root``: a new line renames no other. Raises
    ``DataError`` for a line that is no pair and for files that are missing or named twice,
    ``RefusedError`` for a path that leaves ``root``.
    """

    def __init__(self, root: Path, table: Path, **words: Any) -> None:
        self._table = table
        super().__init__(root, ALL, images="", masks="", **words)

    def image_path(self, index: int) -> Path:
        return self.root / self._images[index]

    def mask_path(self, index: int) -> Path:
        return self.root / self._masks[index]

    def _find_ids(self) -> list[str]:
        rows = list(self._rows())
        if not rows:
            raise DataError("EMPTY-SPLIT", self._table, "names no pair", "image,mask in each line")
        named: dict[str, tuple[PurePosixPath, PurePosixPath]] = {}
        line_of: dict[PurePosixPath, int] = {}
        for number, image, mask in rows:
            name = str(image).removesuffix(image.suffix)
            if name in named:
                what = f"line {number}: {image} has the name of {named[name][0]} up to the ending"
                raise DataError("DUPLICATE", self._table, what, "keep one of them")
            if mask in line_of:
                what = f"lines {line_of[mask]} and {number} name one mask for two images: {mask}"
                raise DataError("DUPLICATE", self._table, what, "each image has its own mask")
            line_of[mask] = number
            named[name] = (image, mask)
        ids = sorted(named)
        self._images = [str(named[name][0]) for name in ids]
        self._masks = [str(named[name][1]) for name in ids]
        return ids

    def _rows(self) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
        """The number, image and mask of each line, both there."""
        lines = read_text(self._table, MAX_LIST_BYTES).splitlines()
        first = next((line for line in lines if line.strip()), "")
        mark = next((mark for mark in ";\t" if mark in first), ",")
        for number, cells in enumerate(csv.reader(lines, delimiter=mark), 1):
            row = tuple(cell.strip() for cell in cells)
            if not any(row) or (number == 1 and tuple(map(str.lower, row)) == _HEADER):
                continue
            if len(row) != len(_HEADER) or not all(row):
                what = f"line {number} is no pair: {', '.join(row)}"
                raise DataError("LIST", self._table, what, "image,mask in each line")
            image, mask = (self._checked(number, cell) for cell in row)
            if image.suffix.lower() not in IMAGE_SUFFIXES:
                what = f"line {number}: {image} is no image"
                raise DataError("LIST", self._table, what, f"endings: {', '.join(IMAGE_SUFFIXES)}")
            yield number, image, mask

    def _checked(self, number: int, text: str) -> PurePosixPath:
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or "\\" in text or not is_one_line(text):
            what = f"line {number}: {text!r} leaves {self.root}"
            raise RefusedError("PATH", self._table, what, "paths are relative to from=")
        if not (self.root / path).is_file():
            what = f"line {number}: {text} is not there"
            raise DataError("MISSING-FILE", self._table, what, f"paths are relative to {self.root}")
        return path
