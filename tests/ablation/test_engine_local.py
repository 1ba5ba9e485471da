"""On this machine: one after another, or side by side; what happens to one job is its own."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished

from segkit.ablation.engines import local
from segkit.ablation.engines.local import Children, Rules, SideBySide
from segkit.ablation.jobs import Job
from segkit.ablation.state import lock_path, log_path, missing, read_record
from segkit.ablation.work import Outcome
from segkit.engine.signals import Stop
from segkit.lock import Lock

HERE: dict[str, Any] = {
    "device": "cpu",
    "devices": 1,
    "scale": {"keep_weights": True},
    "engine": {"isolate": False, "per_device": 1},
}


def untrained(finished: Finished, count: int = 3) -> list[Job]:
    """Jobs whose runs do not exist."""
    job = finished.plan.jobs[0]
    return [replace(job, run=finished.runs / f"new{number}") for number in range(count)]


def run(
    jobs: Sequence[Job], stop: Stop | None = None, values: dict[str, Any] = HERE
) -> tuple[list[Outcome], list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    outcomes = local.run(
        jobs,
        values,
        stop=stop or Stop(),
        told=lambda job, outcome: told.append((job.name, outcome.state)),
    )
    return outcomes, told


def test_a_failing_job_leaves_the_others(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = {"new0": 0, "new1": 4, "new2": 5}
    asked = []

    def command(words: Sequence[str], log: Path) -> int:  # noqa: ARG001
        asked.append(log.stem)
        return codes[log.stem]

    monkeypatch.setattr(local, "in_this_process", command)
    outcomes, told = run(untrained(finished))
    assert [outcome.code for outcome in outcomes] == [1, 4, 5], "new0 left no score"
    assert told == [(name, "failed") for name in codes]
    assert asked == ["new0", "new0", "new0", "new1", "new2"]


def test_a_fault_of_ours_is_its_jobs_alone(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(words: Sequence[str], log: Path) -> int:  # noqa: ARG001
        if log.stem == "new0":
            raise ValueError("a bug\nof two lines")
        return 5

    monkeypatch.setattr(local, "in_this_process", command)
    jobs = untrained(finished, 2)
    outcomes, _ = run(jobs)
    assert [(o.state, o.code) for o in outcomes] == [("failed", 1), ("failed", 5)]
    assert outcomes[0].line.startswith("segkit: ValueError: a bug")
    assert read_record(jobs[0])["code"] == 1
    assert "Traceback" in log_path(jobs[0]).read_text()

    def broken(*_: Any, **__: Any) -> Outcome:
        raise KeyError("before it is recorded")

    monkeypatch.setattr(local, "do", broken)
    outcomes, _ = run(jobs)
    assert [o.code for o in outcomes] == [1, 1]
    assert read_record(jobs[1])["line"] == outcomes[1].line


def test_a_stop_is_for_all(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "in_this_process", lambda words, log: 143)  # noqa: ARG005
    outcomes, _ = run(untrained(finished))
    assert [(o.state, o.code) for o in outcomes] == [("stopped", 143)] * 3
    assert not (finished.runs / "jobs/new1.json").exists(), "it was not begun"


def test_a_job_that_another_process_has_comes_last(finished: Finished) -> None:
    first, second = finished.plan.jobs
    lock = Lock(lock_path(first))
    threading.Timer(1.0, lock.release).start()
    outcomes, told = run([first, second])
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    assert told == [(first.name, "busy"), (second.name, "done"), (first.name, "done")]


def test_a_row_without_the_network_it_begins_with_fails(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = untrained(finished)
    monkeypatch.setattr(local, "in_this_process", lambda words, log: 4)  # noqa: ARG005
    outcomes, _ = run([first, replace(second, begins=first.run)])
    assert [outcome.code for outcome in outcomes] == [4, 4]
    assert outcomes[1].line == f"begins with {first.run}, which is not trained"


# -- processes -------------------------------------------------------------------------------------


def side_by_side(
    jobs: Sequence[Job], stop: Stop, program: str, lanes: Sequence[dict[str, str]]
) -> list[Outcome]:
    """Jobs whose commands are all the Python ``program``; it is called with the words."""
    rules = Rules(True, jobs, stop)
    children = Children(stop, (sys.executable, "-c", program))
    with children, ThreadPoolExecutor(len(lanes)) as pool:
        return SideBySide(pool, lanes, children, rules)(jobs, lambda job, outcome: None)  # noqa: ARG005


def test_processes_run_together_each_in_its_lane(finished: Finished, tmp_path: Path) -> None:
    """Each waits until the other is there: one after another they would never end."""
    meet = f"""
