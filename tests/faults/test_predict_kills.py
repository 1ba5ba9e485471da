"""K17: a prediction of 200 pictures that is killed at random moments, and called again."""

import json
import random
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sandbox import Running, Sandbox

WORDS = ("predict", "photos", "ckpt=runs/x", "out=found", "device=cpu")


def noise(box: Sandbox, count: int) -> None:
    """Pictures that differ, so that no result is another's."""
    (box.work / "photos").mkdir()
    random_pixels = np.random.default_rng(0)
    for number in range(count):
        pixels = random_pixels.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(box.work / f"photos/{number:03}.png")


def recorded(box: Sandbox) -> int:
    """How many pictures the record says are finished: its whole lines."""
    path = box.work / "found/predictions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def results(box: Sandbox) -> dict[str, bytes]:
    folder = box.work / "found"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def killed(box: Sandbox, after: int, wait: float) -> Running:
    """A call that is killed ``wait`` seconds after it has finished ``after`` pictures more."""
    import time

    before = recorded(box)
    running = box.start(*WORDS)
    assert running.wait_for(lambda: recorded(box) >= before + after), running.err.read_text()
    time.sleep(wait)
    running.kill(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    return running


def check_whole(box: Sandbox) -> None:
    """Whatever has a final name is whole; the record promises nothing that is not there."""
    folder = box.work / "found"
    for path in folder.rglob("*.png"):
        if not path.name.startswith("."):
            Image.open(path).load()
    for line in (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            for name, size in json.loads(line)["files"].items():
                assert (folder / name).stat().st_size == size


def kill_and_finish(box: Sandbox, count: int, kills: int) -> None:
    noise(box, count)
    draw = random.Random(17)
    for _ in range(kills):
        killed(box, draw.randrange(1, count // (kills + 1)), draw.random() * 0.05)
        check_whole(box)
    there = recorded(box)
    assert 0 < there < count
    modified = {p: p.stat().st_mtime_ns for p in finished_files(box)}
    said = box.ok(*WORDS).out.splitlines()[-1]
    assert said == f"{count - there} predictions ({there} of {count} were there already) in found"
    assert all(path.stat().st_mtime_ns == before for path, before in modified.items())
    again = results(box)
    assert len(again) == 2 * count
    assert not list((box.work / "found").rglob(".*.tmp"))
    (box.work / "found").rename(box.work / "in pieces")
    box.ok(*WORDS)
    assert results(box) == again, "as if it had never been killed"


def finished_files(box: Sandbox) -> list[Path]:
    lines = (box.work / "found/predictions.jsonl").read_text()
    names = [name for line in lines.splitlines(keepends=True) if line.endswith("\n")
             for name in json.loads(line)["files"]]  # fmt: skip
    return [box.work / "found" / name for name in names]


def test_a_killed_prediction_is_finished_by_the_second_call(trained: Sandbox) -> None:
    kill_and_finish(trained, 30, 1)


@pytest.mark.slow
def test_a_prediction_of_200_pictures_killed_five_times(trained: Sandbox) -> None:
    kill_and_finish(trained, 200, 5)


def test_a_stopped_prediction_says_how_to_go_on(trained: Sandbox) -> None:
    noise(trained, 12)
    running = trained.start(*WORDS, inject="pause:predict/5/0.5")
    assert running.wait_for((trained.work / "mark").exists)
    running.kill(signal.SIGTERM)
    result = running.wait()
    assert result.code == 143
    assert re.search(
        r"stopped after 4 predictions; .*the same command does the rest", result.last_line
    )
    assert "(4 of 12 were there already)" in trained.ok(*WORDS).out
