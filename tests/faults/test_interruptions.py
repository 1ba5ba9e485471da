"""Runs that are killed, stopped and resumed through the command line end in the same bits.

The engine's own tests do this many times on a toy; here it is the real command, with workers,
accumulation, validation, saves and both stages.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fork_server import ForkServer
from sandbox import Running, Sandbox, living

WORDS = (
    *("train", "experiment=quickstart", "name=x", "resume=true", "log.tensorboard=false"),
    *("dataset.size=33", "dataset.count=10", "dataset.val.count=2", "augment.crop=33"),
    *("schedule.batch=4", "schedule.accumulate=2", "eval.every=3", "checkpoint.every=2"),
    *("schedule.stages.0.steps=14", "schedule.stages.1.steps=6", "log.every=1"),
    "schedule.ema=0.9",
)


def result(run: Path) -> dict[str, bytes]:
    """What must be equal: weights, buffers, their average, optimiser, every logged value, the
    sample order."""
    last = max((run / "checkpoints").glob("step-*"))
    files = [*last.glob("*.safetensors"), run / "metrics.jsonl"]
    return {path.name: path.read_bytes() for path in files}


def at_step(box: Sandbox, step: int, running: Running) -> bool:
    """Wait until the run has logged ``step``; False if it ended before."""
    return running.wait_for(lambda: box.steps_logged() >= step, timeout=120)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> dict[str, bytes]:
    """An uninterrupted run, by an interpreter of its own."""
    box = Sandbox(tmp_path_factory.mktemp("whole") / "box", server)
    box.ok(*WORDS, "workers=0", fresh=True)
    return result(box.run_folder)


def survive(box: Sandbox, kills: int, rng: random.Random) -> None:
    """Kill -9 the command ``kills`` times at random steps and moments, then let it finish."""
    for _ in range(kills):
        running = box.start(*WORDS, f"workers={rng.choice([0, 1, 2])}")
        if at_step(box, rng.randint(min(box.steps_logged(), 19), 20), running):
            time.sleep(rng.uniform(0, 0.2))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    box.ok(*WORDS, "workers=1")


def test_kill_nine_ends_in_the_same_bits(whole: dict[str, bytes], box: Sandbox) -> None:
    survive(box, kills=5, rng=random.Random(0))
    assert result(box.run_folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_kill_nine_many_times(whole: dict[str, bytes], box: Sandbox, seed: int) -> None:
    survive(box, kills=3, rng=random.Random(seed))
    assert result(box.run_folder) == whole


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "preempted")],
)
def test_signals_save_and_say_so(
    whole: dict[str, bytes], box: Sandbox, number: int, code: int, state: str
) -> None:
    running = box.start(*WORDS, "workers=2", "checkpoint.every=1000")
    assert at_step(box, 7, running)
    running.kill(number)
    ended = running.wait(timeout=60)
    assert ended.code == code, ended.err
    assert ended.last_line.startswith("segkit: error[STOP-SIG")
    status = box.status()
    assert (status["state"], status["code"]) == (state, code)
    assert status["last_checkpoint"] == f"step-{status['step']:08d}"
    assert not living(running.pid), "nothing of the session lives on"
    box.ok(*WORDS, "workers=0", "checkpoint.every=2")
    assert result(box.run_folder) == whole


def test_a_run_ended_in_failure_says_so(box: Sandbox) -> None:
    ended = box.run(*WORDS, "schedule.stages.0.lr=1e30")
    assert ended.code == 5, ended.err
    assert ended.last_line.startswith("segkit: error[NUM-NON-FINITE]: ")
    assert "step" in ended.last_line
    status = box.status()
    assert (status["state"], status["code"], status["error_id"]) == ("failed", 5, "NUM-NON-FINITE")
    assert (box.run_folder / "logs" / "error-rank0.log").exists()
