"""Cityscapes (facts 5.2): from the zips that its site gives to registered users."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from segkit.data.cityscapes import Cityscapes
from segkit.prepare.claim import IN_PLACE, Prepared, Splits, expect, prepare_once
from segkit.prepare.known import GIB, Budget, Known
from segkit.prepare.notes import Record, move, moved, whole_or_gone
from segkit.prepare.sources import Kind, Order, check_given, obtain, picking

FOLDER = "cityscapes"

_SITE = "a login on www.cityscapes-dataset.com gives the zips"


@dataclass(frozen=True)
class Package:
    """One zip: what is wanted of it, and how many files that is in each folder."""

    zip: Known
    kind: str  # leftImg8bit, gtFine, gtCoarse
    counts: dict[str, int]

    @property
    def tree(self) -> Kind:
        marks = tuple(f"{self.kind}/{split}" for split in self.counts)
        return Kind(self.zip.name, self.zip, ("", FOLDER), marks)

    @property
    def ending(self) -> str:
        return f"_{self.kind}.png" if self.kind == "leftImg8bit" else f"_{self.kind}_labelIds.png"


def _package(
    name: str, sha256: str, kind: str, counts: dict[str, int], gib: int, files: int
) -> Package:
    return Package(Known(name, Budget(gib * GIB, files), sha256=sha256), kind, counts)


FINE = (
    _package(
        "leftImg8bit_trainvaltest.zip",
        "3ccff9ac1fa1d80a6a064407e589d747ed0657aac7dc495a4403ae1235a37525",
        "leftImg8bit",
        {"train": 2975, "val": 500, "test": 1525},
        gib=24,
        files=20_000,
    ),
    _package(
        "gtFine_trainvaltest.zip",
        "40461a50097844f400fef147ecaf58b18fd99e14e4917fb7c3bf9c0d87d95884",
        "gtFine",
        {"train": 2975, "val": 500},  # what it has for test is void
        gib=8,
        files=60_000,
    ),
)
COARSE = (
    _package(
        "gtCoarse.zip",
        "3555e09349ed49127053d940eaa66a87a79a175662b329c1a26a58d47e602b5b",
        "gtCoarse",
        {"train": 2975, "val": 500, "train_extra": 19_998},
        gib=16,
        files=200_000,
    ),
    _package(
        "leftImg8bit_trainextra.zip",
        "e41cc14c0c06aad051d52042465d9b8c22bacf6e4c93bb98de273ed7177b7133",
        "leftImg8bit",
        {"train_extra": 19_998},
        gib=96,
        files=60_000,
    ),
)


@dataclass(frozen=True)
class Facts:
    """The packages of the official set; tests have small ones."""

    fine: tuple[Package, ...] = FINE
    coarse: tuple[Package, ...] = COARSE


OFFICIAL = Facts()


def prepare(order: Order, facts: Facts = OFFICIAL) -> Prepared:
    """``ROOT/cityscapes`` with the fine labels of train and val, and the images of test."""
    check_given(order, [package.tree for package in facts.fine])
    return _prepare_fine(order, facts)


def prepare_coarse(order: Order, facts: Facts = OFFICIAL) -> Prepared:
    """The same, and beside it the coarse labels and train_extra."""
    check_given(order, [package.tree for package in (*facts.fine, *facts.coarse)])
    _prepare_fine(order, facts)
    folder, work = order.root / FOLDER, order.root / ".segkit-cityscapes_coarse"
    return prepare_once(
        "cityscapes_coarse",
        folder,
        work,
        lambda: _splits(folder, "coarse", ("train", "val", "train_extra")),
        lambda: [_unpack(order, package, folder, work) for package in facts.coarse],
    )


def _prepare_fine(order: Order, facts: Facts) -> Prepared:
    folder, work = order.root / FOLDER, order.root / ".segkit-cityscapes"
    return prepare_once(
        "cityscapes",
        folder,
        work,
        lambda: _splits(folder, "fine", ("train", "val", "test")),
        lambda: [_unpack(order, package, folder, work) for package in facts.fine],
    )


def _splits(folder: Path, annotations: str, splits: tuple[str, ...]) -> Splits:
    return {split: Cityscapes(folder, split, annotations) for split in splits}  # type: ignore[arg-type]


def _unpack(order: Order, package: Package, folder: Path, work: Path) -> Record:
    """Have every folder of the package in its place, counted; what is there already is kept."""
    unit = work / package.zip.name.removesuffix(".zip")
    missing = [split for split in package.counts if not (folder / package.kind / split).is_dir()]
    places = [(unit / package.kind / s, folder / package.kind / s) for s in package.counts]
    earlier = [moved(*place) for place in places if place[1].is_dir()]
    source = next(filter(None, earlier), {"name": package.zip.name, "kind": IN_PLACE})
    if missing:
        if not all((unit / package.kind / split).is_dir() for split in missing):
            shutil.rmtree(unit, ignore_errors=True)  # an older one, of which part has gone its way
        splits = "|".join(package.counts)
        pick = picking(rf"{package.kind}/(?:{splits})/[^/]+/[^/]+{package.ending}")
        source = obtain(package.tree, order, pick, unit, _SITE)
        with whole_or_gone(unit):
            for split in missing:
                _expect(unit, package, split)
        for split in missing:
            move(unit / package.kind / split, folder / package.kind / split, source)
    for split in package.counts:
        _expect(folder, package, split)
    return source


def _expect(root: Path, package: Package, split: str) -> None:
    folder = root / package.kind / split
    found = sum(1 for _ in folder.glob(f"*/*{package.ending}"))
    expect(folder, f"files *{package.ending} of {split}", found, package.counts[split])
