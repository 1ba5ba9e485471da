"""R2, R3: one signal saves and ends with its code; two end at once; nothing is lost."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_training as toy

from segkit.engine import checkpoint, loop
from segkit.engine.signals import Stop, StopRequested, stopping
from segkit.errors import Interrupted

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


def raised(number: int) -> None:
    """Send ``number`` to this process and let its handler run."""
    os.kill(os.getpid(), number)
    time.sleep(0)


def signalling(number: int, at: int) -> Any:
    def saw(step: int, _: list[str]) -> None:
        if step == at:
            raised(number)

    return toy.batches(0, 4, 14, saw)


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("moment", ["first", "data", "update", "validation", "save", "last save"])
def test_one_signal_saves_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    moment: str,
) -> None:
    plan, validate = toy.plan(0, 14), toy.validate
    once = iter([True])
    if moment == "first":
        monkeypatch.setattr(loop, "_tune", lambda _: raised(number))
    elif moment == "data":
        plan = toy.plan(0, 14, batches=signalling(number, 5))
    elif moment == "update":
        rate = plan.learning_rate
        plan = toy.plan(0, 14, learning_rate=lambda s: (s == 5 and raised(number)) or rate(s))
    elif moment == "validation":

        def validate(model: Any, step: int) -> dict[str, Any]:
            if step == 8 and next(once, False):
                raised(number)
            return toy.validate(model, step)
    else:
        save, at = checkpoint.save, 14 if moment == "last save" else 6

        def signalled(*args: Any, **given: Any) -> Path:
            if given["step"] == at:
                raised(number)
            return save(*args, **given)

        monkeypatch.setattr(checkpoint, "save", signalled)
    expected = {
        "first": 0, "data": 5, "update": 6, "validation": 8, "save": 6, "last save": 14
    }[moment]  # fmt: skip

    with pytest.raises(Interrupted) as caught:
        toy.train_toy_with_signals(tmp_path / "run", stages=[plan], validate=validate)
    assert int(caught.value.code) == CODES[number]
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["code"] == CODES[number]
    assert status["state"] == ("interrupted" if number == signal.SIGINT else "preempted")
    # Training goes on beside a save, at the longest until the next has to wait for it.
    assert status["step"] in (range(6, 9) if moment == "save" else (expected,))
    assert checkpoint.load(checkpoint.newest(tmp_path / "run")).step == status["step"]

    monkeypatch.undo()
    toy.train_toy(tmp_path / "run", resume=True, stages=[toy.plan(0, 14)])
    toy.train_toy(tmp_path / "whole", stages=[toy.plan(0, 14)])
    assert (tmp_path / "run/metrics.jsonl").read_text() == (
        tmp_path / "whole/metrics.jsonl"
    ).read_text()


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(99)
    return pid


def exit_code(pid: int, within: float) -> int:
    end = time.monotonic() + within
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"still alive after {within} s")


@pytest.mark.parametrize("number", CODES)
def test_two_signals_end_at_once_with_their_children(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Deaf work in between: the first signal is not answered, the second need not be."""
    read, write = os.pipe()
    left = tmp_path / "left"

    def work() -> None:
        with stopping(on_leave=lambda: left.write_text("told") and None):
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            worker.start()
            os.write(write, f"{worker.pid}\n".encode())
            while True:
                time.sleep(0.01)

    pid = in_child(work)
    worker = int(os.read(read, 20))
    os.kill(pid, number)
    time.sleep(0.1)
    os.kill(pid, number)
    assert exit_code(pid, 10) == CODES[number]
    assert left.read_text() == "told"
    for _ in range(500):
        if not Path(f"/proc/{worker}").exists() or "Z" in state(worker):
            break
        time.sleep(0.01)
    else:
        raise AssertionError("the worker is still alive")


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_a_wait_for_data_is_broken_off(tmp_path: Path) -> None:
    """R4: a sample that takes a minute does not hold up the stop."""

    def stuck(first: int) -> Iterator[toy.ToyBatch]:
        for batch in toy.batches(0, 4, 14, lambda *_: None)(first):
            if first == 3:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                time.sleep(60)
            first += 1
            yield batch

    before = signal.signal(signal.SIGALRM, lambda *_: raised(signal.SIGTERM))
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            toy.train_toy_with_signals(tmp_path / "run", stages=[toy.plan(0, 14, batches=stuck)])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 10
    assert checkpoint.load(checkpoint.newest(tmp_path / "run")).step == 3


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in CODES]
    with pytest.raises(ZeroDivisionError), stopping():  # noqa: PT012
        assert [signal.getsignal(number) for number in CODES] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in CODES] == before


def test_loaders_cannot_swallow_the_stop() -> None:
    stop = Stop()

    def loader() -> str:
        try:
            stop.request(signal.SIGINT)
        except Exception:
            return "swallowed"
        return "went on"

    with pytest.raises(StopRequested):
        stop.wait(loader)
    with pytest.raises(StopRequested):
        stop.wait(lambda: "not even begun")


def test_outside_of_a_wait_only_the_flag_is_set() -> None:
    stop = Stop()
    assert not stop()
    stop.request(signal.SIGTERM)
    assert stop()
    assert int(stop.interrupted("here", "stopped").code) == 143
