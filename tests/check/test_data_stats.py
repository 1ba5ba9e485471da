"""segkit data stats against plain arithmetic, CamVid's published weights, and a training."""

import json
import os
import re
import shlex
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pictures import png
from PIL import Image
from small_folders import CLASSES, SmallFolder, photo

from segkit import cli
from segkit.data.folder import Folder
from segkit.report.class_shares import class_shares

Capsys = pytest.CaptureFixture[str]
CAMVID = Path(os.environ.get("SEGKIT_DATA", "nowhere")) / "camvid"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallFolder:
    """Three train images of two sizes; ``tree`` is in one of them, and little of it."""
    monkeypatch.chdir(tmp_path)
    folder = SmallFolder(tmp_path / "set").fill("a b c d").lists(train="a b c", val="d")
    labels = np.zeros((20, 30), np.uint8)
    labels[:5] = 255
    labels[5:10] = 1
    for name in "ab":
        folder.image(name, png(photo(3, 20, 30)), ".png")
        (folder.root / f"images/{name}.jpg").unlink()
        folder.mask(name, png(labels))
    large = np.ones((40, 50), np.uint8)
    large[7, :3] = 2
    folder.image("c", png(photo(4, 40, 50)), ".png")
    (folder.root / "images/c.jpg").unlink()
    folder.mask("c", png(large))
    return folder


def told(capsys: Capsys, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["data", "stats", *words, "workers=0"]) == 0
    return capsys.readouterr().out


def test_numbers_are_those_of_plain_arithmetic(folder: SmallFolder, capsys: Capsys) -> None:
    found = json.loads(told(capsys, str(folder.root), "--json"))
    data = Folder(folder.root, "train")
    images, labels = zip(*(data.read(index) for index in range(3)), strict=True)
    pixels = Counter(value for label in labels for value in label.ravel().tolist())
    valid = sum(pixels[label] for label in range(3))
    for number, facts in enumerate(found["classes"]):
        showing = [label for label in labels if (label == number).any()]
        assert facts["name"] == CLASSES[number]
        assert facts["pixels"] == pixels[number]
        assert facts["share"] == pytest.approx(pixels[number] / valid)
        assert facts["images"] == len(showing)
        assert facts["image_share"] == pytest.approx(len(showing) / 3)
    frequency = [
        pixels[n] / sum(label.size for label in labels if (label == n).any()) for n in range(3)
    ]
    weights = [facts["weight"] for facts in found["classes"]]
    assert weights == pytest.approx([statistics.median(frequency) / f for f in frequency])
    assert found["void_share"] == pytest.approx(pixels[255] / sum(pixels.values()))
    colours = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    assert found["mean"] == pytest.approx(colours.mean(0).tolist(), rel=1e-9)
    assert found["std"] == pytest.approx(colours.std(0).tolist(), rel=1e-9)
    assert found["sizes"] == {"smallest": [30, 20], "median": [30, 20], "largest": [50, 40]}
    assert found["distinct_sizes"] == 2
    assert not list(Path.cwd().glob("*.png")), "--json alone draws nothing"


def test_the_table_and_the_picture(folder: SmallFolder, capsys: Capsys) -> None:
    out = told(capsys, str(folder.root))
    (tree,) = [line.split() for line in out.splitlines() if line.startswith("tree")]
    assert tree == ["tree", "3", "0.10", "%", "1", "33.33", "%", "333.3333"]
    assert "sizes  30x20 (smallest), 30x20 (median), 50x40 (largest); 2 different" in out
    assert "picture: stats-folder-train.png" in out
    assert Image.open("stats-folder-train.png").size[0] > 800
    told(capsys, str(folder.root), "split=val", "out=v.svg", "--json")
    assert b"sky" in Path("v.svg").read_bytes()