import os, pathlib, sys, time
pathlib.Path({str(tmp_path)!r}, os.environ["CARD"]).touch()
while len(list(pathlib.Path({str(tmp_path)!r}).glob("card*"))) < 2: time.sleep(0.01)
print("segkit: error[TEST]:", os.environ["CARD"], sys.argv[1])
sys.exit(3)
"""
    lanes = [{"CARD": "card0"}, {"CARD": "card1"}]
    outcomes = side_by_side(untrained(finished, 2), Stop(), meet, lanes)
    assert {outcome.line for outcome in outcomes} == {
        "error[TEST]: card0 train",
        "error[TEST]: card1 train",
    }


def test_a_killed_process_is_a_failed_job(finished: Finished) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    outcome, *_ = side_by_side(untrained(finished, 1), Stop(), program, [{}])
    assert (outcome.state, outcome.code) == ("failed", 137)


def test_a_stop_reaches_the_processes_once(finished: Finished) -> None:
    """The first one saves; of a second one it would leave at once."""
    program = """
import signal, sys, time
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))
print("ready", flush=True)
while not came: time.sleep(0.01)
time.sleep(0.5)
print("segkit: error[STOP-SIGTERM]: saved,", len(came), "signal")
sys.exit(143)
"""
    stop, jobs = Stop(), untrained(finished, 2)
    log = finished.runs / "jobs/new0.log"

    def request() -> None:
        while not log.exists() or "ready" not in log.read_text().split():
            time.sleep(0.02)
        stop.signal = signal.SIGTERM

    threading.Thread(target=request).start()
    first, second = side_by_side(jobs, stop, program, [{}])
    assert (first.state, first.code) == ("stopped", 143)
    assert first.line == "error[STOP-SIGTERM]: saved, 1 signal"
    assert (second.state, second.line) == ("stopped", "stopped before it began")


def test_a_job_waits_for_the_one_it_begins_with(finished: Finished) -> None:
    first, second = finished.plan.jobs
    later = replace(untrained(finished, 1)[0], begins=first.run)
    outcomes = side_by_side([first, later, second], Stop(), "raise SystemExit(9)", [{}, {}])
    assert [outcome.code for outcome in outcomes] == [0, 9, 0]
    assert missing(later)


# -- lanes -----------------------------------------------------------------------------------------


def lanes(
    monkeypatch: pytest.MonkeyPatch, cards: int | None, **values: Any
) -> list[dict[str, str]]:
    monkeypatch.setattr("segkit.parts.device_count", lambda name: cards)  # noqa: ARG005
    monkeypatch.setattr("segkit.parts.cores", lambda: 8)
    asked = {**HERE, "device": "auto", "engine": {"per_device": values.pop("per_device", 1)}}
    return local.lanes_of({**asked, **values})


def test_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert lanes(monkeypatch, None) == [{}]
    assert lanes(monkeypatch, None, per_device=3) == [{"OMP_NUM_THREADS": "2"}] * 3
    cards = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert lanes(monkeypatch, 2, per_device=2) == cards + cards
    assert lanes(monkeypatch, 5, devices=2) == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    assert lanes(monkeypatch, 2, device="cuda:1") == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [lane["CUDA_VISIBLE_DEVICES"] for lane in lanes(monkeypatch, 2)] == ["4", "6"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert lanes(monkeypatch, None, per_device=2) == [{}, {}]


def test_commands_end_with_their_table() -> None:
    """``segkit`` under a parent that is gone stops by itself."""
    from segkit import ranks

    words = [sys.executable, "-P", "-m", "segkit", "--version"]
    gone = os.spawnve(os.P_WAIT, words[0], words, {**os.environ, ranks.CHILD: "1"})
    assert gone == -signal.SIGTERM, "1 is not its parent: that one died before this one began"
    mine = {**os.environ, ranks.CHILD: str(os.getpid())}
    assert os.spawnve(os.P_WAIT, words[0], words, mine) == 0
