"""Work in child processes, in order, with every way to fail named.

Processes are forked by hand instead of by ``torch.utils.data.DataLoader`` for what a long run needs
and that one lacks: the sample a dead or stuck worker was at, waits that look at a stop flag, an
end that is prompt, and no use of ``/dev/shm``.
"""

import atexit
import math
import mmap
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch

from segkit.errors import EnvironmentFault, SegkitError
from segkit.lifeline import end_with_parent
from segkit.limits import fault_of, free_memory

T = TypeVar("T")
Note = Callable[[int], None]
"""Called by the work with the position it is about to read."""

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
POLL_SECONDS = 0.5
PREFETCH = 2


class _Stopped(Exception):
    """The caller asked for the end while waiting."""


def in_order(
    tasks: Sequence[int],
    work: Callable[[int, Note], T],
    *,
    workers: int,
    name_of: Callable[[int], str],
    prefetch: int = PREFETCH,
    timeout: float = 300.0,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[T]:
    """``work(task, note)`` for every task, in the order of ``tasks``, from forked processes.

    At most ``workers · prefetch`` results exist ahead of the caller. ``workers=0`` works in this
    process. Where ``should_stop`` (asked twice a second) says so, the iterator ends. ``close()``
    or the end kills the workers. What ``work`` raises is raised here, as the ``SegkitError`` it
    was; ``EnvironmentFault`` names worker and sample (``name_of(position)``) where a worker dies or
    is silent for ``timeout`` seconds. Workers end with the thread that asked for the first result.
    """
    # Not "should_stop or": a flag that can be called is false as long as it is not set.
    stop = (lambda: False) if should_stop is None else should_stop
    try:
        if workers == 0:
            yield from _here(tasks, work, stop)
        else:
            crew = _Crew(work, workers, name_of, timeout, stop)
            try:
                yield from crew.results(tasks, workers * prefetch)
            finally:
                crew.close()
    except _Stopped:
        return


def shared_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A zeroed array that forked children write and this process reads.

    Anonymous memory, so that the size of ``/dev/shm`` (64 MB in many containers) is no limit.
    Raises EnvironmentFault where it is more than is free: the system would give it out all the
    same, and kill somebody in the middle of the training.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    free = free_memory()
    if free is not None and size > free:
        what = f"batches in flight need {size / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"
        fix = "type workers=0, or lower schedule.batch or augment.crop"
        raise EnvironmentFault("MEMORY", "workers", what, fix)
    try:
        return np.ndarray(shape, dtype, buffer=mmap.mmap(-1, max(size, 1)))
    except (OSError, MemoryError, OverflowError) as error:
        what = f"no memory for {size / 2**20:.0f} MiB of batches ({error})"
        fix = "use fewer workers, a smaller batch or a smaller crop"
        raise EnvironmentFault("MEMORY", "workers", what, fix) from None


def _here(tasks: Sequence[int], work: Callable[[int, Note], T], stop: Callable[[], bool]) -> Any:
    def note(_: int) -> None:
        if stop():
            raise _Stopped

    for task in tasks:
        yield work(task, note)


class _Crew(Generic[T]):
    """Worker ``i % n`` does the ``i``-th task, so the order needs no bookkeeping."""

    def __init__(
        self,
        work: Callable[[int, Note], T],
        workers: int,
        name_of: Callable[[int], str],
        timeout: float,
        stop: Callable[[], bool],
    ) -> None:
        self.name_of, self.timeout, self.stop = name_of, timeout, stop
        self.at = shared_array((workers,), np.int64)
        self.at[:] = -1
        self.members: list[_Member] = []
        # multiprocessing ends its children at exit by SIGTERM, which ours ignore.
        atexit.register(self.close)
        try:
            with _signals_later():
                for number in range(workers):
                    self.members.append(_Member(work, self.at, number))
        except OSError as error:
            self.close()
            what = f"worker {len(self.members)} cannot be started ({error.strerror})"
            limit = fault_of(error)
            fix = f"{limit.what}; {limit.fix}" if limit else "use fewer workers"
            raise EnvironmentFault("WORKER-START", "workers", what, fix) from None
        except BaseException:
            self.close()
            raise

    def results(self, tasks: Sequence[int], ahead: int) -> Iterator[T]:
        sent = 0
        for number in range(len(tasks)):
            # Only now: the caller is done with result number - 1, whose memory may be reused.
            while sent < min(len(tasks), number + ahead):
                self.members[sent % len(self.members)].give(tasks[sent])
                sent += 1
            value, error, trace = self._wait(number % len(self.members))
            if error is not None:
                error.add_note(trace)
                raise error
            yield value

    def close(self) -> None:
        atexit.unregister(self.close)
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.join()
            member.connection.close()
        self.members = []

    def _wait(self, number: int) -> Any:
        member = self.members[number]
        begin = time.monotonic()
        while True:
            if self.stop():
                raise _Stopped
            ready = wait([member.connection, member.process.sentinel], POLL_SECONDS)
            if member.connection in ready:
                try:
                    return member.connection.recv()
                except (EOFError, OSError):
                    raise self._died(number) from None
            if ready:
                raise self._died(number)
            if time.monotonic() - begin > self.timeout:
                what = f"worker {self._who(number)} gave no data for {self.timeout:g} s"
                fix = "look at the storage, or raise worker_timeout"
                raise EnvironmentFault("WORKER-STUCK", self._sample(number), what, fix)

    def _died(self, number: int) -> EnvironmentFault:
        self.members[number].process.join(5)  # its pipe closes a moment before it can be buried
        code = self.members[number].process.exitcode
        how = f"was killed by {_signal_name(-code)}" if code and code < 0 else f"left with {code}"
        fix = "if memory ran out: fewer workers; workers=0 shows a crash in the foreground"
        return EnvironmentFault(
            "WORKER-DIED", self._sample(number), f"worker {self._who(number)} {how}", fix
        )

    def _who(self, number: int) -> str:
        return f"{number} (pid {self.members[number].process.pid})"

    def _sample(self, number: int) -> str:
        at = int(self.at[number])
        return f"sample {self.name_of(at)}" if at >= 0 else "before the first sample"


class _Member:
    def __init__(self, work: Callable[[int, Note], Any], at: np.ndarray, number: int) -> None:
        # Forked, not spawned: data set and shared memory are there without being sent.
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, work, at, number, os.getpid()),
            daemon=True,
            name=f"segkit-data-{number}",
        )
        self.process.start()
        theirs.close()  # so that a worker's death closes the pipe

    def give(self, task: int) -> None:
        try:
            self.connection.send(task)
        except OSError:
            return  # dead; waiting for its result tells how


def _serve(
    connection: Connection,
    work: Callable[[int, Note], Any],
    at: np.ndarray,
    number: int,
    parent: int,
) -> None:
    end_with_parent(parent)
    # The parent decides when to stop; a signal to the whole group must not break its last step.
    for ignored in _STOPPING:
        signal.signal(ignored, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    def note(position: int) -> None:
        at[number] = position

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(work, task, note))


@contextmanager
def _signals_later() -> Iterator[None]:
    """Signals that come inside are handled after it.

    What a handler raises while the interpreter runs its own callbacks around a fork is printed as a
    traceback and lost.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers never run in others
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for again in dict.fromkeys(came):
            signal.raise_signal(again)


def _attempt(work: Callable[[int, Note], Any], task: int, note: Note) -> tuple[Any, Any, str]:
    try:
        return work(task, note), None, ""
    except SegkitError as error:
        return None, error, traceback.format_exc()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
