"""The lists of a prepared folder: who is in which, and whether a list can say it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.data.folder import Folder, split_by_name
from segkit.data.pairs import ids_in
from segkit.data.tree import shown
from segkit.errors import DataError, SegkitError

SPLITS = ("train", "val")


def check_names(samples: Folder) -> None:
    """``DataError`` for the first sample whose name does not come back out of a list."""
    for index, name in enumerate(samples.ids.tolist()):
        if any(part.startswith(".") for part in name.split("/")) or not _comes_back(name, samples):
            what = "has a name that no list can hold"
            fix = (
                "rename it: no # or blank at its begin, no blank at its end, no line break, no "
                "hidden folder, UTF-8"
            )
            raise DataError("NAME", samples.image_path(index), what, fix)


def _comes_back(name: str, samples: Folder) -> bool:
    try:
        name.encode()
        return ids_in(f"{name}\n", Path("list"), samples.layout) == [name]
    except (UnicodeEncodeError, SegkitError):
        return False


def splits_of(
    samples: Folder, source: Path, words: Mapping[str, Any], by_name: bool
) -> dict[str, list[str]]:
    """The source's own lists, or by name.

    Raises ``DataError`` for a name in both lists, and for one that is not among ``samples``.
    """
    ids = samples.ids.tolist()
    lists = [source / f"{split}.txt" for split in SPLITS]
    if by_name or not any(path.exists() for path in lists):
        if len(ids) < len(SPLITS):
            what = f"{len(ids)} sample cannot be both trained on and scored"
            raise DataError("EMPTY-SPLIT", source, what, "add images with their masks")
        return split_by_name(ids, samples.val_share)
    splits = {s: Folder(source, s, **words).ids.tolist() for s in SPLITS}
    train, val = map(set, splits.values())
    if both := sorted(train & val):
        what = f"{len(both)} of its names are in train.txt too: {shown(both)}"
        fix = "what is trained on is not scored: take each out of one list"
        raise DataError("OVERLAP", lists[1], what, fix)
    if strange := sorted((train | val) - set(ids)):
        what = f"{len(strange)} names of the lists are not among the samples: {shown(strange)}"
        raise DataError("MISSING-FILE", source, what, "is there an all.txt that lacks them?")
    return splits
