"""Data sets opened to the end: what a reader stops at is noted, and the rest goes on."""

from collections.abc import Callable, Sequence
from typing import Any

from segkit.data.pairs import FilePairs
from segkit.errors import SegkitError

# The scan tells these file by file, or the inventory does.
_TOLD_LATER = ("MISSING-FILE", "ORPHANS", "MASK-MODE")

Fault = tuple[SegkitError, tuple[str, ...]]


class _Noting(FilePairs):
    """Comes before a reader in the order of its methods."""

    def __init__(self, *arguments: Any, **words: Any) -> None:
        self.opening_faults: list[Fault] = []
        super().__init__(*arguments, **words)

    def _refuse(self, error: SegkitError, names: Sequence[str] = ()) -> None:
        if error.name not in _TOLD_LATER:
            self.opening_faults.append((error, tuple(names)))

    def _require_files(self, ids: list[str]) -> None:
        """The scan finds each that is missing."""


def noting(reader: Callable[..., Any]) -> Callable[..., Any]:
    """``reader``, which raises less where it reads files: see ``faults_of``."""
    if not (isinstance(reader, type) and issubclass(reader, FilePairs)):
        return reader
    return type(reader.__name__, (_Noting, reader), {})


def faults_of(dataset: object) -> list[Fault]:
    """What opening a ``noting`` reader went past, with all the names that it is about."""
    return list(getattr(dataset, "opening_faults", ()))
