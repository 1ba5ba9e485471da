"""A data set as it is read: out of a cache, without what cannot be read, with some samples twice.

``dataset.cache``, ``dataset.on_error`` and ``dataset.duplicate`` wrap whatever data set there is.
Which samples can be read and which classes they show is known before the first step, so that the
sample at any position follows from the config and the files alone.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segkit import parts
from segkit.conf_files import nearest
from segkit.data.cache import Stopped, in_ram, on_disk
from segkit.data.census import Census, census
from segkit.data.content import cache_folder, content_key
from segkit.data.loader import Dataset
from segkit.data.views import Chosen
from segkit.engine.signals import Stop, StopRequested
from segkit.engine.team import Alone
from segkit.errors import ConfigError, DataError
from segkit.randomness import integer
from segkit.record import notice
from segkit.schema import FEEDING_KEYS

Say = Callable[[str], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Input:
    """``dataset`` stands for a split of ``total`` samples, of which ``skipped`` cannot be read."""

    dataset: Dataset
    split: str
    total: int
    skipped: tuple[DataError, ...] = ()

    def __str__(self) -> str:
        """``1 of 40 skipped (train): images/a.png: damaged picture``."""
        each = "; ".join(f"{fault.where}: {fault.what}" for fault in self.skipped)
        return f"{len(self.skipped)} of {self.total} skipped ({self.split}): {each}"

    def words(self) -> dict[str, str]:
        """File -> what is wrong with it, of all that is skipped."""
        return {fault.where: fault.what for fault in self.skipped}


def inputs_of(
    values: parts.Values, datasets: Mapping[str, Dataset], where: Path, stop: Stop, team: Alone
) -> dict[str, Input]:
    """The splits as they are trained on, in every process of the team.

    Raises ``Interrupted`` at a signal, and what ``training_input`` raises.
    """
    say = notice if team.leads else lambda _: None
    try:
        # Rank 0 makes what lies in files, and the others find it.
        with team.guard(), team.phase("preparing the data"), team.first():
            return {
                split: stop.wait(training_input, values, split, dataset, say, stop)
                for split, dataset in datasets.items()
            }
    except (Stopped, StopRequested):
        what = "stopped before the first step; there is nothing to save"
        raise stop.interrupted(where, what, "type the command again") from None


def training_input(
    values: parts.Values, split: str, dataset: Dataset, say: Say, should_stop: ShouldStop
) -> Input:
    """``dataset`` as it is trained on.

    An unreadable sample has a substitute, the same one in every epoch, and each that shows a class
    of ``dataset.duplicate.classes`` comes ``times`` times in an epoch. Raises ``DataError`` where
    more than ``dataset.max_skipped`` samples cannot be read (or any, unless they may be skipped),
    ``ConfigError`` for a class that there is not, ``Stopped``, and what making the cache raises.
    """
    node, source = values["dataset"], Source(values, split, dataset, say, should_stop)
    classes = _class_numbers(node, dataset)
    known = source.census(dataset) if node.get("on_error") == "skip" else None
    bad = _skipped(known, node, split) if known is not None else []
    read = source.cached(bad)
    order = _with_substitutes(len(dataset), bad, values["seed"])
    if classes:
        if known is None:
            known = source.census(read)
            if known.unreadable:
                raise known.fault(min(known.unreadable))
        order += known.with_any(classes) * (node["duplicate"]["times"] - 1)
        say(f"an epoch of {split} has {len(order)} samples, {len(dataset)} different ones")
    if bad or classes:
        read = Chosen(read, order)
    return _told(Input(read, split, len(dataset), _faults(known, bad)), say)


def scored_input(
    values: parts.Values, split: str, dataset: Dataset, say: Say, should_stop: ShouldStop
) -> Input:
    """``dataset`` without what cannot be read, for ``dataset.on_error=skip`` in an evaluation.

    Raises ``DataError`` where more than ``dataset.max_skipped`` cannot be read, and ``Stopped``.
    """
    known = Source(values, split, dataset, say, should_stop).census(dataset)
    bad = _skipped(known, values["dataset"], split)
    good = [index for index in range(len(dataset)) if index not in bad]
    read = Chosen(dataset, good) if bad else dataset
    return _told(Input(read, split, len(dataset), _faults(known, bad)), say)


class Source:
    """A split, and the files that are made of it."""

    def __init__(
        self,
        values: parts.Values,
        split: str,
        dataset: Dataset,
        say: Say,
        should_stop: ShouldStop,
    ) -> None:
        self.kind = values["dataset"].get("cache", "none")
        self.dataset, self.say, self.should_stop = dataset, say, should_stop
        self.workers = parts.workers_of(values)
        self._values, self._split = values, split

    def census(self, read: Dataset) -> Census:
        """What can be read and which classes it shows, of the split by way of ``read``."""
        return census(
            read,
            self._file("json"),
            workers=self.workers,
            say=self.say,
            should_stop=self.should_stop,
        )

    def cached(self, without: Collection[int]) -> Dataset:
        """The split as ``dataset.cache`` wants it read."""
        if self.kind == "none":
            return self.dataset
        how: dict[str, Any] = {
            "without": without,
            "workers": self.workers,
            "say": self.say,
            "should_stop": self.should_stop,
        }
        if self.kind == "ram":
            return in_ram(self.dataset, **how)
        return on_disk(self.dataset, self._file("cache"), self._key, **how)

    @cached_property
    def _key(self) -> str:
        node = self._values["dataset"]
        made = {k: v for k, v in node.items() if k not in (*FEEDING_KEYS, "root")}
        return content_key(self.dataset, json.dumps([made, self._split], default=str))

    def _file(self, ending: str) -> Path:
        node = self._values["dataset"]
        name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{node.get('name')}-{self._split}")
        return cache_folder(node.get("cache_dir")) / f"{name[:80]}-{self._key}.{ending}"


def _class_numbers(node: Mapping[str, Any], dataset: Dataset) -> list[int]:
    """The classes to duplicate, by their names."""
    names = (node.get("duplicate") or {}).get("classes") or []
    for name in names:
        if name not in dataset.labels.names:
            known = ", ".join(dataset.labels.names)
            fix = f"{nearest(str(name), dataset.labels.names)[2:]} classes: {known}".strip()
            raise ConfigError("CLASSES", "dataset.duplicate.classes", f"no class {name!r}", fix)
    return [dataset.labels.names.index(name) for name in names]


def _skipped(known: Census, node: Mapping[str, Any], split: str) -> list[int]:
    """The unreadable samples; ``DataError`` for more of them than may be."""
    bad, most = sorted(known.unreadable), node.get("max_skipped", 0)
    if bad and (len(bad) > most or len(bad) == len(known.shows)):
        first = known.fault(bad[0])
        if len(bad) == 1:
            raise first
        what = f"{first.what}; {len(bad)} of the {len(known.shows)} samples of {split} are bad"
        fix = f"dataset.max_skipped is {most}; segkit data check names all of them"
        raise DataError("SKIPPED", first.where, what, fix)
    return bad


def _with_substitutes(count: int, bad: Collection[int], seed: int) -> list[int]:
    good = [index for index in range(count) if index not in bad]
    order = list(range(count))
    for index in bad:
        order[index] = good[integer(seed, "substitute", index) % len(good)]
    return order


def _faults(known: Census | None, bad: Sequence[int]) -> tuple[DataError, ...]:
    return tuple(known.fault(index) for index in bad) if known is not None else ()


def _told(made: Input, say: Say) -> Input:
    if made.skipped:
        say(str(made))
    return made
