"""VOC's augmented training set: VOC and the Semantic Boundaries Dataset (SBD; facts 5.1).

trainaug = (VOC train ∪ SBD train ∪ SBD val) minus VOC val. Where VOC has a mask of its own, that is
the mask: it is finer, and has the 255 border that SBD lacks.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segkit.data.files import open_file
from segkit.data.labels import VOC
from segkit.data.masks import check_labels, read_mask
from segkit.data.pairs import Layout, read_list
from segkit.data.voc import Voc, VocAug
from segkit.errors import DataError, RefusedError, SegkitError
from segkit.prepare.claim import Prepared, Splits, expect, expect_counts, in_place, prepare_once
from segkit.prepare.files import link_or_copy, put
from segkit.prepare.index_png import index_png
from segkit.prepare.mat import TooLargeError, integer_field
from segkit.prepare.notes import Record, move, moved, whole_or_gone
from segkit.prepare.progress import each
from segkit.prepare.sources import (
    Kind,
    Order,
    check_given,
    find,
    obtain,
    picking,
    require,
)
from segkit.prepare.voc import (
    FOLDER,
    LISTS,
    OFFICIAL,
    Facts,
    prepare_voc,
    voc_kind,
)
from segkit.whole_files import clean, faults

MASKS = "SegmentationClassAug"
_LAYOUT = Layout("voc_aug", FOLDER, "JPEGImages", MASKS, f"{LISTS}/trainaug.txt")
_PICK_SBD = picking(r"cls/[^/]+\.mat", r"img/[^/]+\.jpg", r"train\.txt", r"val\.txt")
_LIST_NAMES = ("trainaug.txt", "train_aug.txt")
_MOST_MAT = 64 << 20  # bytes of one .mat file, expanded; a mask of VOC's size has 0.2 MB


@dataclass(frozen=True)
class Extra:
    """Masks beside VOC's own, as .mat or .png by id, and where images lie that VOC may lack."""

    masks: dict[str, Path]
    images: Path | None = None


def sbd_kind(facts: Facts) -> Kind:
    folders = ("", "dataset", "benchmark_RELEASE/dataset", "sbd", "SBD")
    return Kind("SBD", facts.sbd, folders, ("cls/*.mat", "train.txt", "val.txt"))


def aug_kind(facts: Facts) -> Kind:
    inner = (MASKS, f"{MASKS}/{MASKS}", f"VOC2012/{MASKS}", f"{FOLDER}/{MASKS}")
    return Kind(MASKS, facts.aug, ("", *inner), ("*.png",), named=f"{MASKS}*")


def list_kinds() -> list[Kind]:
    """A list of trainaug, as ids or in the authors' two paths a line."""
    folders = ("", "list", LISTS, f"{FOLDER}/{LISTS}")
    return [Kind("list of trainaug", None, folders, (name,)) for name in _LIST_NAMES]


def prepare(order: Order, facts: Facts = OFFICIAL) -> Prepared:
    """VOC as ``dataset=voc`` wants it, then ``SegmentationClassAug`` and the lists of the two
    augmented sets beside it."""
    kinds = [voc_kind(facts), sbd_kind(facts), aug_kind(facts), *list_kinds()]
    check_given(order, kinds)
    prepare_voc(order, facts)
    folder, work = order.root / FOLDER, order.root / ".segkit-voc_aug"
    build = _Build(order, facts, folder, work)
    return prepare_once("voc_aug", folder, work, lambda: _splits(folder), build)


