"""Faults for the config and security rows."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _own_modules(_: str) -> None:
    """Modules in the working directory can be imported, as with PYTHONPATH=. in a shell."""
    sys.path.insert(0, str(Path.cwd()))


def _no_network(_: str) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse  # type: ignore[assignment]


INJECTORS: dict[str, Callable[[str], None]] = {
    "own_modules": _own_modules,
    "no_network": _no_network,
}
