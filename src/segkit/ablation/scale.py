"""A row at a scale: the papers' words, and over them what makes the training larger or smaller."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from segkit.ablation.book import Row, Table, merged
from segkit.config import Composed, compose


@cache
def composed(words: tuple[str, ...], config_dir: str | None) -> Composed:
    """The training of ``words``, once for all who ask: it takes a tenth of a second."""
    return compose("train", words, config_dir)


def train_words(
    row: Row,
    table: Table,
    scale: Mapping[str, Any],
    *,
    seed: int,
    extra: Sequence[str] = (),
    config_dir: str | None = None,
) -> tuple[str, ...]:
    """The words of ``segkit train`` for ``row`` at ``scale`` (the node ``scale`` of the config).

    ``extra`` are those typed for this call; they win. A word that changes nothing is not added, so
    that at the papers' own scale a row is what its file says.
    """
    asked = merged(row.train, _swapped(row, scale))
    shrunk = _shrunk(composed(asked, config_dir), table, scale)
    seeded = [f"seed={seed}"] if seed else []
    return merged(asked, shrunk, scale["train"], seeded, extra)


def eval_words(row: Row, column_words: Sequence[str], scale: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of ``segkit eval`` for one number of ``row``: the scale's, under the row's own."""
    return merged(scale["eval"], row.evaluate, column_words)


def _swapped(row: Row, scale: Mapping[str, Any]) -> list[str]:
    """The data set and the backbone that the scale takes instead."""
    words = [f"dataset={scale['dataset']}"] if scale["dataset"] else []
    for word in row.train:
        key, _, value = word.partition("=")
        if key == "backbone" and value in scale["backbones"]:
            words.append(f"backbone={scale['backbones'][value]}")
    return words


def _shrunk(composed: Composed, table: Table, scale: Mapping[str, Any]) -> list[str]:
    schedule, crop = composed.values["schedule"], composed.values["augment"]["crop"]
    words = []
    if (smaller := _crop(crop, table, scale)) != crop:
        words.append(f"augment.crop={smaller}")
    if (batch := _batch(schedule["batch"], scale)) != schedule["batch"]:
        words.append(f"schedule.batch={batch}")
    if schedule["policy"] == "step" and (every := _every(schedule, scale)):
        words.append(f"schedule.step_every={every}")
    for number, stage in enumerate(schedule["stages"]):
        key = f"schedule.stages.{number}"
        if (steps := _steps(stage["steps"], scale)) != stage["steps"]:
            words.append(f"{key}.steps={steps}")
        if scale["lr"] != 1:
            words.append(f"{key}.lr={stage['lr'] * scale['lr']:.6g}")
        if stage["batch"] and (batch := _batch(stage["batch"], scale)) != stage["batch"]:
            words.append(f"{key}.batch={batch}")
    return words


def _crop(crop: int, table: Table, scale: Mapping[str, Any]) -> int:
    """Sides stay a multiple of the step plus one, as 513, 321 and 769 are; of the table's largest
    output stride, too (``min_crop``), so that all its rows see the same crop."""
    if scale["crop"] == 1:
        return crop
    step = max(scale["crop_step"], table.min_crop - 1)
    made = int((crop - 1) * scale["crop"]) // step * step + 1
    return min(crop, max(made, scale["crop_at_least"], table.min_crop))


def _batch(batch: int, scale: Mapping[str, Any]) -> int:
    made = max(round(batch * scale["batch"]), scale["batch_at_least"])
    return min(made, scale["batch_at_most"] or made)


def _steps(steps: int, scale: Mapping[str, Any]) -> int:
    made = max(round(steps * scale["steps"]), 1)
    return min(made, scale["steps_at_most"] or made)


def _every(schedule: Mapping[str, Any], scale: Mapping[str, Any]) -> int | None:
    """A step policy drops its rate after the same share of the training."""
    before = sum(stage["steps"] for stage in schedule["stages"])
    after = sum(_steps(stage["steps"], scale) for stage in schedule["stages"])
    return max(round(schedule["step_every"] * after / before), 1) if after != before else None
