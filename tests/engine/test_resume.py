"""A resumed run is the uninterrupted run, bit for bit, after a planned stop at any step.

Kills at any moment: tests/faults/test_interruptions.py and test_kills.py there.
"""

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import toy_training as toy

from segkit.engine import checkpoint
from segkit.engine.loop import StagePlan
from segkit.engine.signals import Stop
from segkit.errors import CheckpointError, Interrupted

STEPS = 24


def stages_stopping_at(step: int, stop: Stop, **changes: Any) -> list[StagePlan]:
    """The toy's two stages; ``stop`` is asked for while the batch after ``step`` is awaited."""

    def watch(start: int) -> Any:
        def saw(local: int, _: list[str]) -> None:
            if start + local == step:
                stop.request(signal.SIGTERM)

        return saw

    return [
        toy.plan(0, 14, **changes, batches=toy.batches(0, 4, 14, watch(0))),
        toy.plan(1, 10, **changes, batches=toy.batches(1, 4, 10, watch(14))),
    ]


def stop_at(folder: Path, step: int, *, resume: bool = False) -> None:
    stop = Stop()
    with pytest.raises(Interrupted):
        toy.train_toy(folder, stages=stages_stopping_at(step, stop), stop=stop, resume=resume)
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["code"], status["step"]) == ("preempted", 143, step)
    assert status["last_checkpoint"] == f"step-{step:08d}"
    assert checkpoint.load(checkpoint.newest(folder)).step == step


@pytest.mark.parametrize("step", range(STEPS))
def test_a_planned_stop_at_every_step(tmp_path: Path, step: int, whole: dict[str, str]) -> None:
    """K3, K9: inside either stage, at their boundary, before the first step."""
    stop_at(tmp_path / "run", step)
    toy.train_toy(tmp_path / "run", resume=True)
    assert same(toy.outcome(tmp_path / "run"), whole)


@pytest.mark.parametrize("steps", [(2, 5), (3, 4, 13), (0, 1, 14, 15, 23), (6, 6, 6)])
def test_several_stops(tmp_path: Path, steps: tuple[int, ...], whole: dict[str, str]) -> None:
    """K4: drift at the second resume is a known class of bug."""
    for count, step in enumerate(steps):
        stop_at(tmp_path / "run", step, resume=count > 0)
    toy.train_toy(tmp_path / "run", resume=True)
    assert same(toy.outcome(tmp_path / "run"), whole)


def same(found: dict[str, str], whole: dict[str, str]) -> bool:
    """All but which older checkpoint is still kept: a stop adds one of its own."""
    different = {key for key in whole if found.get(key) != whole[key]}
    assert different <= {"kept"}
    return found.keys() == whole.keys()


def test_after_the_end_nothing_is_rewritten(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run")
    before = hashes(tmp_path / "run")
    said: list[str] = []
    toy.train_toy(tmp_path / "run", resume=True, notice=said.append)
    assert hashes(tmp_path / "run") == before
    assert "already complete" in said[-1]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        + str(path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_run_killed_between_its_last_save_and_its_record_is_finished(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    toy.train_toy(tmp_path / "run")
    status = tmp_path / "run" / "status.json"
    status.write_text(status.read_text().replace("finished", "running"))
    toy.train_toy(tmp_path / "run", resume=True)
    assert json.loads(status.read_text())["state"] == "finished"
    assert same(toy.outcome(tmp_path / "run"), whole)


def test_samples_come_in_the_same_order(tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []

    def saw(step: int, ids: list[str]) -> None:
        seen.append((step, ids))

    def stages() -> list[StagePlan]:
        return [toy.plan(0, 14, batches=toy.batches(0, 4, 14, saw))]

    toy.train_toy(tmp_path / "whole", stages=stages())
    expected, seen[:] = list(seen), []
    stop = Stop()
    halting = stages_stopping_at(7, stop)[:1]
    with pytest.raises(Interrupted):
        toy.train_toy(tmp_path / "run", stages=halting, stop=stop)
    toy.train_toy(tmp_path / "run", resume=True, stages=stages())
    assert seen == expected[7:]


def test_resuming_falls_back_behind_broken_checkpoints_and_says_so(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    """C2: the newest is cut; the run goes on from the one before, and ends the same."""
    stop_at(tmp_path / "run", 17)
    cut = tmp_path / "run/checkpoints/step-00000017/model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    said: list[str] = []
    toy.train_toy(tmp_path / "run", resume=True, notice=said.append)
    assert any("skipped" in line and str(cut) in line for line in said)
    assert same(toy.outcome(tmp_path / "run"), whole)


def test_broken_newer_checkpoints_do_not_push_out_sound_ones(tmp_path: Path) -> None:
    stop_at(tmp_path / "run", 10)
    folder = tmp_path / "run" / "checkpoints"
    for step in (15, 20):
        (folder / f"step-{step:08d}").mkdir()
    stop = Stop()
    with pytest.raises(Interrupted):
        toy.train_toy(tmp_path / "run", stages=stages_stopping_at(11, stop), stop=stop, resume=True)
    assert checkpoint.load(checkpoint.newest(tmp_path / "run")).step == 11


def test_only_broken_checkpoints_are_never_a_fresh_start(tmp_path: Path) -> None:
    stop_at(tmp_path / "run", 5)
    for path in (tmp_path / "run").glob("checkpoints/*/checkpoint.json"):
        path.write_bytes(b"")
    before = hashes(tmp_path / "run")
    with pytest.raises(CheckpointError, match="none of"):
        toy.train_toy(tmp_path / "run", resume=True)
    assert {k: v for k, v in hashes(tmp_path / "run").items() if k in before} == before


def test_lost_checkpoints_are_never_a_fresh_start(tmp_path: Path) -> None:
    stop_at(tmp_path / "run", 5)
    checkpoint.retire(tmp_path / "run/checkpoints/step-00000005", 0)
    for path in checkpoint.steps(tmp_path / "run/checkpoints"):
        path.rename(tmp_path / path.name)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        toy.train_toy(tmp_path / "run", resume=True)


def test_resuming_nothing_is_a_fresh_start_and_says_so(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    said: list[str] = []
    toy.train_toy(tmp_path / "run", resume=True, notice=said.append)
    assert "fresh start" in said[0]
    assert same(toy.outcome(tmp_path / "run"), whole)
