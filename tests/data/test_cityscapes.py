from pathlib import Path

import numpy as np
import pytest
from pictures import png, random_rgb, write

from segkit.data import cityscapes
from segkit.data.cityscapes import Cityscapes
from segkit.errors import ConfigError, DataError, ExitCode

VAL = ["frankfurt/frankfurt_000000_000294", "lindau/lindau_000001_000019"]
IDS = np.array([[7, 33, 0, 24], [9, 11, 255, 8]], np.uint8)
CLASSES = np.array([[0, 18, 255, 11], [255, 2, 255, 1]], np.uint8)


def fill(root: Path, split: str = "val", ids: list[str] = VAL, kind: str = "gtFine") -> Path:
    for name in ids:
        write(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", png(random_rgb(2, 4)))
        write(root / f"{kind}/{split}/{name}_{kind}_labelIds.png", png(IDS))
        write(root / f"{kind}/{split}/{name}_{kind}_color.png", png(random_rgb(2, 4)))
    return root


def test_samples_are_the_tree_and_masks_become_classes(tmp_path: Path) -> None:
    data = Cityscapes(fill(tmp_path), "val")
    assert data.ids.tolist() == VAL
    rgb, label = data.read(0)
    assert (rgb.dtype, label.dtype) == (np.uint8, np.uint8)
    assert np.array_equal(rgb, random_rgb(2, 4))
    assert np.array_equal(label, CLASSES)


def test_the_place_in_the_data_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path))
    fill(tmp_path / "cityscapes", "train", ["ulm/ulm_000000_000019"])
    assert Cityscapes(split="train").ids.tolist() == ["ulm/ulm_000000_000019"]
    with pytest.raises(DataError, match=r"leftImg8bit/val: .*SEGKIT_DATA.*leftImg8bit/val/\*"):
        Cityscapes(split="val")


@pytest.mark.parametrize("split", ["train", "val", "train_extra"])
def test_coarse_labels(tmp_path: Path, split: str) -> None:
    fill(tmp_path, split, ["augsburg/augsburg_000000_000000"], "gtCoarse")
    data = Cityscapes(tmp_path, split, annotations="coarse")
    assert np.array_equal(data.read(0)[1], CLASSES)


def test_an_id_that_is_in_no_table_has_value_and_place(tmp_path: Path) -> None:
    mask = IDS.copy()
    mask[1, 2] = 34
    path = fill(tmp_path) / f"gtFine/val/{VAL[1]}_gtFine_labelIds.png"
    data = Cityscapes(tmp_path, "val")
    write(path, png(mask))
    with pytest.raises(DataError) as caught:
        data.read(1)
    assert caught.value.id == "DATA-LABEL-RANGE"
    assert str(caught.value).startswith(f"{path}: label 34 at x=2 y=1 is not in the table")


def test_the_test_split_has_images_and_no_labels(tmp_path: Path) -> None:
    fill(tmp_path, "test", ["berlin/berlin_000000_000019"])  # the labels there are a stand-in
    data = Cityscapes(tmp_path, "test")
    assert data.read_image(0).shape == (2, 4, 3)
    with pytest.raises(DataError) as caught:
        data.read(0)
    line = caught.value.line()
    assert caught.value.code == ExitCode.DATA
    assert all(w in line for w in ("not public", "eval.split=val", "segkit predict", str(tmp_path)))


def test_the_test_split_needs_no_labels(tmp_path: Path) -> None:
    name = "berlin/berlin_000000_000019"
    write(tmp_path / f"leftImg8bit/test/{name}_leftImg8bit.png", png(random_rgb(2, 4)))
    assert Cityscapes(tmp_path, "test").ids.tolist() == [name]


def test_a_copy_that_is_not_whole_is_told(tmp_path: Path, capfd, monkeypatch) -> None:
    data = Cityscapes(fill(tmp_path), "val")
    assert data.shortage == "2 of the 500 images of val are here"
    assert f"note: {tmp_path}: {data.shortage}\n" == capfd.readouterr().err
    monkeypatch.setitem(cityscapes.IMAGES, "val", 2)
    assert Cityscapes(tmp_path, "val").shortage == ""
    assert capfd.readouterr().err == ""


def test_orphans_are_named_both_ways(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / f"gtFine/val/{VAL[0]}_gtFine_labelIds.png").unlink()
    (tmp_path / f"leftImg8bit/val/{VAL[1]}_leftImg8bit.png").unlink()
    with pytest.raises(DataError) as caught:
        Cityscapes(tmp_path, "val")
    assert caught.value.id == "DATA-ORPHANS"
    assert f"1 images have no mask ({VAL[0]})" in str(caught.value)
    assert f"have no image ({VAL[1]})" in str(caught.value)


def test_an_empty_tree_is_no_split(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit/val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no image ends in _leftImg8bit\.png"):
        Cityscapes(tmp_path, "val")


@pytest.mark.parametrize(
    ("split", "annotations", "word"),
    [("train_extra", "fine", "dataset.annotations=coarse"), ("test", "coarse", "=fine"),
     ("trainval", "fine", "train, val, test")],
)  # fmt: skip
def test_a_split_without_such_labels_says_which_have_them(
    tmp_path: Path, split: str, annotations: cityscapes.Annotations, word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        Cityscapes(tmp_path, split, annotations)
