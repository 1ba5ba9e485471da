"""A folder of one's own: images, masks, and the names of the classes."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from segkit.data.description import CLASS_LIST, Description
from segkit.data.images import MAX_PIXELS
from segkit.data.masks import lossy
from segkit.data.pairs import FilePairs, Layout, read_list
from segkit.data.tree import check_paired, files_in, shown
from segkit.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# What people have as well, and what would otherwise be left out without a word.
OTHER_SUFFIXES = (
    *(".tif", ".tiff", ".webp", ".bmp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".jfif"),
    *(".ppm", ".pgm", ".dng", ".cr2", ".nef", ".arw"),
)
ALL = "all"


class Folder(FilePairs):
    """``root/images/NAME.jpg`` (jpeg, png) and ``root/masks/NAME.png``, in subfolders or not.

    ``split`` is the list ``root/<split>.txt``. Where there is neither ``train.txt`` nor
    ``val.txt``, ``val`` is a share of about ``val_share`` chosen by the samples' names, ``train``
    the rest, and ``all`` everything. The classes and tables are those of ``Description``.
    ``colours``: an RGB triple per class, for RGB masks and for pictures; ``values``: what a mask
    holds -> label; ``ignore_label``: 255 (65535 with more than 255 classes) unless given.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        classes: Sequence[str] | None = None,
        colours: Sequence[Sequence[int]] | None = None,
        ignore_colour: Sequence[int] | None = None,
        values: Mapping[int, int] | None = None,
        ignore_label: int | None = None,
        val_share: float = 0.2,
        images: str = "images",
        masks: str = "masks",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if root is None:
            fix = "type dataset.root=/path/to/the/folder"
            raise ConfigError("MISSING", "dataset.root", "has no value", fix)
        if not 0 < val_share < 1:
            raise ConfigError("RANGE", "dataset.val_share", f"{val_share}", "between 0 and 1")
        typed = {
            "classes": classes,
            "colours": colours,
            "ignore_colour": ignore_colour,
            "values": values,
            "ignore_label": ignore_label,
        }
        self.split, self.val_share = split, val_share
        place = Path(root).expanduser()
        _require(place, images, masks)
        self.described = Description(place, typed)
        super().__init__(
            place,
            Layout("folder", "", images, masks, image_suffix="", mask_suffix=""),
            self.described.labels,
            colour_table=self.described.colour_table,
            value_table=self.described.value_table,
            max_pixels=max_pixels,
        )

    def image_path(self, index: int) -> Path:
        return self.root / self.layout.images / f"{self.ids[index]}{self._image_endings[index]}"

    def mask_path(self, index: int) -> Path:
        return self.root / self.layout.masks / f"{self.ids[index]}{self._mask_endings[index]}"

    def read_label(self, index: int) -> np.ndarray:
        label = super().read_label(index)
        if self._may_be_binary and _only_0_and_255(label):
            what = "holds only 0 and 255: is 255 the class 1, or is it void?"
            fix = (
                "type 'dataset.values={0: 0, 255: 1}' if it is class 1, "
                "dataset.ignore_label=255 if it is void"
            )
            raise DataError("MASK-BINARY", self.mask_path(index), what, fix)
        return label

    @property
    def _may_be_binary(self) -> bool:
        """Whether nobody has said what 255 means; 0 and 255 are how many tools write 0 and 1."""
        said = self.described
        void_has_colour = len(said.colour_table or ()) > said.labels.num_classes
        told = said.explicit_ignore or said.value_table is not None or void_has_colour
        return said.labels.ignore_label == 255 and not told

    def _find_ids(self) -> list[str]:
        image_folder, mask_folder = self.root / self.layout.images, self.root / self.layout.masks
        images, masks = (
            files_in(image_folder, IMAGE_SUFFIXES, self._refuse),
            files_in(mask_folder, IMAGE_SUFFIXES, self._refuse),
        )
        if no_png := [name for name, ending in masks.items() if ending.lower() != ".png"]:
            self._refuse(lossy(mask_folder / f"{no_png[0]}{masks[no_png[0]]}"))
        ids = self._listed(images, masks)
        if ids is None:
            for folder, known in ((image_folder, images), (mask_folder, masks)):
                self._refuse_other_kinds(folder, known)
            check_paired(images, masks, image_folder, mask_folder, self._refuse)
            ids = self._drawn(list(images), image_folder)
        # A file that is not there has no ending: reading its pair names it.
        self._image_endings = np.array([images.get(name, ".jpg") for name in ids])
        self._mask_endings = np.array([masks.get(name, ".png") for name in ids])
        return ids

    def _refuse_other_kinds(self, folder: Path, known: Mapping[str, str]) -> None:
        """Pictures of kinds that are not read, unless they are there as JPEG or PNG too."""
        others = files_in(folder, OTHER_SUFFIXES, lambda _error, _names=(): None)
        names = [f"{name}{ending}" for name, ending in others.items() if name not in known]
        if names:
            count = f"{len(names)} pictures are" if len(names) > 1 else "a picture is"
            what = f"{count} neither JPEG nor PNG: {shown(names)}"
            fix = "convert photos to JPEG or PNG and masks to PNG, or move them elsewhere"
            self._refuse(DataError("FORMAT", folder, what, fix))

    def _listed(self, images: Mapping[str, str], masks: Mapping[str, str]) -> list[str] | None:
        """The ids of the split's list, with or without the images' endings; None: no lists."""
        path = self.root / f"{self.split}.txt"
        lists = [p.name for s in ("train", "val") if (p := self.root / f"{s}.txt").exists()]
        if not path.exists():
            if lists and self.split != ALL:
                what = f"no such list beside {' and '.join(lists)}"
                raise DataError("MISSING-FILE", path, what, "one name a line")
            return None
        bare = {f"{name}{ending}": name for name, ending in images.items()}
        named = read_list(path, self.layout, self._refuse)
        # An id comes before a file's whole name: x.jpg may be the id of x.jpg.jpg.
        ids = sorted({name if name in images else bare.get(name, name) for name in named})
        for kind, present in (("image", images), ("mask", masks)):
            if missing := [name for name in ids if name not in present]:
                what = f"{len(missing)} of {len(ids)} names have no {kind}: {shown(missing)}"
                fix = f"expected: {self.layout.expected}"
                self._refuse(DataError("MISSING-FILE", path, what, fix))
        return ids

    def _drawn(self, ids: list[str], folder: Path) -> list[str]:
        if not ids:
            raise DataError("EMPTY-SPLIT", folder, "holds no image", ", ".join(IMAGE_SUFFIXES))
        if self.split == ALL:
            return ids
        if self.split not in ("train", "val"):
            fix = f"train, val, all, or write {self.root / self.split}.txt"
            raise ConfigError("SPLITS", "dataset", f"no split {self.split!r} of the folder", fix)
        if len(ids) == 1:
            what = "one image cannot be both trained on and scored"
            raise DataError("EMPTY-SPLIT", folder, what, "add images with their masks")
        return split_by_name(ids, self.val_share)[self.split]


def split_by_name(ids: Iterable[str], val_share: float) -> dict[str, list[str]]:
    """``train`` and ``val``, each of at least one of two or more ids.

    An id is in ``val`` where the first 64 bits of the SHA-256 of its name (UTF-8, NFC) are below
    ``val_share`` of their range: the same on any machine, and a new sample moves no other.
    """
    order = sorted(ids, key=_draw)
    count = sum(_draw(name) < val_share for name in order)
    count = min(max(count, 1), len(order) - 1)
    return {"train": sorted(order[count:]), "val": sorted(order[:count])}


def _draw(name: str) -> float:
    """A number in 0..1 made of a name."""
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64


def _only_0_and_255(label: np.ndarray) -> bool:
    return bool((label == 255).any() and ((label == 0) | (label == 255)).all())


def _require(root: Path, *folders: str) -> None:
    for folder in folders:
        if not os.path.isdir(root / folder):  # noqa: PTH112 - False for names that are too long
            where = root if not os.path.isdir(root) else root / folder  # noqa: PTH112
            expected = ", ".join(f"{root / name}/" for name in folders)
            fix = f"expected {expected} and {CLASS_LIST}; type dataset.root=/path/to/the/folder"
            raise DataError("MISSING", where, "no such folder", fix)
