"""Small VOC and Cityscapes trees with a test split, and a network for each, barely trained."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), *map(str, (TESTS, TESTS / "prepare"))]

import small_sets as small  # noqa: E402
from once import composed_once, loaded_once  # noqa: E402
from small_servers import TEST, train  # noqa: E402


@pytest.fixture(autouse=True)
def each_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded_once(monkeypatch)
    composed_once(monkeypatch)


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = small.voc_tree([*small.TRAIN, *small.VAL, *TEST])
    root = "VOCdevkit/VOC2012"
    tree[f"{root}/ImageSets/Segmentation/test.txt"] = small.listing(TEST)
    return small.lay(tree, tmp_path_factory.mktemp("voc")) / root


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = small.street("leftImg8bit", ("train", "val", "test"))
    tree |= small.street("gtFine", ("train", "val", "test"))
    return small.lay(tree, tmp_path_factory.mktemp("cityscapes"))


@pytest.fixture(scope="session")
def voc_run(voc_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return train(runs, "voc", "dataset=voc", f"dataset.root={voc_root}")


@pytest.fixture(scope="session")
def street_run(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return train(runs, "street", "dataset=cityscapes", f"dataset.root={streets}")
