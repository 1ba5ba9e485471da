"""Cityscapes from its owner's zips, small."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_sets as small

from segkit.data.cityscapes import Cityscapes
from segkit.data.labels import CITYSCAPES_CLASS_OF
from segkit.errors import DataError
from segkit.prepare.cityscapes import OFFICIAL, Facts, prepare, prepare_coarse
from segkit.prepare.sources import Order


@pytest.fixture
def has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "has"


def counts(made: object) -> dict[str, int]:
    return {split: facts["samples"] for split, facts in made.record["splits"].items()}


def test_official_counts() -> None:
    fine, coarse = OFFICIAL.fine, OFFICIAL.coarse
    assert fine[0].counts == {"train": 2975, "val": 500, "test": 1525}
    assert fine[1].counts == {"train": 2975, "val": 500}
    assert coarse[0].counts["train_extra"] == coarse[1].counts["train_extra"] == 19_998


def test_fine_then_coarse(has: Path, tmp_path: Path) -> None:
    facts, order = small.street_zips(has), Order(tmp_path / "data", (has,))
    made = prepare(order, facts)
    assert counts(made) == {"train": 2, "val": 1, "test": 1}
    assert "pixels" not in made.record["splits"]["test"]
    folder = tmp_path / "data/cityscapes"
    files = {p.name.split("_", 3)[3] for p in folder.rglob("*.*") if p.parent != folder}
    assert files == {"leftImg8bit.png", "gtFine_labelIds.png"}
    assert not (folder / "gtCoarse").exists()
    data = Cityscapes(folder, "val")
    table = np.array([CITYSCAPES_CLASS_OF[i] for i in range(34)])
    ids = small.labels_of("gtFine/val/ulm/ulm_000000_000019", 34, border=False)
    np.testing.assert_array_equal(data.read(0)[1], table[ids])
    assert not prepare(order, facts).is_new

    coarse = prepare_coarse(order, facts)
    assert coarse.is_new
    assert counts(coarse) == {"train": 2, "val": 1, "train_extra": 1}
    assert not prepare_coarse(Order(tmp_path / "data"), facts).is_new
    assert not prepare(Order(tmp_path / "data"), facts).is_new


def test_zips_that_were_extracted_by_hand(has: Path, tmp_path: Path) -> None:
    facts = small.street_zips(has)
    small.lay(small.street("leftImg8bit", ("train", "val", "test")), tmp_path / "data/cityscapes")
    small.lay(small.street("gtFine", ("train", "val", "test")), tmp_path / "trees")
    made = prepare(Order(tmp_path / "data", (tmp_path / "trees",)), facts)
    assert counts(made) == {"train": 2, "val": 1, "test": 1}
    kinds = [source["kind"] for source in made.record["sources"]]
    assert kinds == ["in place", "folder"]


def test_a_missing_zip_is_named_and_the_login_told(has: Path, tmp_path: Path) -> None:
    facts = small.street_zips(has)
    (has / "gtFine_trainvaltest.zip").unlink()
    with pytest.raises(DataError, match="login") as fault:
        prepare(Order(tmp_path / "data", (has,)), facts)
    assert "gtFine_trainvaltest.zip" in fault.value.line()


def test_another_zip_than_the_owner_s_is_refused(has: Path, tmp_path: Path) -> None:
    facts = small.street_zips(has)
    small.zipped(small.street("gtFine", ("train", "val")), has / "gtFine_trainvaltest.zip")
    with pytest.raises(DataError) as fault:
        prepare(Order(tmp_path / "data", (has,)), facts)
    assert fault.value.id == "DATA-CHECKSUM"
    assert facts.fine[1].zip.sha256 in fault.value.line()


def test_a_wrong_count_tells_found_and_expected(has: Path, tmp_path: Path) -> None:
    facts = small.street_zips(has)
    image, label = facts.fine
    wrong = Facts((image, replace(label, counts={"train": 2975, "val": 500})), facts.coarse)
    with pytest.raises(DataError, match=r"found 2 .* expected 2975"):
        prepare(Order(tmp_path / "data", (has,)), wrong)
    assert not (tmp_path / "data/cityscapes/gtFine").exists()
    shutil.rmtree(tmp_path / "data/cityscapes/leftImg8bit/val")
    assert prepare(Order(tmp_path / "data", (has,)), facts).is_new
