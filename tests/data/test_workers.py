import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from segkit.data.workers import Note, in_order, shared_array
from segkit.errors import DataError, EnvironmentFault


def name_of(position: int) -> str:
    return f"id{position}"


def pool(work: Callable, count: int = 20, workers: int = 2, **options) -> Iterator:
    return in_order(range(count), work, workers=workers, name_of=name_of, **options)


def square(task: int, note: Note) -> int:
    note(task)
    return task * task


def children() -> set[int]:
    """Processes this one has started and not yet buried."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


@pytest.fixture(autouse=True)
def _nobody_stays_behind():
    before = children()
    yield
    deadline = time.monotonic() + 5
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children() - before


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_results_come_in_order(workers: int, count: int) -> None:
    assert list(pool(square, count, workers)) == [i * i for i in range(count)]


def test_no_more_is_made_than_was_ordered_ahead() -> None:
    made = shared_array((1,), np.int64)

    def work(task: int, note: Note) -> int:
        note(task)
        made[0] = max(made[0], task)
        return task

    results = pool(work, count=100, workers=1, prefetch=3)
    for expected in range(4):
        assert next(results) == expected
    time.sleep(0.3)
    assert made[0] <= 3 + 3
    results.close()


def test_workers_are_quiet_and_leave_when_closed() -> None:
    def work(task: int, note: Note) -> tuple:
        note(task)
        import torch

        ignored = [signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGINT, signal.SIGTERM)]
        return os.getpid(), torch.get_num_threads(), ignored

    results = pool(work)
    pid, threads, ignored = next(results)
    assert pid != os.getpid()
    assert (threads, ignored) == (1, [True, True])
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 3
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_fault_crosses_as_it_was(workers: int) -> None:
    def work(task: int, note: Note) -> int:
        note(task)
        if task == 5:
            raise DataError("LABEL-RANGE", "a.png", "label 37", "allowed 0..20")
        return task

    results = pool(work, workers=workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError) as caught:
        next(results)
    assert caught.value.line() == "segkit: error[DATA-LABEL-RANGE]: a.png: label 37; allowed 0..20"
    if workers:
        assert "in work" in "".join(caught.value.__notes__)  # the worker's own traceback


@pytest.mark.parametrize(
    ("fatal", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: (faulthandler.disable(), ctypes.string_at(0)), "was killed by SIGSEGV"),
        (lambda: sys.exit(0), "left with 0"),
        (lambda: os._exit(3), "left with 3"),
    ],
    ids=["SIGKILL", "segfault", "sys.exit", "_exit"],
)
def test_a_dead_worker_is_named_with_its_sample(fatal: Callable, words: str) -> None:
    def work(task: int, note: Note) -> int:
        note(task)
        if task == 7:
            fatal()
        return task

    results = pool(work)
    begin = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        list(results)
    assert time.monotonic() - begin < 5
    line = caught.value.line()
    assert "ENV-WORKER-DIED" in line
    assert "sample id7: worker 1 (pid " in line
    assert words in line


def test_a_stuck_worker_is_found_by_the_timeout() -> None:
    def work(task: int, note: Note) -> int:
        note(task)
        if task == 3:
            time.sleep(60)
        return task

    begin = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"sample id3: worker 1 .* no data for 0\.6 s"):
        list(pool(work, timeout=0.6))
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wait_sees_the_stop_flag(workers: int) -> None:
    flag = threading.Event()

    def work(task: int, note: Note) -> int:
        note(task)
        time.sleep(60 if task == 2 else 0)
        return task

    threading.Timer(0.3, flag.set).start()
    begin = time.monotonic()
    assert list(pool(work, workers=workers, should_stop=flag.is_set)) == [0, 1]
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flag_that_is_false_until_it_is_set_is_asked(workers: int) -> None:
    class Flag:
        asked = 0

        def __bool__(self) -> bool:
            return self.asked > 3

        def __call__(self) -> bool:
            self.asked += 1
            return bool(self)

    assert len(list(pool(square, workers=workers, should_stop=Flag()))) < 20


def test_a_signal_while_workers_are_forked_is_not_lost() -> None:
    """It comes from within a callback around the fork, where what a handler raises is dropped."""
    code = (
        "import os, signal, sys\n"
        "from segkit.data.workers import in_order\n"
        "def stop(*_): raise SystemExit(7)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "list(in_order(range(50), lambda task, note: task, workers=2, name_of=str))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (result.returncode, result.stderr) == (7, b"")


def test_without_workers_the_flag_is_seen_at_the_next_sample() -> None:
    seen = []

    def work(task: int, note: Note) -> int:
        for sample in range(4):
            note(sample)
            seen.append(sample)
        return task

    results = pool(work, workers=0, should_stop=lambda: len(seen) >= 6)
    assert list(results) == [0]
    assert len(seen) == 6


def start_and_tell(write_end: int) -> Iterator:
    """Start two workers, write their pids, and leave them with tasks that take a minute."""

    def work(task: int, note: Note) -> int:
        note(task)
        time.sleep(60 if task > 1 else 0)
        return os.getpid()

    results = pool(work)
    os.write(write_end, f"{next(results)} {next(results)}\n".encode())
    return results


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_no_worker_outlives_a_parent_that_dies(signum: int | None) -> None:
    read_end, write_end = os.pipe()
    parent = os.fork()
    if not parent:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        kept = start_and_tell(write_end)  # noqa: F841 (closing it would end the workers)
        if signum:
            time.sleep(60)
        os._exit(1)
    with os.fdopen(read_end) as pipe:
        pids = [int(pid) for pid in pipe.readline().split()]
    os.close(write_end)
    assert len(pids) == 2
    if signum:
        os.kill(parent, signum)
    os.waitpid(parent, 0)
    _await_end(pids)


UNCLOSED = """
import os, time
from segkit.data.workers import in_order
def work(task, note):
    time.sleep(60 if task > 1 else 0)
    return os.getpid()
results = in_order(range(9), work, workers=2, name_of=str)
print(next(results), next(results))
raise SystemExit(3)
"""


def test_no_worker_outlives_a_parent_that_ends() -> None:
    out = subprocess.run(
        [sys.executable, "-c", UNCLOSED], capture_output=True, text=True, timeout=120
    )
    assert (out.returncode, out.stderr) == (3, "")
    _await_end([int(pid) for pid in out.stdout.split()])


def _await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_too_much_shared_memory_is_said_in_one_line() -> None:
    with pytest.raises(EnvironmentFault, match="batches in flight need"):
        shared_array((2**50,), np.float32)
    assert shared_array((0, 3), np.float32).shape == (0, 3)