def test_a_class_without_pixels_has_no_weight(folder: SmallFolder, capsys: Capsys) -> None:
    for name in "abc":
        folder.mask(
            name, png(np.ones_like(np.asarray(Image.open(folder.root / f"masks/{name}.png"))))
        )
    out = told(capsys, str(folder.root))
    assert "'loss.class_weights=[1.0,1,1.0]'" in out
    found = json.loads(told(capsys, str(folder.root), "--json"))
    assert [facts["weight"] for facts in found["classes"]] == [None, 1.0, None]


def test_a_fault_is_told_instead_of_numbers_of_the_rest(
    folder: SmallFolder, capsys: Capsys
) -> None:
    folder.mask("b", b"no picture")
    folder.mask("c", b"")
    assert cli.main(["data", "stats", str(folder.root), "workers=0"]) == 3
    told_both = capsys.readouterr()
    assert told_both.out == ""
    assert "b.png: neither PNG nor JPEG" in told_both.err
    assert "all 2 faults: segkit data check" in told_both.err
    assert not list(Path.cwd().glob("*.png"))


@pytest.mark.parametrize(
    ("word", "told_in"),
    [
        ("split=train,val", "one at a time"),
        ("out=x.gif", ".png or .svg"),
        ("out=gone/x.png", "gone is no folder"),
    ],
)
def test_words(word: str, told_in: str, folder: SmallFolder, capsys: Capsys) -> None:
    assert cli.main(["data", "stats", str(folder.root), word]) == 2
    assert told_in in capsys.readouterr().err


def test_many_and_hostile_class_names_are_drawn() -> None:
    rows = [(f"$x_{n}$ <b>\n{'y' * 90}", 10.0**-n, 0.5, (n, n, n)) for n in range(9)]
    rows += [("absent", 0.0, 0.0, (255, 255, 255))]
    assert class_shares(rows, "t\x1b $", "png").startswith(b"\x89PNG")
    drawn = class_shares(rows * 13, "t", "svg")
    assert b"&lt;b&gt;" in drawn
    assert b"first 120 of 130 classes" in drawn


def test_the_axis_of_shares_ends_at_all_of_them() -> None:
    rows = [("most", 0.97, 1.0, (200, 200, 0)), ("half", 0.5, 1.0, (0, 0, 0))]
    rows += [("rare", 1e-5, 0.1, (0, 200, 0))]
    drawn = class_shares(rows, "t", "svg").decode()
    ticks = re.findall(r">([0-9.e+-]+)</text>", drawn)
    assert "100" in ticks
    assert max(float(tick) for tick in ticks) == 100


def test_the_weights_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    """The line is taken as it is printed, for two steps."""
    monkeypatch.chdir(tmp_path)
    small = ("dataset.size=33", "dataset.count=8", "dataset.val.count=2")
    out = told(capsys, "dataset=shapes", *small)
    (line,) = [line for line in out.splitlines() if line.startswith("to use the weights: ")]
    program, *typed = shlex.split(line.removeprefix("to use the weights: "))
    assert (program, typed[0]) == ("segkit", "train")
    runs = Path("runs/x")
    train = (
        *("name=x", "workers=0", "log.tensorboard=false", "log.images=0", "log.every=1"),
        *("model=v3", "model.channels=8", "backbone=r_tiny", "pretrained=none", "augment.crop=33"),
        *("schedule.batch=4", "schedule.stages.0.steps=2", "device=cpu"),
    )
    assert cli.main([*typed, *train]) == 0
    steps = [json.loads(line) for line in (runs / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == [1, 2]
    weights = json.loads(typed[-1].removeprefix("loss.class_weights="))
    assert len(weights) == 7
    assert f"- {weights[3]}" in (runs / "config.yaml").read_text()


@pytest.mark.data
@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs CamVid in SEGKIT_DATA")
def test_camvid_has_the_weights_of_its_class_list(capsys: Capsys) -> None:
    known = json.loads((CAMVID / "classes.json").read_text())["classes"]
    found = json.loads(told(capsys, "dataset=camvid", f"dataset.root={CAMVID}", "--json"))
    for ours, theirs in zip(found["classes"], known, strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["pixels"] == theirs["train_pixels"]
        assert round(ours["weight"], 4) == theirs["median_frequency_weight"]
