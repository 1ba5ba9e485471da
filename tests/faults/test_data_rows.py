"""D3, D12, D13: unreadable, unlabelled and tiny pictures, through the commands."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sandbox import TINY, Sandbox, outcome
from seven_checks import check_all_seven, look

CLASSES = ("background", "leaf", "stone")
OWN = (
    *("train", "experiment=quickstart", "name=x", "log.tensorboard=false", "workers=0"),
    *("dataset=folder", "dataset.root=own", "augment.crop=33", "schedule.batch=4"),
    "schedule.stages=[{name: os16, steps: 11, lr: 0.01}]",
    *("eval.every=null", "checkpoint.every=4", "log.every=1", "log.images=0"),
    *("dataset.cache_dir=cache", "dataset.ignore_label=255"),
)


def own(box: Sandbox, *, train: int = 40, val: int = 4) -> Path:
    """Photos and masks of the user's own."""
    root = box.work / "own"
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        names = [f"{split}{number:02d}" for number in range(count)]
        for name in names:
            save(root, name, rng.integers(0, 255, (40, 48, 3), np.uint8), rng)
        (root / f"{split}.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def save(root: Path, name: str, pixels: np.ndarray, rng: np.random.Generator) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / f"images/{name}.png")
    mask = rng.integers(0, len(CLASSES), pixels.shape[:2], np.uint8)
    Image.fromarray(mask).save(root / f"masks/{name}.png")


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_d3_one_bad_image_in_40(box: Sandbox) -> None:
    root = own(box)
    damage(root / "images/train07.png")
    before = look(box)
    result = box.run(*OWN)
    check_all_seven(box, before, result, code=3, error="DATA-UNREADABLE", names="train07.png")
    assert box.status()["code"] == 3

    (box.work / "runs").rename(box.work / "stopped")
    result = box.ok(*OWN, "dataset.on_error=skip")
    told = "1 of 40 skipped (train): own/images/train07.png: damaged picture"
    assert told in result.out
    assert told in result.err, "before the first step, too"
    assert [*box.status()["skipped"]["train"]] == ["own/images/train07.png"]


def test_d3_more_than_may_be(box: Sandbox) -> None:
    root = own(box)
    words = (*OWN, "dataset.on_error=skip", "dataset.max_skipped=2")
    for number in (3, 14, 25):
        damage(root / f"images/train{number:02d}.png")
    before = look(box)
    result = box.run(*words)
    check_all_seven(box, before, result, code=3, error="DATA-SKIPPED", names="train03.png")
    assert "3 of the 40 samples" in result.last_line
    assert "dataset.max_skipped is 2" in result.last_line


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.faults), 3])
def test_d3_the_substitute_is_the_same_everywhere(box: Sandbox, workers: int) -> None:
    """For any number of workers, from any cache, and after a stop."""
    root = own(box)
    damage(root / "masks/train20.png")
    words = (*OWN, "dataset.on_error=skip")
    box.ok(*words)
    expected = outcome(box.run_folder)
    kept = box.work / "plain"
    box.run_folder.rename(kept)
    cache = {1: "disk", 3: "ram"}[workers]
    box.ok(*words, f"workers={workers}", f"dataset.cache={cache}")
    assert outcome(box.run_folder) == expected

    box.run_folder.rename(box.work / "whole")
    running = box.start(*words, f"workers={workers}", inject="pause:step/7/1")
    assert running.wait_for((box.work / "mark").exists)
    running.kill(signal.SIGINT)
    assert running.wait().code == 130
    assert box.steps_logged() < 11
    box.ok(*words, "resume=true")
    assert outcome(box.run_folder) == expected
    assert box.status()["skipped"], "also of a resumed run"


