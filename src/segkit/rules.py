"""What a well-typed config must also satisfy: ranges, choices and keys that must agree.

Every broken rule is reported in one go, sorted by key, before any data set is opened.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from segkit.errors import ConfigError
from segkit.identity import flatten
from segkit.ranks import place
from segkit.schema import CHOICES

Check = Callable[[Any], bool]


def positive(value: Any) -> bool:
    return value > 0


def not_negative(value: Any) -> bool:
    return value >= 0


def at_least_one(value: Any) -> bool:
    return value >= 1


def fraction(value: Any) -> bool:
    return 0 <= value < 1


def probability(value: Any) -> bool:
    return 0 <= value <= 1


RANGES: dict[str, tuple[Check, str]] = {
    "seed": (not_negative, "0 or more"),
    "workers": (not_negative, "0 or more"),
    "worker_timeout": (positive, "above 0"),
    "devices": (at_least_one, "1 or more"),
    "rank_timeout": (positive, "above 0"),
    "recompute": (probability, "0 (keep all maps) to 1"),
    "schedule.batch": (at_least_one, "1 or more"),
    "schedule.accumulate": (at_least_one, "1 or more"),
    "schedule.power": (positive, "above 0"),
    "schedule.end_lr": (not_negative, "0 or more"),
    "schedule.momentum": (fraction, "0 or more and below 1"),
    "schedule.weight_decay": (not_negative, "0 or more"),
    "schedule.step_every": (at_least_one, "1 or more"),
    "schedule.step_factor": (positive, "above 0"),
    "schedule.warmup_steps": (not_negative, "0 or more"),
    "schedule.warmup_lr": (not_negative, "0 or more"),
    "schedule.bn_momentum": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "schedule.ema": (lambda v: 0 < v < 1, "above 0 and below 1, or null for no average"),
    "schedule.stages.*.steps": (at_least_one, "1 or more"),
    "schedule.stages.*.lr": (positive, "above 0"),
    "schedule.stages.*.batch": (at_least_one, "1 or more"),
    "schedule.rules.*.lr": (not_negative, "0 or more"),
    "schedule.rules.*.decay": (not_negative, "0 or more"),
    "augment.crop": (at_least_one, "1 or more"),
    "augment.scale_min": (positive, "above 0"),
    "augment.scale_max": (positive, "above 0"),
    "augment.scale_step": (not_negative, "0 (continuous) or more"),
    "augment.flip": (probability, "0 to 1"),
    "augment.one_class_max": (lambda v: 0 < v <= 1, "above 0 and at most 1, or null for any"),
    "eval.every": (at_least_one, "1 or more, or null for never"),
    "eval.limit": (at_least_one, "1 or more, or null for all"),
    "eval.batch": (at_least_one, "1 or more, or null"),
    "eval.window.size": (at_least_one, "1 or more, or null for whole images"),
    "eval.window.overlap": (fraction, "0 or more and below 1"),
    "n": (at_least_one, "1 or more"),
    "every": (at_least_one, "1 or more"),
    "comp": (lambda v: v in (5, 6), "5 or 6"),
    "eval.pictures": (not_negative, "0 or more"),
    "checkpoint.every": (at_least_one, "1 or more, or null for the end only"),
    "checkpoint.keep": (at_least_one, "1 or more"),
    "log.every": (at_least_one, "1 or more"),
    "log.images": (not_negative, "0 or more"),
    "densecrf.iterations": (at_least_one, "1 or more"),
    "densecrf.bilateral_weight": (not_negative, "0 or more"),
    "densecrf.bilateral_xy": (positive, "above 0"),
    "densecrf.bilateral_rgb": (positive, "above 0"),
    "densecrf.gaussian_weight": (not_negative, "0 or more"),
    "densecrf.gaussian_xy": (positive, "above 0"),
    "engine.per_device": (at_least_one, "1 or more"),
    "scale.steps": (positive, "above 0"),
    "scale.steps_at_most": (at_least_one, "1 or more"),
    "scale.lr": (positive, "above 0"),
    "scale.batch": (positive, "above 0"),
    "scale.batch_at_least": (at_least_one, "1 or more"),
    "scale.batch_at_most": (at_least_one, "1 or more"),
    "scale.crop": (positive, "above 0"),
    "scale.crop_step": (at_least_one, "1 or more"),
    "scale.crop_at_least": (at_least_one, "1 or more"),
    "scale.tune": (not_negative, "0 (no search) or more, or null for the table's own"),
}


class ConfigErrors(ConfigError):
    """Several broken rules: one line each, sorted."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = sorted(errors, key=lambda e: (e.where, e.what))
        last = self.errors[-1]
        super().__init__(last.name, last.where, last.what, last.fix)

    def line(self) -> str:
        return "\n".join(e.line() for e in self.errors)


