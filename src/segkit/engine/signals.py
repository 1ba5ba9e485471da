"""Stopping on request: a signal sets a flag, and every wait looks at it.

SIGINT is the user's, SIGTERM and SIGUSR1 are a scheduler's (SLURM sends the latter ahead of its
time limit). A second signal leaves at once.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import ParamSpec, TypeVar

from segkit.errors import ExitCode, Interrupted

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_ECHO_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequested(BaseException):
    """Work given up because of a signal.

    No Exception: an ``except Exception`` in a loader must not swallow it. Whoever called
    ``stopping`` turns it into an ``Interrupted``.
    """


class Stop:
    """The flag. True once a signal came.

    ``patient``: one of several processes, which must not be torn out of what they do together. It
    breaks no wait off by itself, and takes signals in quick succession for one, for a launcher and
    a terminal may both send it.
    """

    def __init__(self, patient: bool = False) -> None:
        self.signal: signal.Signals | None = None
        self.patient = patient
        self._came = 0.0
        self._waiting = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self) -> bool:
        return bool(self)

    def request(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self._came = time.monotonic()
        if self._waiting and not self.patient:
            raise StopRequested

    @property
    def insisted(self) -> bool:
        """Whether one more signal now means: at once."""
        return bool(self) and not (self.patient and time.monotonic() - self._came < _ECHO_SECONDS)

    def wait(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """``call(...)``, broken off with StopRequested by a signal, however long it would wait.

        Only for what may be given up half way: waiting for data, never for a save.
        """
        self._waiting = True
        try:
            if not self.patient:
                self.check()
            return call(*args, **kwargs)
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raise StopRequested if a signal came."""
        if self:
            raise StopRequested

    def interrupted(self, where: object, what: str, fix: str = "") -> Interrupted:
        """The error that ends the command: 130 for SIGINT, 143 for the others."""
        name = "SIGINT" if self.signal == signal.SIGINT else "SIGTERM"
        return Interrupted(name, where, what, fix)


@contextmanager
def stopping(on_leave: Callable[[], None] = lambda: None, patient: bool = False) -> Iterator[Stop]:
    """Handle the signals while inside, and restore the old handlers after.

    ``on_leave`` is called before a second signal ends the process; ``patient`` see ``Stop``. Main
    thread only.
    """
    stop = Stop(patient)

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stop.insisted:
            leave(number, on_leave)
        if not stop:
            stop.request(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, on_leave: Callable[[], None] = lambda: None) -> None:
    """End the process and its children now; what was saved stays saved."""
    for again in _SIGNALS:  # a third signal must not come in between
        signal.signal(again, signal.SIG_IGN)
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            child.kill()
    with suppress(Exception):
        on_leave()
    os._exit(ExitCode.SIGINT if number == signal.SIGINT else ExitCode.SIGTERM)
