"""What makes a training fit: parts of a batch, maps computed again, more devices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from math import gcd
from typing import Any

import torch

from segkit.ablation.asked import known
from segkit.ablation.update import updates_of
from segkit.config import Composed
from segkit.parts import stages_of
from segkit.planning.schedule import size_of, step_of
from segkit.planning.update import network_of

# So much of the free memory is planned with: libraries take workspaces, and others use the machine.
MARGIN = 0.9
SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Way:
    """Words to type that fit, and what they bring.

    ``peak`` bytes on each device. ``batch_norm`` is the fewest images over which a trained batch
    norm has its statistics; None where all are frozen. ``longer`` is the share by which the work
    of an update grows.
    """

    words: tuple[str, ...]
    peak: int
    batch_norm: int | None
    longer: float


@dataclass(frozen=True)
class Proposal:
    """Whether a training fits as it is, with its ``peak`` bytes; if not, every way that does."""

    fits: bool
    peak: int
    ways: tuple[Way, ...] = ()


@dataclass(frozen=True)
class Setting:
    """The values of three keys, of which each changes what a device holds."""

    recompute: float
    accumulate: int
    devices: int

    def words(self, now: "Setting") -> tuple[str, ...]:
        """Those that differ from ``now``."""
        keys = ("recompute", "accumulate", "devices")
        typed = {"accumulate": "schedule.accumulate"}
        return tuple(
            f"{typed.get(key, key)}={getattr(self, key):g}"
            for key in keys
            if getattr(self, key) != getattr(now, key)
        )


def proposal(training: Composed, device: str, precision: str, free: int) -> Proposal:
    """For ``free`` bytes on each ``device`` (cpu or cuda), which need not be here."""
    asked = Question(training.values, device, precision)
    now, room = asked.now, MARGIN * free
    taken = asked.peak(now)
    if taken <= room:
        return Proposal(True, taken)
    kinds = [asked.recomputed(), asked.parted()]
    if not asked.learning:  # then parts change nothing but the memory
        kinds.reverse()
    found = [_first(asked, kind, room) for kind in kinds]
    if not any(found):
        found.append(_first(asked, asked.both(), room))
    found.append(_first(asked, asked.spread(), room))
    return Proposal(False, taken, tuple(asked.way(one, peak) for one, peak in filter(None, found)))


def _first(
    asked: "Question", settings: Iterator[Setting], room: float
) -> tuple[Setting, int] | None:
    """The first that fits, with its bytes."""
    peaks = ((one, asked.peak(one)) for one in settings)
    return next((found for found in peaks if found[1] <= room), None)


class Question:
    """A training's settings: those that there are, and what each takes."""

    def __init__(self, values: Mapping[str, Any], device: str, precision: str) -> None:
        self._values, self._device, self._precision = values, device, precision
        self._stages = stages_of(values)
        self._classes = known(values["dataset"]).classes
        meta = torch.device("meta")
        nets = [network_of(values, one, self._classes, meta) for one in self._stages]
        self._least = [net.min_train_batch for net in nets]
        self._units = bool(nets[0].backbone.units)
        parts = int(values["schedule"]["accumulate"])
        self.now = Setting(float(values["recompute"]), parts, int(values["devices"]))
        self.learning = [one["batch"] for one in self._stages if one["bn"] == "train"]

    def recomputed(self) -> Iterator[Setting]:
        shares = SHARES if self._units else ()
        return (
            Setting(share, self.now.accumulate, self.now.devices)
            for share in shares
            if share > self.now.recompute
        )

    def parted(self, share: float | None = None) -> Iterator[Setting]:
        batches = [one["batch"] for one in self._stages]
        share = self.now.recompute if share is None else share
        return (
            Setting(share, parts, self.now.devices)
            for parts in parts_that_divide(batches, self.now.devices, self._least)
            if parts > self.now.accumulate
        )

    def both(self) -> Iterator[Setting]:
        return chain.from_iterable(self.parted(one.recompute) for one in self.recomputed())

    def spread(self) -> Iterator[Setting]:
        """Processes of a CPU share its memory: more of them take no less."""
        batches, now = [one["batch"] for one in self._stages], self.now
        counts = range(now.devices + 1, max(batches) + 1) if self._device == "cuda" else ()
        for count in counts:
            if now.accumulate in parts_that_divide(batches, count, self._least):
                yield Setting(now.recompute, now.accumulate, count)

    def peak(self, one: Setting) -> int:
        """Bytes on a device; on the CPU those of all processes."""
        values = self._with(one)
        together = 1 if self._device == "cuda" else one.devices
        return together * max(
            step_of(
                values, stage, size_of(values, stage), self._classes,
                device=self._device, precision=self._precision,
            ).peak
            for stage in self._stages
        )  # fmt: skip

    def way(self, one: Setting, peak: int) -> Way:
        values = self._with(one)
        before, after = (self._work(each) for each in (self._values, values))
        apart = 1 if self._device == "cuda" and values["sync_bn"] else one.devices
        seen = [batch // (one.accumulate * apart) for batch in self.learning]
        return Way(one.words(self.now), peak, min(seen, default=None), after / before - 1)

    def _with(self, one: Setting) -> dict[str, Any]:
        schedule = self._values["schedule"] | {"accumulate": one.accumulate}
        own = {"schedule": schedule, "recompute": one.recompute, "devices": one.devices}
        return {**self._values, **own}

    def _work(self, values: Mapping[str, Any]) -> float:
        """Multiply-adds of the whole training, on all devices."""
        done = updates_of(values, half=self._precision == "bf16")
        return float(sum(one.steps * one.macs for one in done) * values["devices"])


def parts_that_divide(batches: Sequence[int], devices: int, least: Sequence[int]) -> list[int]:
    """Every ``schedule.accumulate`` that splits each stage's batch evenly over ``devices``.

    ``least`` are the fewest images that a forward pass of each stage can take.
    """
    common = reduce(gcd, batches)
    if common % devices:
        return []
    share = common // devices
    return [
        parts
        for parts in range(1, share + 1)
        if share % parts == 0
        and all(
            batch // (devices * parts) >= few for batch, few in zip(batches, least, strict=True)
        )
    ]