def check(values: Mapping[str, Any], *, to_run: bool = True) -> None:
    """Raise ``ConfigErrors`` naming every broken rule of a composed config.

    Without ``to_run`` it is another run's: how many processes are here does not matter to it.
    """
    errors = [*check_leaves(values), *check_agreements(values)]
    if to_run:
        errors += check_processes(values)
    if errors:
        raise ConfigErrors(errors)


def check_leaves(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    for key, value in flatten(values).items():
        pattern = ".".join("*" if part.isdigit() else part for part in key.split("."))
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            yield ConfigError("RANGE", key, f"{value} is not a finite number")
        elif pattern in CHOICES and value not in CHOICES[pattern]:
            yield ConfigError(
                "CHOICE", key, f"{value!r}", "choices: " + ", ".join(CHOICES[pattern])
            )
        elif pattern in RANGES and not RANGES[pattern][0](value):
            yield ConfigError("RANGE", key, f"{value}", f"allowed: {RANGES[pattern][1]}")


def check_agreements(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Rules over more than one key, and over keys with a grammar of their own."""
    yield from check_device(str(values.get("device", "auto")))
    yield from check_name(values.get("name"))
    yield from check_dataset(values.get("dataset") or {})
    yield from check_seeds(values.get("seeds"))
    if "tta" in values:
        yield from check_protocol(values)
    if "schedule" in values:
        yield from check_schedule(values)


def check_device(device: str) -> Iterator[ConfigError]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        yield ConfigError("CHOICE", "device", f"{device!r}", "choices: auto, cpu, cuda, cuda:N")


def check_processes(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    """``devices=N`` starts processes, or a launcher has; they must share every batch equally."""
    found, asked = place().size, values.get("devices", 1)
    if found > 1 and asked not in (1, found):
        what = f"{asked} asked for, the launcher started {found} processes"
        yield ConfigError("DEVICES", "devices", what, "leave it out under torchrun")
    ranks = max(asked, found)
    if ranks == 1 or "schedule" not in values:
        return
    for number, stage in enumerate(values["schedule"]["stages"]):
        batch = stage["batch"] or values["schedule"]["batch"]
        parts = values["schedule"]["accumulate"] * ranks
        if batch % max(parts, 1):
            keys = f"devices, schedule.accumulate, schedule.stages.{number}.batch"
            what = f"{batch} images cannot be shared by {ranks} devices in {parts} equal parts"
            yield ConfigError("RANGE", keys, what)


def check_name(name: str | None) -> Iterator[ConfigError]:
    """A run's name is the name of one folder: it must not lead anywhere else."""
    if name is None or re.fullmatch(r"[^./\0\s][^/\0]*", str(name)):
        return
    yield ConfigError("NAME", "name", f"{name!r}", "one folder name, without / or a leading dot")


def check_seeds(seeds: list[int] | None) -> Iterator[ConfigError]:
    """A training for each: one twice would narrow their spread."""
    if seeds is None or (seeds and min(seeds) >= 0 and len(set(seeds)) == len(seeds)):
        return
    yield ConfigError("RANGE", "seeds", f"{seeds}", "different numbers of 0 or more, at least one")


def check_dataset(dataset: Mapping[str, Any]) -> Iterator[ConfigError]:
    yield from check_feeding(dataset)
    train, val = dataset.get("train_split"), dataset.get("val_split")
    if train is not None and train == val:
        keys = "dataset.train_split, dataset.val_split"
        yield ConfigError(
            "SPLITS", keys, f"both are {train!r}", "a score on the training set says nothing"
        )


def check_feeding(dataset: Mapping[str, Any]) -> Iterator[ConfigError]:
    """The keys that every data set has (``schema.Feeding``); theirs is no typed node."""
    duplicate = dataset.get("duplicate") or {}
    found = {**dataset, **{f"duplicate.{key}": value for key, value in duplicate.items()}}
    for key, kind, wanted in (
        ("cache_dir", str | None, "a folder, or null"),
        ("max_skipped", int, "a whole number, 0 or more"),
        ("duplicate.classes", list | None, "a list of class names"),
        ("duplicate.times", int, "a whole number, 1 or more"),
    ):
        value: Any = found.get(key)
        least = 1 if key == "duplicate.times" else 0
        wrong = isinstance(value, bool) or not isinstance(value, kind)
        if key in found and (wrong or (kind is int and value < least)):
            yield ConfigError("TYPE", f"dataset.{key}", f"{value!r}", wanted)


def check_protocol(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    pad = values["eval"]["pad"]
    whole = isinstance(pad, int) and not isinstance(pad, bool) and pad >= 1
    if not (pad is None or pad == "fit" or whole):
        yield ConfigError("CHOICE", "eval.pad", f"{pad!r}", "choices: fit, or a side in pixels")
    scales = values["tta"]["scales"]
    if not scales or not all(math.isfinite(s) and s > 0 for s in scales):
        yield ConfigError("RANGE", "tta.scales", f"{scales}", "a list of factors above 0")
    if values.get("strip") and not values["crf"]:
        what = "shows what the CRF does, and crf=false"
        yield ConfigError("STRIP", "strip, crf", what, "type crf=true")


def idle(values: Mapping[str, Any], typed: Collection[str]) -> list[str]:
    """Of the keys that were ``typed`` for a protocol, those that change nothing, and why.

    ``values`` are those that count in the end: what a run brings along makes a key work, too.
    """
    views = "ms=true or flip=true"
    needs = {
        "densecrf.": (values["crf"], "crf=true"),
        "eval.window.overlap": (values["eval"]["window"]["size"], "eval.window.size"),
        "eval.window.weighting": (values["eval"]["window"]["size"], "eval.window.size"),
        "tta.scales": (values["ms"], "ms=true"),
        "tta.fusion": (values["ms"] or values["flip"], views),
    }
    return [
        f"{key} does nothing without {missing}"
        for key in sorted(typed)
        for start, (works, missing) in needs.items()
        if key.startswith(start) and not works
    ]


def check_schedule(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    schedule, augment = values["schedule"], values["augment"]
    if not schedule["stages"]:
        yield ConfigError("MISSING", "schedule.stages", "is empty", "name at least one stage")
    if augment["scale_min"] > augment["scale_max"]:
        keys = "augment.scale_min, augment.scale_max"
        found = f"{augment['scale_min']} is above {augment['scale_max']}"
        yield ConfigError("RANGE", keys, found)
    if values["recompute"] and values["compile"]:
        found = "a compiled network decides by itself what it computes again"
        yield ConfigError("RECOMPUTE", "recompute, compile", found, "recompute=0 or compile=false")
    if values["eval"]["weights"] == "average" and schedule["ema"] is None:
        keys = "eval.weights, schedule.ema"
        yield ConfigError("AVERAGE", keys, "no average is kept", "schedule.ema=0.999 keeps one")
    for number, stage in enumerate(schedule["stages"]):
        yield from check_stage(number, stage, values)


def check_stage(
    number: int, stage: Mapping[str, Any], values: Mapping[str, Any]
) -> Iterator[ConfigError]:
    schedule, crop = values["schedule"], values["augment"]["crop"]
    batch = stage["batch"] or schedule["batch"]
    if schedule["accumulate"] >= 1 and batch % schedule["accumulate"]:
        keys = f"schedule.accumulate, schedule.stages.{number}.batch"
        yield ConfigError("RANGE", keys, f"{batch} is not a multiple of {schedule['accumulate']}")
    stride = stage["os"] or values["os"]
    power_of_two = stride >= 2 and stride & (stride - 1) == 0
    if not power_of_two:
        key = f"schedule.stages.{number}.os" if stage["os"] else "os"
        yield ConfigError("RANGE", key, f"{stride}", "allowed: 4, 8, 16, 32, cascades to 256")
    elif crop >= 1 and crop % stride != 1:
        # With aligned corners and sides of OS*k+1 every map samples exact pixels.
        below = max(crop // stride, 1) * stride + 1
        found = f"{crop} is not a multiple of the output stride {stride} plus one"
        yield ConfigError("CROP", "augment.crop", found, f"nearest: {below} or {below + stride}")
