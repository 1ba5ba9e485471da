"""VOC and its augmented set, from every form that users have them in."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_sets as small
from PIL import Image
from servers import serving, whole

from segkit.data.labels import VOC
from segkit.data.masks import read_mask
from segkit.data.voc import VocAug
from segkit.errors import DataError, RefusedError, SegkitError
from segkit.prepare import sbd, voc
from segkit.prepare.claim import MANIFEST
from segkit.prepare.sources import Order

FOLDER = Path("VOCdevkit/VOC2012")
VOC_TAR, SBD_TGZ, AUG_ZIP = voc.VOC_TAR.name, voc.SBD_TGZ.name, voc.AUG_ZIP.name


@pytest.fixture
def has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what the user has; the tests stand in an empty one."""
    for name in ("has", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "has"


def archives(has: Path) -> voc.Facts:
    return small.facts_of(
        small.tar(small.voc_tree(), has / VOC_TAR), small.tgz(small.sbd_tree(), has / SBD_TGZ)
    )


def prepared(root: Path, *given: Path, facts: voc.Facts | None = None) -> Path:
    """``root``'s VOC folder, checked in every respect."""
    made = sbd.prepare(Order(root, given), facts or small.facts_of(None, None))
    folder = root / FOLDER
    assert made.is_new
    check(folder)
    assert not [path for path in root.iterdir() if path.is_dir() and path.name.startswith(".")]
    return folder


def check(folder: Path) -> None:
    """Every split, mask and count of the small set."""
    trainaug, val = VocAug(folder), VocAug(folder, "val")
    assert trainaug.ids.tolist() == small.TRAINAUG
    assert VocAug(folder, "trainval_aug").ids.tolist() == sorted(small.TRAINAUG + small.VAL)
    assert val.ids.tolist() == small.VAL
    for index, name in enumerate(small.TRAINAUG):
        own = name in small.TRAIN
        expected = small.labels_of(name if own else f"sbd {name}", border=own)
        np.testing.assert_array_equal(trainaug.read(index)[1], expected)
    for name in small.VAL:
        mask = read_mask(folder / sbd.MASKS / f"{name}.png", VOC)
        np.testing.assert_array_equal(mask, small.labels_of(name))
    facts = json.loads((folder / MANIFEST).read_text())["sets"]["voc_aug"]["splits"]
    assert {split: facts[split]["samples"] for split in facts} == {
        split: small.COUNTS[split] for split in ("trainaug", "trainval_aug", "val")
    }
    pixels = np.bincount(
        np.concatenate([trainaug.read_label(i).ravel() for i in range(6)]), minlength=256
    )
    assert list(facts["trainaug"]["pixels"].values()) == [*pixels[:21], pixels[255]]
    assert list(facts["trainaug"]["pixels"]) == [*VOC.names, "(ignored)"]


def test_from_tar_and_tgz(has: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "data", has, facts=archives(has))
    with Image.open(folder / sbd.MASKS / f"{small.SBD_ONLY[0]}.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[: 3 * 21] == [v for colour in VOC.colours for v in colour]
    for unwanted in ("Annotations", "ImageSets/Main"):
        assert not (folder / unwanted).exists()
    sources = json.loads((folder / MANIFEST).read_text())["sets"]["voc_aug"]["sources"]
    assert [source["name"] for source in sources] == [SBD_TGZ]
    assert len(sources[0]["sha256"]) == 64


def extracted_in_place(_has: Path, root: Path) -> list[Path]:
    small.lay(small.voc_tree(), root)
    small.lay(small.sbd_tree(), root)
    return []


def extracted_elsewhere(has: Path, _root: Path) -> list[Path]:
    small.lay(small.voc_tree(), has)
    small.lay(small.sbd_tree(), has)
    return [has]


def archives_in_downloads(_has: Path, root: Path) -> list[Path]:
    (root / "downloads").mkdir(parents=True)
    archives(root / "downloads")
    return []


def archives_by_name(has: Path, _root: Path) -> list[Path]:
    archives(has)
    return [has / VOC_TAR, has / SBD_TGZ]


def aug_zip(has: Path, _root: Path) -> list[Path]:
    small.tar(small.voc_tree(), has / VOC_TAR)
    tree = small.aug_tree() | {"__MACOSX/SegmentationClassAug/._2007_000001.png": b"junk"}
    small.zipped(tree, has / AUG_ZIP)
    return [has]


def aug_folder(has: Path, _root: Path) -> list[Path]:
    small.tar(small.voc_tree(), has / VOC_TAR)
    small.lay(small.aug_tree("SegmentationClassAug/SegmentationClassAug"), has)
    return [has / VOC_TAR, has / "SegmentationClassAug"]


def aug_in_place(_has: Path, root: Path) -> list[Path]:
    small.lay(small.voc_tree(), root)
    small.lay(small.aug_tree(f"{FOLDER}/SegmentationClassAug"), root)
    return []


def aug_in_place_with_the_authors_list(has: Path, root: Path) -> list[Path]:
    aug_in_place(has, root)
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\r\n" for n in small.TRAINAUG]
    (root / FOLDER / voc.LISTS / "trainaug.txt").write_text("".join(lines))
    return []


def images_from_sbd(has: Path, _root: Path) -> list[Path]:
    """A trimmed VOC, with the images of its own train and val alone."""
    small.tar(small.voc_tree(small.TRAIN + small.VAL), has / VOC_TAR)
    small.tgz(small.sbd_tree(), has / SBD_TGZ)
    return [has]


@pytest.mark.parametrize(
    "lay",
    [
        extracted_in_place, extracted_elsewhere, archives_in_downloads, archives_by_name, aug_zip,
        aug_folder, aug_in_place, aug_in_place_with_the_authors_list, images_from_sbd,
    ],
)  # fmt: skip
def test_from_every_form(
    has: Path, tmp_path: Path, lay: Callable[[Path, Path], list[Path]]
) -> None:
    root = tmp_path / "data"
    given = lay(has, root)
    found = [next((p for p in tmp_path.rglob(name)), None) for name in (VOC_TAR, SBD_TGZ)]
    before = small.fingerprint(has)
    prepared(root, *given, facts=small.facts_of(*found))
    assert small.fingerprint(has) == before, "what the user has is left as it is"


def test_by_download_cut_on_the_way(has: Path, tmp_path: Path) -> None:
    facts, root = archives(has), tmp_path / "data"
    tar, tgz = ((has / name).read_bytes() for name in (VOC_TAR, SBD_TGZ))
    shutil.rmtree(has)
    with serving(tar, whole(upto=5000), whole()) as one, serving(tgz, whole()) as two:
        online = replace(
            facts,
            voc=replace(facts.voc, address=one.address),
            sbd=replace(facts.sbd, address=two.address),
        )
        with pytest.raises(DataError, match="download=true"):
            sbd.prepare(Order(root), online)
        assert sbd.prepare(Order(root, download=True), online).is_new
        check(root / FOLDER)
        shutil.rmtree(root / "VOCdevkit")
        assert sbd.prepare(Order(root, download=True), online).is_new
    assert one.ranges == [None, "bytes=5000-"], "the second time it lies in downloads"
    assert two.ranges == [None]
    assert sorted(p.name for p in (root / "downloads").iterdir()) == [VOC_TAR, SBD_TGZ]


def test_a_second_call_does_nothing_and_says_so(has: Path, tmp_path: Path) -> None:
    facts = archives(has)
    folder = prepared(tmp_path / "data", has, facts=facts)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shutil.rmtree(has)
    again = sbd.prepare(Order(tmp_path / "data"), facts)
    assert not again.is_new
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_was_taken_away_is_made_again(has: Path, tmp_path: Path) -> None:
    facts = archives(has)
    folder = prepared(tmp_path / "data", has, facts=facts)
    whole = small.fingerprint(folder)
    shutil.rmtree(folder / sbd.MASKS)
    prepared(tmp_path / "data", has, facts=facts)
    assert small.fingerprint(folder) == whole


def test_voc_alone(has: Path, tmp_path: Path) -> None:
    made = voc.prepare(Order(tmp_path / "data", (has,)), archives(has))
    counts = {split: facts["samples"] for split, facts in made.record["splits"].items()}
    assert counts == {"train": 3, "val": 2, "trainval": 5}
    assert not (tmp_path / "data" / FOLDER / sbd.MASKS).exists()
    assert sbd.prepare(Order(tmp_path / "data", (has,)), archives(has)).is_new


def refusal(root: Path, *given: Path, facts: voc.Facts) -> SegkitError:
    with pytest.raises((DataError, RefusedError)) as fault:
        sbd.prepare(Order(root, given), facts)
    return fault.value


@pytest.mark.parametrize("missing", [VOC_TAR, SBD_TGZ])
def test_what_is_not_found_is_named_with_what_to_type(
    has: Path, tmp_path: Path, missing: str
) -> None:
    facts = archives(has)
    (has / missing).unlink()
    fault = refusal(tmp_path / "data", has, facts=facts)
    assert fault.id == "DATA-SOURCE"
    assert missing in fault.fix
    assert str(has) in fault.line()


def test_a_given_path_that_holds_nothing_is_named(has: Path, tmp_path: Path) -> None:
    facts = archives(has)
    fault = refusal(tmp_path / "data", has, tmp_path / "here", facts=facts)
    assert str(tmp_path / "here") in fault.line()
    assert "no such" in refusal(tmp_path / "data", tmp_path / "gone", facts=facts).line()


@pytest.mark.parametrize("altered", [VOC_TAR, SBD_TGZ])
def test_an_altered_archive_is_refused_by_its_sum(has: Path, tmp_path: Path, altered: str) -> None:
    facts = archives(has)
    with (has / altered).open("ab") as file:
        file.write(b"\0")
    fault = refusal(tmp_path / "data", has, facts=facts)
    assert fault.id == "DATA-CHECKSUM"
    assert facts.voc.md5 in fault.line() or facts.sbd.md5 in fault.line()
    assert not (tmp_path / "data" / FOLDER / sbd.MASKS).exists()


@pytest.mark.parametrize(("split", "expected"), [("train", 1464), ("trainaug", 10_582)])
def test_a_wrong_count_tells_found_and_expected(
    has: Path, tmp_path: Path, split: str, expected: int
) -> None:
    facts = archives(has)
    wrong = voc.Facts({**small.COUNTS, split: expected}, facts.voc, facts.sbd, facts.aug)
    fault = refusal(tmp_path / "data", has, facts=wrong)
    assert fault.id == "DATA-COUNT"
    assert f"found {small.COUNTS[split]} samples of {split}, expected {expected}" in fault.line()
    prepared(tmp_path / "data", has, facts=facts)  # and nothing of the wrong one stays in the way


def test_official_counts_agree_with_one_another() -> None:
    counts = voc.OFFICIAL.samples
    assert counts["train"] + counts["val"] == counts["trainval"] == 2913
    assert counts["trainaug"] + counts["val"] == counts["trainval_aug"] == 12_031


def test_a_mask_in_place_that_is_not_voc_s_own_is_named(has: Path, tmp_path: Path) -> None:
    aug_in_place(has, tmp_path / "data")
    path = tmp_path / "data" / FOLDER / sbd.MASKS / f"{small.TRAIN[1]}.png"
    path.write_bytes(small.picture("L", small.labels_of("another")))
    fault = refusal(tmp_path / "data", facts=small.facts_of(None, None))
    assert fault.id == "DATA-MASK-DIFFERS"
    assert str(path) in fault.line()


def test_voc_s_own_mask_wins_over_a_given_one(has: Path, tmp_path: Path) -> None:
    (given,) = aug_zip(has, tmp_path / "data")
    tree = small.aug_tree()
    tree[f"SegmentationClassAug/{small.TRAIN[0]}.png"] = small.picture("L", small.labels_of("x"))
    small.zipped(tree, has / AUG_ZIP)
    prepared(tmp_path / "data", given, facts=small.facts_of(has / VOC_TAR, None))


@pytest.mark.parametrize("name", ["trainaug.txt", "train_aug.txt"])
def test_a_list_that_says_otherwise_is_named(has: Path, tmp_path: Path, name: str) -> None:
    facts = archives(has)
    (has / name).write_text("\n".join(small.TRAINAUG[1:]))
    fault = refusal(tmp_path / "data", has, facts=facts)
    assert fault.id == "DATA-LIST"
    assert small.TRAINAUG[0] in fault.line()


def test_an_sbd_without_one_of_its_masks_is_named(has: Path, tmp_path: Path) -> None:
    tree = small.sbd_tree()
    gone = f"benchmark_RELEASE/dataset/cls/{small.SBD_ONLY[0]}.mat"
    del tree[gone]
    small.tar(small.voc_tree(), has / VOC_TAR)
    small.tgz(tree, has / SBD_TGZ)
    facts = small.facts_of(has / VOC_TAR, has / SBD_TGZ)
    fault = refusal(tmp_path / "data", has, facts=facts)
    assert Path(gone).name in fault.line()