def test_d3_eval_skips_only_where_it_was_asked(box: Sandbox) -> None:
    root = own(box, train=8)
    box.ok(*OWN, "dataset.on_error=skip")
    damage(root / "images/val02.png")
    asked = ("eval", "ckpt=runs/x", "device=cpu", "dataset.cache_dir=cache")
    before = look(box)
    result = box.run(*asked)
    check_all_seven(box, before, result, code=3, error="DATA-UNREADABLE", names="val02.png")
    result = box.ok(*asked, "dataset.on_error=skip")
    assert "1 of 4 skipped (val): own/images/val02.png" in result.out
    assert "folder:val:3:1-skipped |" in result.out.splitlines()[-1]
    [score] = box.run_folder.glob("scores/*/score.json")
    assert json.loads(score.read_text())["signature"]["skipped"] == 1
    result = box.run(*asked, "dataset.on_error=skip", "dataset.max_skipped=0")
    assert result.code == 3


def test_d12_a_split_of_void_alone(box: Sandbox) -> None:
    root = own(box, train=8)
    for path in root.glob("masks/train*.png"):
        Image.new("L", (48, 40), 255).save(path)
    before = look(box)
    result = box.run(*OWN, "log.every=3")
    check_all_seven(box, before, result, code=3, error="DATA-VOID", names="stage os16", status=True)
    assert result.err.count("no labelled pixel in the whole batch") == 1
    assert "train0" in result.err, "which samples"


def test_d12_a_void_mask_among_others_is_no_fault(box: Sandbox) -> None:
    root = own(box, train=8)
    Image.new("L", (48, 40), 255).save(root / "masks/train03.png")
    box.ok(*OWN)
    losses = [json.loads(row) for row in (box.run_folder / "metrics.jsonl").open()]
    assert all(np.isfinite(row["loss"]) for row in losses if "loss" in row)


SHAPES = ((1, 1), (1, 70), (70, 1), (2, 2))


def test_d13_tiny_pictures(box: Sandbox) -> None:
    """Crop 65, trained, scored and predicted: maps have the picture's own size."""
    root, rng = box.work / "own", np.random.default_rng(1)
    names = [f"{height}x{width}" for height, width in SHAPES]
    for name, shape in zip(names, SHAPES, strict=True):
        save(root, name, rng.integers(0, 255, (*shape, 3), np.uint8), rng)
    (root / "train.txt").write_text("\n".join(names))
    (root / "val.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    box.ok(*OWN, "augment.crop=65")
    box.ok("eval", "ckpt=runs/x", "device=cpu", "eval.save_predictions=true")
    box.ok("predict", "own/images", "ckpt=runs/x", "device=cpu", "out=seen")
    for name, (height, width) in zip(names, SHAPES, strict=True):
        for path in (next(box.run_folder.glob(f"scores/*/predictions/{name}.png")),
                     box.work / f"seen/labels/{name}.png"):  # fmt: skip
            assert Image.open(path).size == (width, height)


def test_caches_change_no_bit(box: Sandbox) -> None:
    """None, ram, disk being made and disk found; with workers and without."""
    found = []
    for number, words in enumerate(
        (
            ("dataset.cache=none",),
            ("dataset.cache=ram", "workers=2"),
            ("dataset.cache=disk",),
            ("dataset.cache=disk", "workers=2"),
        )
    ):
        box.ok(*TINY, "dataset.cache_dir=cache", *words)
        found.append(outcome(box.run_folder))
        box.run_folder.rename(box.work / f"run{number}")
    assert all(one == found[0] for one in found)
    assert len([*box.work.glob("cache/*.cache")]) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_while_a_cache_is_made(box: Sandbox, workers: int) -> None:
    """Nothing under the final name, nobody left, and the next one makes it."""
    words = (*TINY, "dataset.cache_dir=cache", "dataset.cache=disk", f"workers={workers}")
    running = box.start(*words, "dataset.count=30000")
    assert running.wait_for(lambda: bool(list(box.work.glob("cache/.*.tmp"))))
    before = look(box)
    running.kill(signal.SIGINT)
    result = running.wait()
    check_all_seven(box, before, result, code=130, error="STOP-SIGINT", names="before the first")
    assert [path.suffix for path in box.work.glob("cache/*")] == [".lock"]
    box.ok(*words)
