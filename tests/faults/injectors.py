"""Small faults, each laid over one place of segkit or its libraries.

``SEGKIT_FAULT="name:argument,name:argument"`` installs them in a process (faulty_segkit.py).
An argument may name the rank it is for: ``kill_at:5@1`` only happens on rank 1.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import injectors_disk
import injectors_ranks
import injectors_runtime
import injectors_security
from injectors_ranks import before_update


def install(spec: str) -> None:
    """Lay every fault of ``spec`` over this process."""
    for part in spec.split(","):
        name, _, argument = part.partition(":")
        argument, _, rank = argument.partition("@")
        if not rank or rank == os.environ.get("RANK", "0"):
            INJECTORS[name](argument)


def _kill_at(step: str) -> None:
    before_update(int(step), lambda _: os.kill(os.getpid(), signal.SIGKILL))


def _hang_at(step: str) -> None:
    def hang(_: Any) -> None:
        while True:
            time.sleep(3600)

    before_update(int(step), hang)


def _terminate_at(step: str) -> None:
    before_update(int(step), lambda _: os.kill(os.getpid(), signal.SIGTERM))


INJECTORS: dict[str, Callable[[str], None]] = {
    "kill_at": _kill_at,
    "hang_at": _hang_at,
    "terminate_at": _terminate_at,
    **injectors_disk.INJECTORS,
    **injectors_ranks.INJECTORS,
    **injectors_runtime.INJECTORS,
    **injectors_security.INJECTORS,
}
