"""Which samples can be read, and which classes they show: every one is decoded once.

The result is kept beside the caches, for as long as the data set's content is the same.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.bars import shown
from segkit.data.cache import Stopped
from segkit.data.loader import Dataset, read_sample
from segkit.data.workers import Note, in_order
from segkit.errors import DataError, EnvironmentFault
from segkit.whole_files import faults, write_whole

_FORMAT = 1


@dataclass(frozen=True)
class Census:
    """``unreadable`` maps an index to the four words of its ``DataError``; ``shows`` has the
    classes that each sample shows (none of an unreadable one)."""

    unreadable: dict[int, tuple[str, str, str, str]]
    shows: list[list[int]]

    def fault(self, index: int) -> DataError:
        """What is wrong with an unreadable sample."""
        return DataError(*self.unreadable[index])

    def with_any(self, classes: Sequence[int]) -> list[int]:
        """The samples that show at least one of ``classes``."""
        wanted = set(classes)
        return [index for index, found in enumerate(self.shows) if wanted & set(found)]


def census(
    dataset: Dataset,
    path: Path,
    *,
    workers: int,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Census:
    """Of ``dataset``, or what ``path`` holds of it.

    Only ``DataError`` is a sample's own fault; any other is raised, and ``Stopped``. A result that
    cannot be kept is made again the next time.
    """
    if (known := _stored(path, len(dataset))) is not None:
        return known
    say(f"looking through {len(dataset)} samples (once; the result is kept in {path})")
    classes = dataset.labels.num_classes

    def work(index: int, note: Note) -> tuple[tuple[str, str, str, str] | None, list[int]]:
        note(index)
        try:
            label = read_sample(dataset, index)[1]
        except DataError as error:
            return (error.name, error.where, error.what, error.fix), []
        seen = np.flatnonzero(np.bincount(label.ravel(), minlength=1))
        return None, seen[seen < classes].tolist()

    results = in_order(
        range(len(dataset)),
        work,
        workers=workers,
        name_of=lambda index: dataset.ids[index],
        should_stop=should_stop,
    )
    found = list(shown(results, "looking", len(dataset), "image"))
    if len(found) < len(dataset):
        raise Stopped
    unreadable = {index: error for index, (error, _) in enumerate(found) if error is not None}
    made = Census(unreadable, [shows for _, shows in found])
    _store(path, made, say)
    return made


def _store(path: Path, made: Census, say: Callable[[str], None]) -> None:
    text = json.dumps(asdict(made))
    document = {"format": _FORMAT, "crc32": zlib.crc32(text.encode()), "census": text}
    try:
        with faults(path, len(text)):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(document).encode())
    except EnvironmentFault as fault:
        say(f"the result is not kept: {fault}")


def _stored(path: Path, count: int) -> Census | None:
    try:
        document: Any = json.loads(path.read_bytes())
        text = document["census"]
        if (document["format"], document["crc32"]) != (_FORMAT, zlib.crc32(text.encode())):
            return None
        plain = json.loads(text)
        unreadable = {int(index): tuple(words) for index, words in plain["unreadable"].items()}
        made = Census(unreadable, plain["shows"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return made if len(made.shows) == count else None
