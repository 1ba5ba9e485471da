"""R2, R3, R4: one signal saves and ends within ten seconds, two end at once, whatever goes on."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import figures
import pytest
from sandbox import TINY, Result, Running, Sandbox, living, outcome

from segkit.engine import checkpoint

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
# The n-th time that this goes on, in the middle of the run.
TRAINING = ("weights/1", "opening/1", "first/1", "step/3", "save/5", "scoring/2")
EVAL = ("eval", "eval.pictures=0", "workers=2")
COMMANDS = {
    "eval": ("scoring/1", EVAL),
    "eval-crf": ("scoring/1", (*EVAL, "crf=true")),
    "predict": ("predict/2", ("predict", "photos", "ckpt=runs/x")),
    "predict-crf": ("predict/2", ("predict", "photos", "ckpt=runs/x", "crf=true")),
}
HUNG = {
    "train": (*TINY, "workers=0"),
    "train-workers": (*TINY, "workers=2"),
    "eval": (*EVAL, "workers=0"),
    "eval-workers": EVAL,
    "eval-crf": (*EVAL, "crf=true"),
}
FAST = ("train-workers", "eval")


@pytest.fixture(scope="module")
def trials() -> Iterator[list[tuple[float, int]]]:
    """Of every trial: seconds from the signal to the exit, and what was alive 5 s after it."""
    found: list[tuple[float, int]] = []
    yield found
    if found:
        seconds, alive = zip(*found, strict=True)
        figures.keep("B4", signal_to_exit_worst=round(max(seconds), 2), signals=len(found))
        figures.keep("B5", alive_after_5_seconds=sum(alive), signal_trials=len(found))


def stop(
    box: Sandbox, running: Running, number: int, times: int, trials: list[tuple[float, int]]
) -> Result:
    """Wait for the mark, send the signal, and make the checks that hold for every moment."""
    assert running.wait_for((box.work / "mark").exists), running.err.read_text()
    (box.work / "mark").unlink()
    began = time.monotonic()
    running.kill(number)
    if times == 2:
        time.sleep(0.2)
        running.kill(number)
    result = running.wait(30)
    seconds = time.monotonic() - began
    alive = living(result.pid)
    trials.append((seconds, len(alive)))
    assert result.code == CODES[signal.Signals(number)], result.err
    assert seconds <= (2 if times == 2 else 10), f"took {seconds:.1f} s"
    assert "Traceback" not in result.out + result.err, result.err
    if times == 1:
        name = "SIGINT" if number == signal.SIGINT else "SIGTERM"
        assert result.last_line.startswith(f"segkit: error[STOP-{name}]: "), result.err
    assert not alive, "a process of the session is still alive"
    return result


def check_status(box: Sandbox, number: int, *, saved: bool) -> None:
    """``status.json`` says how it ended; a run that was ``saved`` lost no step."""
    if not (box.run_folder / "status.json").exists():
        return  # stopped before there was anything to say
    status = box.status()
    assert status["code"] == CODES[signal.Signals(number)], status
    assert status["state"] == ("interrupted" if number == signal.SIGINT else "preempted")
    if saved:
        assert status["last_checkpoint"] == f"step-{status['step']:08d}"
        assert checkpoint.newest(box.run_folder).name == status["last_checkpoint"]


@pytest.mark.faults
@pytest.mark.parametrize("number", CODES, ids=lambda n: n.name)
@pytest.mark.parametrize("moment", TRAINING)
def test_a_training_stops_saved_and_goes_on(
    box: Sandbox, finished_run: Path, trials: list[tuple[float, int]], moment: str, number: int
) -> None:
    running = box.start(*TINY, inject=f"pause:{moment}/0.3")
    stop(box, running, number, 1, trials)
    check_status(box, number, saved=True)
    box.ok(*TINY, "resume=true")
    assert outcome(box.run_folder) == outcome(finished_run)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("moment", TRAINING)
def test_a_second_signal_ends_a_training_at_once(
    box: Sandbox, finished_run: Path, trials: list[tuple[float, int]], moment: str, number: int
) -> None:
    running = box.start(*TINY, "workers=2", inject=f"pause:{moment}/20")
    stop(box, running, number, 2, trials)
    if checkpoint.steps(box.run_folder / "checkpoints"):
        checkpoint.load(checkpoint.newest(box.run_folder))
    box.ok(*TINY, "resume=true")
    assert outcome(box.run_folder) == outcome(finished_run)


def test_a_signal_in_a_save_stops_saved(
    box: Sandbox, finished_run: Path, trials: list[tuple[float, int]]
) -> None:
    """The fast one of the many above."""
    running = box.start(*TINY, "workers=2", inject="pause:save/5/0.3")
    stop(box, running, signal.SIGTERM, 1, trials)
    check_status(box, signal.SIGTERM, saved=True)
    box.ok(*TINY, "resume=true")
    assert outcome(box.run_folder) == outcome(finished_run)


def photos(box: Sandbox, count: int = 6) -> None:
    from PIL import Image

    (box.work / "photos").mkdir()
    for number in range(count):
        picture = Image.new("RGB", (48, 40), (40 * number % 256, 90, 120))
        picture.save(box.work / f"photos/{number:03d}.png")


@pytest.mark.faults
@pytest.mark.parametrize("number", CODES, ids=lambda n: n.name)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_stop(
    trained: Sandbox, trials: list[tuple[float, int]], name: str, times: int, number: int
) -> None:
    moment, words = COMMANDS[name]
    photos(trained)
    running = trained.start(*words, inject=f"pause:{moment}/{20 if times == 2 else 0.3}")
    stop(trained, running, number, times, trials)
    assert not list(trained.run_folder.rglob("score.json")), "a part was scored as the whole"
    trained.ok(*words)


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.faults) for n in HUNG],
)
def test_a_stuck_wait_does_not_hold_up_the_stop(
    trained: Sandbox, trials: list[tuple[float, int]], name: str
) -> None:
    """R4: a sample, or a CRF process, that takes for ever."""
    words = [word.replace("name=x", "name=y") for word in HUNG[name]]
    fault = "reading:hangs/5" if "train" in name else "reading:hangs/1"
    if name == "eval-crf":
        fault = "crf:SIGSTOP"
    running = trained.start(*words, inject=fault)
    if name == "eval-crf":
        running.wait_for(lambda: stopped_processes(running.pid) > 0)
        (trained.work / "mark").touch()
    result = stop(trained, running, signal.SIGTERM, 1, trials)
    assert result.seconds < 10
    assert not list(trained.run_folder.rglob("score.json")), "a part was scored as the whole"


def stopped_processes(session: int) -> int:
    """How many processes of a session lie still under SIGSTOP."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += int(fields[3]) == session and fields[0] == "T"
    return found


