"""Runs that are killed, stopped and resumed through the command line end in the same bits.

The engine's own tests do this many times on a toy; here it is the real command, with workers,
accumulation, validation, saves and both stages.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = [
    *("train", "experiment=quickstart", "name=x", "resume=true", "log.tensorboard=false"),
    *("dataset.size=33", "dataset.count=10", "dataset.val.count=2", "augment.crop=33"),
    *("schedule.batch=4", "schedule.accumulate=2", "eval.every=3", "checkpoint.every=2"),
    *("schedule.stages.0.steps=14", "schedule.stages.1.steps=6", "log.every=1"),
    "schedule.ema=0.9",
]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "segkit", *WORDS, f"runs={folder}", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def result(folder: Path) -> dict[str, bytes]:
    """What must be equal: weights, buffers, their average, optimiser, every logged value, the
    sample order."""
    last = max((folder / "x" / "checkpoints").glob("step-*"))
    files = [*last.glob("*.safetensors"), folder / "x" / "metrics.jsonl"]
    return {path.name: path.read_bytes() for path in files}


def at_step(folder: Path, step: int, process: subprocess.Popen[str]) -> bool:
    """Wait until the run has logged ``step``; False if it ended before."""
    log = folder / "x" / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_bytes().count(b'"loss"') >= step:
            return True
        time.sleep(0.01)
    return False


def finish(folder: Path, *words: str) -> None:
    process = start(folder, *words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, "workers=0")
    return result(folder)


def survive(folder: Path, kills: int, rng: random.Random) -> None:
    """Kill -9 the command ``kills`` times at random steps and moments, then let it finish."""
    for _ in range(kills):
        process = start(folder, f"workers={rng.choice([0, 1, 2])}")
        log = folder / "x" / "metrics.jsonl"
        done = log.read_bytes().count(b'"loss"') if log.exists() else 0
        if at_step(folder, rng.randint(min(done, 19), 20), process):
            time.sleep(rng.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(folder, "workers=1")


def test_kill_nine_ends_in_the_same_bits(whole: dict[str, bytes], tmp_path: Path) -> None:
    survive(tmp_path, kills=5, rng=random.Random(0))
    assert result(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_kill_nine_many_times(whole: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    survive(tmp_path, kills=3, rng=random.Random(seed))
    assert result(tmp_path) == whole


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "preempted")],
)
def test_signals_save_and_say_so(
    whole: dict[str, bytes], tmp_path: Path, number: int, code: int, state: str
) -> None:
    process = start(tmp_path, "workers=2", "checkpoint.every=1000")
    assert at_step(tmp_path, 7, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.strip().splitlines()[-1].startswith("segkit: error[STOP-SIG")
    status = json.loads((tmp_path / "x" / "status.json").read_text())
    assert (status["state"], status["code"]) == (state, code)
    assert status["last_checkpoint"] == f"step-{status['step']:08d}"
    assert not session(process.pid), "nothing of the session lives on"
    finish(tmp_path, "workers=0", "checkpoint.every=2")
    assert result(tmp_path) == whole


def session(leader: int) -> list[int]:
    """Living processes of a session, five seconds after its leader ended at the latest."""
    for _ in range(50):
        alive = [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if belongs(stat, leader)
        ]
        if not alive:
            return []
        time.sleep(0.1)
    return alive


def belongs(stat: Path, leader: int) -> bool:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == leader and fields[0] != "Z"


def test_a_run_ended_in_failure_says_so(tmp_path: Path) -> None:
    process = start(tmp_path, "schedule.stages.0.lr=1e30")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("segkit: error[NUM-NON-FINITE]: ")
    assert "step" in line
    status = json.loads((tmp_path / "x" / "status.json").read_text())
    assert (status["state"], status["code"], status["error_id"]) == ("failed", 5, "NUM-NON-FINITE")
    assert (tmp_path / "x" / "logs" / "error-rank0.log").exists()
