"""Each side of a comparison in a process of its own, with the settings that are its own.

The command keeps freed memory (segkit.allocator) and lets OpenMP's threads sleep early
(``GOMP_SPINCOUNT``, segkit.cli): both hold for a whole process, and the alternative has neither.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

from common import Work, paired

SPIN = "GOMP_SPINCOUNT"


class Side:
    """Calling it has the other process do its work once, and gives the seconds of that.

    ``make(*arguments)``, found by name, makes the work there. ``as_command`` gives the environment
    that ``segkit`` gives itself, otherwise it is plain Python's. SystemExit if the process fails,
    which says itself why.
    """

    def __init__(self, make: Callable[..., Work], *arguments: object, as_command: bool) -> None:
        # Spawned, for torch reads the environment as it is loaded.
        fresh = multiprocessing.get_context("spawn")
        self._pipe, far = fresh.Pipe()
        served = (far, make, arguments)
        self._process = fresh.Process(target=_serve, args=served, daemon=True)
        with _environment(as_command):
            self._process.start()
        far.close()
        self._answer()  # it is there

    def __call__(self) -> float:
        self._pipe.send("work")
        return self._answer()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _answer(self) -> float:
        try:
            return float(self._pipe.recv())
        except EOFError:
            self._process.join()
            raise SystemExit(f"one side ended with code {self._process.exitcode}") from None


def apart(
    ours: tuple[Callable[..., Work], *tuple[object, ...]],
    theirs: tuple[Callable[..., Work], *tuple[object, ...]],
    *,
    rounds: int,
    as_command: tuple[bool, bool] = (True, False),
) -> tuple[list[float], list[float]]:
    """``paired``, of two makers with their arguments: one process waits while the other works."""
    with ExitStack() as both:
        sides = []
        for (make, *arguments), own in zip((ours, theirs), as_command, strict=True):
            side = Side(make, *arguments, as_command=own)
            both.callback(side.close)
            sides.append(side)
        return paired(*sides, rounds=rounds)


def _serve(pipe: Connection, make: Callable[..., Work], arguments: Sequence[object]) -> None:
    work = make(*arguments)
    pipe.send(0.0)
    while True:
        try:
            pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        began = time.perf_counter()
        work()
        pipe.send(time.perf_counter() - began)


@contextmanager
def _environment(as_command: bool) -> Iterator[None]:
    before = os.environ.get(SPIN)
    if as_command:
        os.environ.setdefault(SPIN, "1000")
    else:
        os.environ.pop(SPIN, None)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SPIN, None)
        else:
            os.environ[SPIN] = before
