"""This process's place among those that a launcher started, and its last word to the launcher.

torch's elastic launcher (``torchrun``, or ``devices=N``, which uses it too) tells every process its
place in the environment, and shows what it finds in ``TORCHELASTIC_ERROR_FILE`` as the cause when
one fails. Nothing here imports torch.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine.

    ``restarts``: how often the launcher has started the processes again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0


def place() -> Place:
    """What the launcher said; alone where there is none. Raises ConfigError for a half of it."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return Place()
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < size:
        raise ConfigError("RANK", "RANK", f"{rank} of {size} processes", "start it with torchrun")
    return Place(
        rank,
        size,
        _number("LOCAL_RANK", rank),
        _number("LOCAL_WORLD_SIZE", size),
        _number("TORCHELASTIC_RESTART_COUNT", 0),
    )


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError("RANK", name, f"{text!r}", "start it with torchrun") from None


# ``devices=N`` prints the last line itself, once; its processes only tell it. The value is its pid.
LAUNCHED = "SEGKIT_LAUNCHED"
# A command that ``segkit table`` started ends with it. The value is the table's pid.
CHILD = "SEGKIT_CHILD"


def launched() -> bool:
    """Whether ``devices=N`` of another segkit started this process."""
    return LAUNCHED in os.environ


def launcher() -> int:
    """The process that started this one, even if it is gone by now."""
    text = os.environ.get(LAUNCHED, "")
    return int(text) if text.isdigit() else os.getppid()


@dataclass(frozen=True)
class Verdict:
    """How one process ended: the line for the user, its exit code, when (seconds since 1970)."""

    line: str
    code: int
    at: float


def tell(line: str, code: int) -> None:
    """Leave this process's last word where its launcher looks for it, if it has one."""
    if not (place := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        return
    extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
    told = {"message": {"message": line, "extraInfo": extra}, "code": code, "at": time.time()}
    with suppress(OSError):
        Path(place).write_text(json.dumps(told), encoding="utf-8")


def told(folder: Path) -> Iterator[Verdict]:
    """The last words of the processes whose error files lie in ``folder``, the first one first."""
    found = []
    for path in folder.rglob("error.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            word = json.loads(path.read_bytes())
            found.append(Verdict(str(word["message"]["message"]), int(word["code"]), word["at"]))
    yield from sorted(found, key=lambda verdict: verdict.at)
