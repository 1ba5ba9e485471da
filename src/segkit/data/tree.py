"""What lies in a folder of images or masks, and how two folders pair up."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from segkit.errors import DataError, SegkitError

SHOWN = 3


class Refuse(Protocol):
    """What is done about a fault, which is about ``names``: raised, or noted to go on."""

    def __call__(self, error: SegkitError, names: Sequence[str] = ()) -> None: ...


def refuse(error: SegkitError, names: Sequence[str] = ()) -> None:  # noqa: ARG001
    """Raise ``error``."""
    raise error


def files_in(folder: Path, suffixes: Sequence[str], refuse: Refuse = refuse) -> dict[str, str]:
    """Every file below ``folder`` that ends in one of ``suffixes``, in any case: id -> its ending.

    An id is the path relative to ``folder`` without the ending, with forward slashes. Names that
    begin with a dot are no samples; links to folders are followed, each folder once. Raises
    ``DataError`` for a folder that is missing or unreadable and for two files of one id.
    """
    if not folder.is_dir():
        raise DataError("MISSING-FILE", folder, "no such folder")
    found: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    waiting = [PurePosixPath()]
    while waiting:
        inner = waiting.pop()
        status = (folder / inner).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(folder / inner):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append(inner / entry.name)
                continue
            ending = _ending(entry.name, suffixes)
            if ending:
                _add(found, folder, str(inner / entry.name.removesuffix(ending)), ending, refuse)
    return dict(sorted(found.items()))


def check_paired(
    images: Collection[str],
    masks: Collection[str],
    image_folder: Path,
    mask_folder: Path,
    refuse: Refuse = refuse,
) -> None:
    """``DataError`` that names the images without a mask and the masks without an image."""
    without_mask = sorted(set(images) - set(masks))
    without_image = sorted(set(masks) - set(images))
    told = []
    if without_mask:
        told.append(f"{len(without_mask)} images have no mask ({shown(without_mask)})")
    if without_image:
        told.append(
            f"{len(without_image)} masks in {mask_folder} have no image ({shown(without_image)})"
        )
    if told:
        fix = "an image and its mask have the same name up to the ending"
        refuse(DataError("ORPHANS", image_folder, "; ".join(told), fix))


def shown(names: Iterable[str]) -> str:
    """The first few of a list of names."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError("UNREADABLE", folder, error.strerror or str(error)) from None


def _ending(name: str, suffixes: Sequence[str]) -> str:
    for suffix in suffixes:
        if name.lower().endswith(suffix.lower()) and len(name) > len(suffix):
            return name[-len(suffix) :]
    return ""


def _add(found: dict[str, str], folder: Path, name: str, ending: str, refuse: Refuse) -> None:
    if name in found:
        what = f"{name}{found[name]} and {name}{ending} have the same name up to the ending"
        refuse(DataError("DUPLICATE", folder, what, "keep one of them"))
    found[name] = ending
