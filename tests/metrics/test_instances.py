"""Class, category and instance scores of Cityscapes against cityscapesScripts' own evaluation."""

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from maps import Sample, blocks
from PIL import Image

from segkit.data.cityscapes import Cityscapes
from segkit.data.labels import (
    CITYSCAPES,
    CITYSCAPES_CATEGORIES,
    CITYSCAPES_IDS,
    CITYSCAPES_TABLE,
)
from segkit.engine.evaluate import Score
from segkit.errors import DataError
from segkit.measures import counters_of, measured
from segkit.metrics.confusion import ConfusionMatrix, iou, mean_iou
from segkit.metrics.instances import AVERAGE_SIZES, Instances, class_iiou, without_map

SIZES = [(37, 53), (64, 41), (1, 97), (50, 50)]
OFFICIAL = [label for label, *_ in CITYSCAPES_TABLE if label >= 0]
WITH_INSTANCES = range(24, 34)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its module, as it runs on the NumPy of today: 2.4 has no ``in1d``."""
    module: ModuleType = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    )
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(module.args, "quiet", True)
    monkeypatch.setattr(module.args, "JSONOutput", False)
    return module


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def instance_ids(labels: np.ndarray, seed: int) -> np.ndarray:
    """Ids as gtFine has them: some objects by themselves, some a group with a bare label."""
    number = blocks(labels.shape, list(range(6)), seed, 9).astype(np.int64)
    group = blocks(labels.shape, [0, 0, 0, 1], seed + 1, 13) == 1
    single = np.isin(labels, WITH_INSTANCES) & ~group
    return np.where(single, labels.astype(np.int64) * 1000 + number, labels).astype(np.uint16)


def make_set(root: Path, seed: int, classes: list[int]) -> list[np.ndarray]:
    """A gtFine tree of odd sizes with void, and a prediction (classes) for each image."""
    found = []
    for place, shape in enumerate(SIZES):
        draw = seed * 100 + place * 10
        name = f"ulm/ulm_{place:06d}_000019"
        labels = blocks(shape, classes, draw, 7)
        write(root / f"leftImg8bit/val/{name}_leftImg8bit.png", np.zeros((*shape, 3), np.uint8))
        write(root / f"gtFine/val/{name}_gtFine_labelIds.png", labels)
        ids = instance_ids(labels, draw + 1)
        write(root / f"gtFine/val/{name}_gtFine_instanceIds.png", ids)
        right = np.searchsorted(CITYSCAPES_IDS, labels).clip(0, 18).astype(np.uint8)
        noise = blocks(shape, list(range(19)), draw + 3, 4)
        found.append(np.where(blocks(shape, [0, 1], draw + 4, 6) == 1, right, noise))
    return found


def scored(data: Cityscapes, found: list[np.ndarray]) -> tuple[Score, dict[str, Any]]:
    """What an evaluation gives for these predictions."""
    counters = counters_of({"eval": {"boundaries": False}}, data)
    confusion = ConfusionMatrix(19, 255, "cpu")
    for index, prediction in enumerate(found):
        _, label = data.read(index)
        answer = torch.from_numpy(prediction.astype(np.int64))
        confusion.update(answer, torch.from_numpy(label))
        for counter in counters.values():
            counter.update(Sample(label, index), answer)
    matrix = confusion.matrix()
    counts = {name: counter.counts() for name, counter in counters.items()}
    score = Score(matrix, len(found), int(matrix.sum()), {}, counts)
    return score, measured(score, data)


def same(mine: float | None, theirs: float) -> bool:
    return math.isnan(theirs) if mine is None else mine == pytest.approx(theirs, abs=1e-12, rel=0)


@pytest.mark.parametrize(
    ("seed", "classes"),
    [
        (0, OFFICIAL),  # every label, those that do not count too
        (1, OFFICIAL),
        (2, [7, 11, 24, 25, 26, 33, 0]),  # most classes are absent (E5)
        (3, [7, 29, 30, 4]),  # the only instances are of labels that do not count
        (4, [26]),
    ],
)
def test_the_numbers_of_the_benchmark(
    seed: int, classes: list[int], tmp_path: Path, benchmark: ModuleType
) -> None:
    found = make_set(tmp_path, seed, classes)
    data = Cityscapes(tmp_path, "val")
    truths = [str(data.mask_path(index)) for index in range(len(data))]
    answers = [  # with label ids, as the server takes them
        str(write(tmp_path / f"pred/{index}.png", np.array(CITYSCAPES_IDS, np.uint8)[prediction]))
        for index, prediction in enumerate(found)
    ]
    theirs = benchmark.evaluateImgLists(answers, truths, benchmark.args)
    score, mine = scored(data, found)

    for name, value in zip(CITYSCAPES.names, iou(score.matrix), strict=True):
        assert same(value, theirs["classScores"][name])
        assert same(mine["iiou"]["classes"].get(name), theirs["classInstScores"][name])
    categories = set(theirs["categoryScores"]) - {"void"}
    assert categories == set(mine["categories"]["iou"]) == set(CITYSCAPES_CATEGORIES)
    for name in categories:
        assert same(mine["categories"]["iou"][name], theirs["categoryScores"][name])
        assert same(mine["iiou"]["categories"].get(name), theirs["categoryInstScores"][name])
    assert same(mean_iou(score.matrix), theirs["averageScoreClasses"])
    assert same(mine["categories"]["miou"], theirs["averageScoreCategories"])
    assert same(mine["iiou"]["mean"], theirs["averageScoreInstClasses"])
    assert same(mine["iiou"]["category_mean"], theirs["averageScoreInstCategories"])
    json.dumps(mine, allow_nan=False)


def test_the_averages_are_the_benchmarks(benchmark: ModuleType) -> None:
    theirs = benchmark.args.avgClassSize
    assert {name: theirs[name] for name in AVERAGE_SIZES} == AVERAGE_SIZES
    assert set(theirs) - set(AVERAGE_SIZES) == {"caravan", "trailer"}  # which do not count


def test_a_missing_map_is_told_and_no_error(tmp_path: Path) -> None:
    found = make_set(tmp_path, 0, OFFICIAL)
    next((tmp_path / "gtFine/val/ulm").glob("*000002*instanceIds.png")).unlink()
    _, mine = scored(Cityscapes(tmp_path, "val"), found)
    assert mine["iiou"]["note"] == "no instanceIds for 1 of 4 images"
    assert mine["iiou"]["mean"] is None
    assert mine["categories"]["miou"] is not None


def test_coarse_labels_have_no_instances(tmp_path: Path) -> None:
    name = "ulm/ulm_000000_000019"
    write(tmp_path / f"leftImg8bit/val/{name}_leftImg8bit.png", np.zeros((2, 2, 3), np.uint8))
    for kind in ("labelIds", "instanceIds"):
        write(tmp_path / f"gtCoarse/val/{name}_gtCoarse_{kind}.png", np.full((2, 2), 7, np.uint8))
    assert Cityscapes(tmp_path, "val", annotations="coarse").instances(0) is None


def test_small_instances_weigh_as_much_as_large_ones() -> None:
    """Two cars of 90 and 10 pixels, the large one found: half of the weight."""
    ids = np.full((1, 120), -1, np.int32)
    ids[0, :90], ids[0, 90:100] = 13_000, 13_007
    truth = np.where(ids >= 0, 13, 0).astype(np.uint8)
    found = np.where(np.arange(120) < 90, 13, 0)[None]
    counter = Instances(lambda _: ids, CITYSCAPES_CATEGORIES)
    counter.update(Sample(truth), torch.from_numpy(found))
    matrix = [[0] * 19 for _ in range(19)]
    matrix[13][13], matrix[13][0], matrix[0][0] = 90, 10, 20
    assert class_iiou(counter.counts(), matrix, CITYSCAPES.names)["car"] == 0.5
    assert without_map(counter.counts()) == 0


def test_a_map_of_another_size_is_named() -> None:
    counter = Instances(lambda _: np.zeros((2, 3), np.int32), CITYSCAPES_CATEGORIES)
    with pytest.raises(DataError, match=r"instances \(2, 3\), label \(3, 2\)"):
        counter.update(Sample(np.zeros((3, 2), np.uint8)), torch.zeros(3, 2))