@pytest.mark.faults
def test_signals_during_imports(box: Sandbox, trials: list[tuple[float, int]]) -> None:
    """From segkit's first line on. Before it Python itself starts, and has its own way to end."""
    rng = random.Random(0)
    for number in [*CODES, *CODES]:
        env = {"PYTHONPROFILEIMPORTTIME": "1"}  # a line for every module: we see our first
        running = box.start(*TINY, fresh=True, env=env)
        assert running.wait_for(lambda r=running: " signal\n" in r.err.read_text())
        time.sleep(0.05 + rng.uniform(0, 1.5))
        (box.work / "mark").touch()
        stop(box, running, number, 1, trials)
    assert not any(path.suffix == ".tmp" for path in box.work.rglob("*"))


@pytest.mark.faults
def test_a_stop_ends_a_whole_sweep(box: Sandbox, trials: list[tuple[float, int]]) -> None:
    words = [word for word in TINY if word != "name=x"]
    running = box.start(*words, "-m", "seed=1,2,3", "workers=2", inject="pause:step/3/0.3")
    stop(box, running, signal.SIGINT, 1, trials)
    assert len(list((box.work / "runs").glob("*/run.json"))) == 1, "another job was begun"


@pytest.mark.faults
def test_no_signal_reaches_a_worker(
    box: Sandbox, finished_run: Path, trials: list[tuple[float, int]]
) -> None:
    """SLURM and Ctrl-C signal every process of the job, workers too: they leave that to the run."""
    running = box.start(*TINY, "workers=2", inject="pause:step/3/0.5")
    assert running.wait_for((box.work / "mark").exists)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        if int(fields[3]) == running.pid and int(stat.parent.name) != running.pid:
            os.kill(int(stat.parent.name), signal.SIGUSR1)
    stop(box, running, signal.SIGUSR1, 1, trials)
    check_status(box, signal.SIGUSR1, saved=True)
    box.ok(*TINY, "resume=true")
    assert outcome(box.run_folder) == outcome(finished_run)
