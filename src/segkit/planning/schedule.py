"""A whole training: each stage's step, its validations and its saves."""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segkit.ablation.asked import Asked, asked, images_of, known
from segkit.config import Composed
from segkit.parts import stages_of
from segkit.planning.speed import Speed, training_macs, view_macs
from segkit.planning.update import Size, Step, answered, simulated

PROBE_BYTES = 2**25


@dataclass(frozen=True)
class Stage:
    """One stage: ``images`` at a time in ``parts`` parts on ``devices``; None is "not measured"."""

    name: str
    steps: int
    batch: int
    images: int
    parts: int
    crop: int
    os: int
    bn: str
    memory: int
    seconds: float | None

    @property
    def images_per_second(self) -> float | None:
        return None if self.seconds is None else self.batch / self.seconds


def stages(
    training: Composed, speed: Speed | None, *, device: str, precision: str
) -> tuple[Stage, ...]:
    """Memory and seconds of an update of each stage; without ``speed``, memory alone."""
    values = training.values
    classes = known(values["dataset"]).classes
    found = []
    for stage in stages_of(values):
        size = size_of(values, stage)
        step = step_of(values, stage, size, classes, device=device, precision=precision)
        seconds = update_seconds(values, stage, size, classes, speed) if speed else None
        found.append(
            Stage(
                stage["name"], stage["steps"], stage["batch"], size.images, size.accumulate,
                size.crop, int(stage["os"]), stage["bn"], step.peak, seconds,
            )
        )  # fmt: skip
    return tuple(found)


def size_of(
    values: Mapping[str, Any], stage: Mapping[str, Any], accumulate: int | None = None
) -> Size:
    """Of one process's update; ``accumulate`` in place of the config's."""
    parts = accumulate or int(values["schedule"]["accumulate"])
    images = max(1, stage["batch"] // (parts * values["devices"]))
    return Size(images, parts, int(values["augment"]["crop"]))


def step_of(
    values: Mapping[str, Any],
    stage: Mapping[str, Any],
    size: Size,
    classes: int,
    *,
    device: str,
    precision: str,
) -> Step:
    own = {"os": stage["os"], "bn": stage["bn"], "lr": stage["lr"]}
    own |= {"name": stage["name"], "steps": stage["steps"]}
    network = ("model", "backbone", "multi_grid", "loss")
    keys = (*network, "schedule", "seed", "recompute", "deterministic")
    text = json.dumps([{key: values[key] for key in keys}, own])
    return _counted(text, size, classes, device, precision)


@cache
def _counted(text: str, size: Size, classes: int, device: str, precision: str) -> Step:
    values, stage = json.loads(text)
    return simulated(values, stage, size, classes, device=device, precision=precision)


def update_seconds(
    values: Mapping[str, Any], stage: Mapping[str, Any], size: Size, classes: int, speed: Speed
) -> float:
    """Of one update."""
    pace = speed.training(values, stage, size, classes)
    return pace.seconds(training_macs(values, stage["os"], size), size.accumulate)


# -- validations -----------------------------------------------------------------------------------


def validations(values: Mapping[str, Any], steps: list[int]) -> int:
    """How many a training has: at each multiple of eval.every and at the end of each stage."""
    every = values["eval"]["every"]
    return _at(every, steps, ends=True) if every else 0


def saves(values: Mapping[str, Any], steps: list[int]) -> int:
    """One before the first update, one at the end of each stage, and those on the way."""
    return 1 + _at(values["checkpoint"]["every"], steps, ends=True)


def _at(every: int | None, steps: list[int], *, ends: bool) -> int:
    """Moments of a run at multiples of ``every`` and (``ends``) at the end of each stage."""
    found, total = set(), 0
    for count in steps:
        total += count
        if ends:
            found.add(total)
    if every:
        found |= set(range(every, total + 1, every))
    return len(found)


def image_seconds(training: Composed, how: Asked, speed: Speed) -> float:
    """Of one image as ``how`` asks about it: all its views, in all its windows."""
    classes = known(how.values["dataset"]).classes
    line = speed.evaluation(training.values, how, classes)
    return how.windows * line.at(view_macs(training.values, how, how.padded))


def evaluation_step(training: Composed, how: Asked, *, device: str, half: bool) -> Step:
    """Its peak, at the largest of its sizes."""
    together = int(how.values["eval"]["batch"] or (8 if device == "cuda" else 1))
    largest = max(how.sizes, key=lambda size: size[0] * size[1])
    classes = known(how.values["dataset"]).classes
    shape = (together * (1 + how.flip), *largest)
    return answered(training.values, how.output_stride, shape, classes, device=device, half=half)


def validation(training: Composed) -> tuple[Asked, int]:
    """How a validation asks, and of how many images."""
    how = asked(training, (), training.config_dir)
    return how, images_of(how.values)


# -- saves -----------------------------------------------------------------------------------------


def write_rate(folder: Path) -> float:
    """Bytes a second to the disk of ``folder`` (or of what of it exists), synced."""
    place = folder.expanduser().absolute()
    while not place.is_dir():
        place = place.parent
    data = os.urandom(PROBE_BYTES)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            began = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return PROBE_BYTES / (time.perf_counter() - began)
    except OSError:
        return float("inf")  # it cannot be written to, of which a training speaks