@dataclass(frozen=True)
class _Build:
    order: Order
    facts: Facts
    folder: Path
    work: Path

    def __call__(self) -> list[Record]:
        masks = self.folder / MASKS
        if masks.is_dir():
            earlier = (moved(_converted(self.work / unit), masks) for unit in ("aug", "sbd"))
            source = next(filter(None, earlier), in_place(masks))
            lists = self._lists(_pngs(masks), masks)
            _check_own(self.folder, lists["trainval"])
        else:
            unit, source = self._extra()
            fresh = _converted(unit)
            with whole_or_gone(unit, fresh):
                extra = _mats(unit) if unit.name == "sbd" else _pngs(unit)
                lists = self._lists(extra, unit)
                self._images(lists["trainaug"], extra)
                self._convert(lists, extra, fresh)
            move(fresh, masks, source)
        for name in ("trainaug", "trainval_aug"):
            path = self.folder / LISTS / f"{name}.txt"
            if not path.is_file():
                put(path, "".join(f"{sample}\n" for sample in lists[name]).encode(), self.work)
        expect_counts(self.folder, _splits(self.folder), self.facts.samples)
        return [source]

    def _extra(self) -> tuple[Path, Record]:
        """The masks that are not VOC's: SBD, whose sum is known, before those that others made of
        it, unless they are themselves what is typed."""
        aug, sbd = aug_kind(self.facts), sbd_kind(self.facts)
        typed = [path for path in self.order.given if path.name.startswith(MASKS)]
        order = replace(self.order, given=(*typed, *self.order.given))
        if find(aug, order) and (typed or not find(sbd, order)):
            unit = self.work / "aug"
            return unit, obtain(aug, order, _pick_png, unit)
        if not self.order.download:
            require(sbd, self.order, f"or to {aug.forms}, or download=true")
        unit = self.work / "sbd"
        return unit, obtain(sbd, self.order, self._pick_sbd, unit)

    def _pick_sbd(self, name: str) -> str | None:
        """Masks and lists, and of the images those that VOC's folder lacks."""
        place = _PICK_SBD(name)
        if place and place.startswith("img/"):
            lacks = not (self.folder / "JPEGImages" / place.removeprefix("img/")).exists()
            return place if lacks else None
        return place

    def _lists(self, extra: Extra, where: Path) -> dict[str, list[str]]:
        """The ids of VOC's and of the augmented sets, all counted; ``where`` is where the masks
        beside VOC's lie."""
        expected = self.facts.samples
        own = {split: Voc(self.folder, split).ids.tolist() for split in ("train", "val")}
        val = set(own["val"])
        trainaug = sorted((set(own["train"]) | set(extra.masks)) - val)
        expect(where, "samples of trainaug", len(trainaug), expected["trainaug"])
        whole = sorted({*trainaug, *val})
        expect(where, "samples of trainval_aug", len(whole), expected["trainval_aug"])
        for path in self._given_lists():
            _check_list(path, trainaug)
        return {
            "trainaug": trainaug,
            "trainval_aug": whole,
            "trainval": sorted(own["train"] + own["val"]),
        }

    def _given_lists(self) -> list[Path]:
        """Lists beside VOC's own and under ``from=``, all of which must agree with what is made."""
        paths = [self.folder / LISTS / name for name in _LIST_NAMES]
        for kind in list_kinds():
            if _is_given(self.order, kind):
                paths.append(require(kind, self.order) / kind.marks[0])
        return [path for path in dict.fromkeys(paths) if path.is_file()]

    def _images(self, ids: list[str], extra: Extra) -> None:
        """Every image of VOC 2012 is in its tar; a trimmed copy is filled up from SBD's."""
        for name in ids:
            place = self.folder / "JPEGImages" / f"{name}.jpg"
            if not place.exists():
                source = extra.images / f"{name}.jpg" if extra.images else None
                if source is None or not source.is_file():
                    fix = "take VOC's whole JPEGImages"
                    raise DataError("MISSING-FILE", place, "image of trainaug is missing", fix)
                link_or_copy(source, place, self.work)

    def _convert(self, lists: dict[str, list[str]], extra: Extra, fresh: Path) -> None:
        """Write every mask as an index PNG with VOC's palette; go on where a kill left off."""
        with faults(fresh, 0):
            fresh.mkdir(exist_ok=True)
        clean(fresh)
        own = {
            name: self.folder / "SegmentationClass" / f"{name}.png" for name in lists["trainval"]
        }
        jobs = [(own.get(n) or extra.masks[n], fresh / f"{n}.png") for n in lists["trainval_aug"]]
        each("convert masks", jobs, lambda job: _index_png(*job), "mask")


