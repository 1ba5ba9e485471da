"""Faults of the disk and of the run folder, and kills between two halves of an update."""

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN = Path("runs/x")


def _before_updates(look: Callable[[int], Any]) -> None:
    """Call ``look`` with the count of updates done in this process, before each.

    A save that is under way comes to its end first: what happens to it does not depend on how fast
    the next update is.
    """
    from segkit.engine.loop import Update

    update, count = Update.__call__, 0

    def watched(self: Any, *args: Any) -> Any:
        nonlocal count
        for thread in threading.enumerate():
            if thread.name == "saving":
                thread.join()
        look(count)
        done = update(self, *args)
        count += 1
        return done

    Update.__call__ = watched  # type: ignore[method-assign]


def _at(step: str, act: Callable[[], Any]) -> None:
    _before_updates(lambda done: act() if done == int(step) else None)


def _fail(argument: str) -> None:
    """``write:ENOSPC:PART:FIRST-LAST``: from update FIRST to update LAST the call fails on paths
    that hold PART. A write puts half of its bytes there first, as near a full disk.
    """
    call, name, part, span = argument.split(":")
    first, last = map(int, span.split("-"))
    number, real, update = getattr(errno, name), getattr(os, call), 0

    def look(done: int) -> None:
        nonlocal update
        update = done + 1

    def hurt(handle: int, *data: Any) -> Any:
        if not (
            first <= update <= last and part in str(Path(f"/proc/self/fd/{handle}").readlink())
        ):
            return real(handle, *data)
        if call == "write":
            real(handle, data[0][: len(data[0]) // 2])
        raise OSError(number, os.strerror(number))

    _before_updates(look)
    setattr(os, call, hurt)


def _replace_run() -> None:
    RUN.rename(RUN.with_name("moved"))
    RUN.mkdir()


def _kill_in_backward(count: str) -> None:
    """Between the parts of an update whose gradients are accumulated."""
    from torch import Tensor

    backward, left = Tensor.backward, int(count)

    def hurt(self: Tensor, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        backward(self, *args, **kwargs)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    Tensor.backward = hurt  # type: ignore[method-assign]


INJECTORS: dict[str, Callable[[str], None]] = {
    "fail": _fail,
    "delete_run_at": lambda step: _at(step, lambda: shutil.rmtree(RUN)),
    "replace_run_at": lambda step: _at(step, _replace_run),
    "kill_in_backward": _kill_in_backward,
}
