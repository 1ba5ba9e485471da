"""The table: every fault that must end a command, and how.

A case prepares its fault in a sandbox and returns the words to type. ``test_cases.py`` types them
and makes the seven checks. The tables by subject stand in ``cases_*.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox import Sandbox

Prepare = Callable[[Sandbox], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """``row`` is the catalogue's id, ``error`` the id and ``names`` a part of the last line.

    ``needs_run`` puts a finished run into the sandbox first. ``inject`` names faults of
    ``injectors``; ``speed`` is fast, slow (make test-faults) or long (make test-long).
    """

    row: str
    name: str
    prepare: Prepare
    code: int
    error: str
    names: str
    speed: str = "fast"
    inject: str = ""
    needs_run: bool = False
    status: bool = False
    seconds: float = 20.0
    fresh: bool = False

    @property
    def id(self) -> str:
        return f"{self.row}-{self.name}"


def typed(*words: str) -> Prepare:
    """Nothing to prepare: the words are the fault."""
    return lambda _: words