def _converted(unit: Path) -> Path:
    return unit.with_name(f"{unit.name}-{MASKS}")


def _splits(folder: Path) -> Splits:
    augmented = {split: VocAug(folder, split) for split in ("trainaug", "trainval_aug")}
    return {**augmented, "val": VocAug(folder, "val")}


def _is_given(order: Order, kind: Kind) -> bool:
    """Whether ``from=`` leads to this kind."""
    found = find(kind, order)
    return found is not None and any(found.is_relative_to(path) for path in order.given)


def _pick_png(name: str) -> str | None:
    """Masks in any folder of SegmentationClassAug.zip but the shadows that a Mac leaves."""
    *folders, last = name.split("/")
    is_mask = last.endswith(".png") and not last.startswith(".") and "__MACOSX" not in folders
    return last if is_mask else None


def _pngs(folder: Path) -> Extra:
    return Extra({path.stem: path for path in sorted(folder.glob("*.png"))})


def _mats(folder: Path) -> Extra:
    ids = {
        name for split in ("train", "val") for name in read_list(folder / f"{split}.txt", _LAYOUT)
    }
    masks = {name: folder / "cls" / f"{name}.mat" for name in sorted(ids)}
    missing = [path for path in masks.values() if not path.is_file()]
    if missing:
        what = f"mask named in SBD's lists is missing ({len(missing)} of {len(masks)} are)"
        raise DataError("MISSING-FILE", missing[0], what, "get SBD again")
    return Extra(masks, folder / "img")


def _check_list(path: Path, trainaug: list[str]) -> None:
    ids = read_list(path, _LAYOUT)
    odd = sorted(set(ids) ^ set(trainaug))
    if odd:
        what = f"names {len(ids)} samples and differs in {len(odd)} from trainaug ({odd[0]}, ...)"
        fix = "trainaug = VOC train and SBD, without VOC val; remove the list, or correct it"
        raise DataError("LIST", path, what, fix)


def _check_own(folder: Path, ids: list[str]) -> None:
    """``DataError`` where a SegmentationClassAug made by others has not VOC's mask for VOC's id."""

    def compare(name: str) -> None:
        theirs, own = folder / MASKS / f"{name}.png", folder / "SegmentationClass" / f"{name}.png"
        if theirs.is_file() and not np.array_equal(read_mask(theirs, VOC), read_mask(own, VOC)):
            fix = f"move {folder / MASKS} elsewhere, then from=PATH to it: VOC's own masks win"
            raise DataError("MASK-DIFFERS", theirs, f"is not VOC's own mask ({own})", fix)

    each("compare masks", ids, compare, "mask")


# -- masks ---------------------------------------------------------------------------------------


def _index_png(source: Path, target: Path) -> None:
    if target.exists():
        try:
            read_mask(target, VOC)
        except SegkitError:  # a crash of the machine may have left its name alone
            target.unlink()
        else:
            return
    labels = read_mat(source) if source.suffix == ".mat" else read_mask(source, VOC)
    put(target, index_png(labels, VOC))


def read_mat(path: Path) -> np.ndarray:
    """``GTcls.Segmentation`` of one of SBD's files: uint8 [H,W], 0..20.

    Raises ``DataError`` for what is no such file or has other labels, ``RefusedError`` where it
    expands to more than a mask can have.
    """
    with open_file(path) as file:
        content = file.read(_MOST_MAT + 1)
    try:
        labels = integer_field(content, "GTcls", "Segmentation", _MOST_MAT)
    except TooLargeError:
        what = f"expands to more than {_MOST_MAT} bytes"
        raise RefusedError("ARCHIVE", path, what, "a label map of VOC is far smaller") from None
    except ValueError as error:
        what = f"no GTcls.Segmentation can be read ({error})"
        raise DataError("UNREADABLE", path, what, "get SBD again") from error
    check_labels(path, labels, VOC)
    return labels.astype(VOC.dtype)
