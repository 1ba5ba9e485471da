"""What lies in the folders of a data set: files without a partner, names that differ in case."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from segkit.check.findings import Finding, Severity
from segkit.check.scan import Survey
from segkit.data.folder import IMAGE_SUFFIXES, Folder
from segkit.data.pairs import FilePairs
from segkit.data.tree import files_in, shown
from segkit.errors import SegkitError


def inventory(surveys: Sequence[Survey]) -> Iterator[Finding]:
    """Of every pair of folders that the splits have, once each."""
    seen: set[tuple[Path, Path]] = set()
    for pairs in (survey.dataset for survey in surveys):
        if not isinstance(pairs, FilePairs):
            continue
        folders = (pairs.root / pairs.layout.images, pairs.root / pairs.layout.masks)
        if folders in seen:
            continue
        seen.add(folders)
        read = {str(i) for s in surveys if _images_of(s) == folders[0] for i in s.dataset.ids}
        yield from _of_folders(pairs, *folders, read)


def _images_of(survey: Survey) -> Path | None:
    pairs = survey.dataset
    return pairs.root / pairs.layout.images if isinstance(pairs, FilePairs) else None


def _of_folders(
    pairs: FilePairs, image_folder: Path, mask_folder: Path, read: set[str]
) -> Iterator[Finding]:
    images = _names(image_folder, pairs.layout.image_suffix)
    masks = _names(mask_folder, pairs.layout.mask_suffix)
    listed = _has_lists(pairs)
    if getattr(pairs, "has_labels", True):
        # The pairs that were read told of a missing half themselves.
        alone = sorted(images.keys() - masks.keys() - read)
        if listed and alone:  # VOC has fourteen thousand of them
            what = f"{len(alone)} images without a mask are in no list: {shown(alone)}"
            names = tuple(alone)
            yield Finding("note", "DATA-NO-MASK", str(image_folder), what, names=names)
        for name in () if listed else alone:
            where = f"{image_folder}/{name}{images[name]}"
            yield Finding("error", "DATA-NO-MASK", where, "image without a mask")
        for name in sorted(masks.keys() - images.keys() - (read if listed else set())):
            where = f"{mask_folder}/{name}{masks[name]}"
            severity: Severity = "warning" if listed else "error"
            yield Finding(severity, "DATA-NO-IMAGE", where, "mask without an image")
    yield from _case_twins(image_folder, (f"{name}{end}" for name, end in images.items()))
    yield from _case_twins(mask_folder, (f"{name}{end}" for name, end in masks.items()))


def _names(folder: Path, suffix: str) -> dict[str, str]:
    try:
        return files_in(folder, (suffix,) if suffix else IMAGE_SUFFIXES, _overlook)
    except SegkitError:
        return {}  # every pair that should lie there has been told


def _overlook(error: SegkitError, names: Sequence[str] = ()) -> None:
    """Opening has told it."""


def _has_lists(pairs: FilePairs) -> bool:
    """Whether lists choose the samples, so that other files may lie there too."""
    if isinstance(pairs, Folder):
        return any((pairs.root / f"{split}.txt").exists() for split in ("train", "val"))
    return bool(pairs.layout.list_file)


def _case_twins(folder: Path, names: Iterable[str]) -> Iterator[Finding]:
    alike = defaultdict(list)
    for name in names:
        alike[unicodedata.normalize("NFC", name).casefold()].append(name)
    for group in sorted(group for group in alike.values() if len(group) > 1):
        what = f"{' and '.join(sorted(group))} differ in the case of letters alone"
        fix = "rename one: many file systems keep only one of them"
        yield Finding("warning", "DATA-CASE-TWINS", str(folder / min(group)), what, fix)
