"""PASCAL VOC 2012 (facts 5.1): from its tar or an extracted VOCdevkit."""

from dataclasses import dataclass, field
from pathlib import Path

from segkit.data.voc import Voc
from segkit.prepare.claim import Prepared, Splits, expect_counts, in_place, prepare_once
from segkit.prepare.known import GIB, Budget, Known
from segkit.prepare.notes import Record, move, moved, whole_or_gone
from segkit.prepare.sources import Kind, Order, check_given, obtain, picking

FOLDER = "VOCdevkit/VOC2012"
LISTS = "ImageSets/Segmentation"

VOC_TAR = Known(
    "VOCtrainval_11-May-2012.tar",
    Budget(bytes=4 * GIB, files=200_000),
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    address="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    hosts=("host.robots.ox.ac.uk",),
)
SBD_TGZ = Known(
    "benchmark.tgz",
    Budget(bytes=8 * GIB, files=200_000),
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
    address="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
    "semantic_contours/benchmark.tgz",
)
AUG_ZIP = Known("SegmentationClassAug.zip", Budget(bytes=GIB, files=50_000))


@dataclass(frozen=True)
class Facts:
    """What the official set is; tests have small ones."""

    samples: dict[str, int] = field(
        default_factory=lambda: {
            "train": 1464,
            "val": 1449,
            "trainval": 2913,
            "trainaug": 10_582,
            "trainval_aug": 12_031,
        }
    )
    voc: Known = VOC_TAR
    sbd: Known = SBD_TGZ
    aug: Known = AUG_ZIP


OFFICIAL = Facts()

_PICK = picking(r"JPEGImages/[^/]+\.jpg", r"SegmentationClass/[^/]+\.png", rf"{LISTS}/[^/]+\.txt")


def voc_kind(facts: Facts) -> Kind:
    folders = ("", "VOC2012", FOLDER)
    return Kind("PASCAL VOC 2012", facts.voc, folders, (f"{LISTS}/train.txt", "JPEGImages"))


def prepare(order: Order, facts: Facts = OFFICIAL) -> Prepared:
    """``ROOT/VOCdevkit/VOC2012`` with its train, val and trainval."""
    check_given(order, [voc_kind(facts)])
    return prepare_voc(order, facts)


def prepare_voc(order: Order, facts: Facts) -> Prepared:
    """As ``prepare``, with ``from=`` for other archives beside VOC's own."""
    folder, work = order.root / FOLDER, order.root / ".segkit-voc"
    return prepare_once(
        "voc",
        folder,
        work,
        lambda: _splits(folder),
        lambda: _build(order, facts, folder, work / "VOC2012"),
    )


def _build(order: Order, facts: Facts, folder: Path, unit: Path) -> list[Record]:
    if (folder / LISTS / "train.txt").is_file():
        expect_counts(folder, _splits(folder), facts.samples)
        return [moved(unit, folder) or in_place(folder)]
    source = obtain(voc_kind(facts), order, _PICK, unit)
    with whole_or_gone(unit):
        expect_counts(unit, _splits(unit), facts.samples)
    move(unit, folder, source)
    return [source]


def _splits(folder: Path) -> Splits:
    return {split: Voc(folder, split) for split in ("train", "val", "trainval")}
