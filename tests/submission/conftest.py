"""Small VOC and Cityscapes trees with a test split, and a network for each, barely trained."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "prepare"))

import small_sets as small

from segkit import cli

TEST = ["2008_000004", "2008_000006", "2010_000002"]
TINY = (
    *("experiment=quickstart", "log.tensorboard=false", "workers=0", "device=cpu"),
    *("augment.crop=17", "schedule.batch=2", "eval.every=null"),
    *("schedule.stages.0.steps=2", "schedule.stages.1.steps=1"),
)


def train(runs: Path, name: str, *words: str) -> Path:
    """A run of three steps on ``words``, a data set; it finds several classes."""
    assert cli.main(["train", *TINY, f"runs={runs}", f"name={name}", *words]) == 0
    return runs / name


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
