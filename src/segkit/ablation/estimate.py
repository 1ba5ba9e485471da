"""How long a training takes and what it needs, before it starts.

Time is multiply-adds over what the device reaches, plus the bytes that all operators move over its
bandwidth: a depthwise network has few of the one and many of the other. Both are counted on the
meta device (models/cost.py). Reading the data, TensorBoard and saving are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.ablation.asked import Asked, asked, images_of, known
from segkit.ablation.jobs import Evaluation
from segkit.ablation.rate import Rate
from segkit.ablation.update import FLOAT, Update, network_text, pass_cost, updates_of
from segkit.config import Composed
from segkit.parts import stages_of
from segkit.planning.schedule import evaluation_step, size_of, stages
from segkit.planning.speed import Speed, training_macs

# Reads and writes of a full-size map of probabilities for each view: scores are enlarged (1),
# softmax (2), added up (3); with a single view they are enlarged and ranked (2).
VIEW_PASSES, ONLY_VIEW_PASSES = 6, 2
# v1, section 5: half a second for a VOC image, on one core.
CRF_SECONDS = 0.5 / (375 * 500 * 21)
# A score's folder with its page of pictures, and without (measured on CamVid: 3.7 MB).
PAGE_BYTES, SCORE_BYTES = 4 * 2**20, 2**18


@dataclass(frozen=True)
class Estimate:
    """Of one job on one device.

    ``memory_bytes`` are the device's; on the CPU those by which the process grows beyond its
    imports. ``disk_bytes`` are the most that lies there at a time. ``basis`` says in words where
    the times come from.
    """

    seconds_training: float
    seconds_evaluation: float
    memory_bytes: int
    disk_bytes: int
    basis: str

    @property
    def seconds(self) -> float:
        return self.seconds_training + self.seconds_evaluation


def estimate(
    training: Composed,
    evaluations: Sequence[Evaluation],
    rate: Rate,
    *,
    cores: int = 1,
    config_dir: str | None = None,
    speed: Speed | None = None,
) -> Estimate:
    """What ``segkit train`` of ``training`` and then ``evaluations`` cost on a device of ``rate``.

    ``cores`` share the work of a CRF. Updates that ``segkit plan`` has measured here take what it
    says (``speed``); the others go by ``rate``. Raises ConfigError for what cannot be built or
    composed. Memory is that of ``segkit plan``.
    Measured on two CPU cores: seconds of an update 7 % too short to 18 % too long (ResNet-18, 50,
    MobileNetV2, a tiny ResNet; fp32 and bf16).
    An evaluation on a CPU came out 9 to 52 % too short, most for the tiniest network. On a machine
    that is busy with other things a training takes as much longer as it gets less of it; one on
    drawn shapes up to twice as long, for it waits for its pictures.
    """
    values = training.values
    updates = updates_of(values, half=rate.half)
    seen = [(one, asked(training, one.words, config_dir)) for one in evaluations]
    factor, basis = rate.told(training.choices)
    trained = factor * sum(one.steps * rate.seconds(one.macs, one.moved) for one in updates)
    measured = measured_seconds(values, speed) if speed else None
    if measured is not None:
        trained, basis = measured, "smaller updates on this device (segkit plan)"
    if every := values["eval"]["every"]:
        times = sum(max(1, one.steps // every) for one in updates)
        watched = network_seconds(training, asked(training, (), config_dir), rate)
        trained += factor * times * watched
    scored = factor * sum(network_seconds(training, how, rate) for _, how in seen)
    half, precision = rate.half, "bf16" if rate.half else "fp32"
    counted = stages(training, None, device=rate.device, precision=precision)
    memory = [one.memory for one in counted]
    memory += [
        evaluation_step(training, how, device=rate.device, half=half).peak for _, how in seen
    ]
    return Estimate(
        seconds_training=trained,
        seconds_evaluation=scored + sum(crf_seconds(one, how, cores) for one, how in seen),
        memory_bytes=max(memory),
        disk_bytes=disk(training, updates, [how for _, how in seen]),
        basis=basis,
    )


def measured_seconds(values: Mapping[str, Any], speed: Speed) -> float | None:
    """Of all updates; None where a stage's pace is not remembered."""
    total = 0.0
    for stage in stages_of(values):
        size = size_of(values, stage)
        pace = speed.remembered(values, stage, size)
        if pace is None:
            return None
        macs = training_macs(values, stage["os"], size)
        total += stage["steps"] * pace.seconds(macs, size.accumulate)
    return total


# -- time of an evaluation -------------------------------------------------------------------------


def network_seconds(training: Composed, how: Asked, rate: Rate) -> float:
    """The network's views of all images, and the full-size maps made of them."""
    costs = [
        pass_cost(network_text(training.values), how.output_stride, size) for size in how.sizes
    ]
    views = (1 + how.flip) * how.windows * images_of(how.values)
    macs = views * sum(cost.macs for cost in costs)
    moved = views * sum(cost.moved for cost in costs) // (2 if rate.half else 1)
    passes = VIEW_PASSES * how.views if how.views > 1 else ONLY_VIEW_PASSES
    maps = passes * FLOAT * _scores(how) * images_of(how.values)
    return rate.seconds(macs, moved + maps)


def crf_seconds(one: Evaluation, how: Asked, cores: int) -> float:
    """Of the CRF on every image, and of the search on ``one.tune`` of them before."""
    if not how.values["crf"]:
        return 0.0
    from segkit.tuning.grid import NEIGHBOURS, search_for

    points = len(search_for(how.model).coarse()) + NEIGHBOURS
    images = images_of(how.values) + (one.tune or 0) * points
    return CRF_SECONDS * _scores(how) * images / cores


def _scores(how: Asked) -> int:
    """Numbers in one full-size map of scores."""
    height, width = how.picture
    return known(how.values["dataset"]).classes * height * width


# -- disk ------------------------------------------------------------------------------------------


def disk(training: Composed, updates: Sequence[Update], seen: Sequence[Asked]) -> int:
    """Checkpoints that are kept, the best and the one that is being written; the scores."""
    every, last = training.values["checkpoint"]["every"], updates[-1]
    # One before the first update and one at the end of each stage are written in any case.
    written = 1 + sum(max(1, one.steps // every) if every else 1 for one in updates)
    kept = training.values["checkpoint"]["keep"] + 1 + bool(training.values["eval"]["every"])
    pages = sum(PAGE_BYTES if how.values["eval"]["report"] else SCORE_BYTES for how in seen)
    return min(kept, written) * last.state + pages
