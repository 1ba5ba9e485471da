"""``segkit train``: config -> parts -> engine.

The config is checked whole, then data is looked at, then weights; only then is there a run folder.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit import parts, recipe
from segkit.config import Composed
from segkit.data.labels import LabelSet
from segkit.data.loader import Dataset, EvalSample, eval_samples, train_batches
from segkit.data.normalise import Normalise
from segkit.data.transforms import TrainTransform
from segkit.engine.evaluate import evaluate
from segkit.engine.follower import Follower
from segkit.engine.loop import Settings, StagePlan, train
from segkit.engine.record import Run
from segkit.engine.signals import Stop, stopping
from segkit.engine.team import Alone
from segkit.errors import ExitCode
from segkit.identity import identity, run_name
from segkit.inputs import inputs_of
from segkit.metrics.confusion import iou, mean_iou, pixel_accuracy
from segkit.models.contracts import IMAGENET_PIXELS
from segkit.models.segmenter import Segmenter
from segkit.optim import set_learning_rate, sgd
from segkit.protocol import asking, memory_of
from segkit.ranks import place
from segkit.record import check_resume, open_run
from segkit.report.curves import write_curve
from segkit.report.pictures import panel
from segkit.report.tables import print_class_table
from segkit.schedules import batch_norm_momentum, learning_rate
from segkit.start import begin, fresh_network


def main(composed: Composed) -> int:
    """Train what ``composed`` describes; returns the exit code or raises a ``SegkitError``."""
    if place().restarts:  # the launcher started all processes anew after one failed
        composed.values["resume"] = True
    with parts.team_of(composed.values) as team:
        return work(composed, team)


def work(composed: Composed, team: Alone) -> int:
    """The part of this process in the training."""
    values = composed.values
    recipe.check(values, parts.check_network(values))
    transform_of(values, start=None, ignore_label=255)  # its own errors, before data is read
    stages = parts.stages_of(values)
    train_sets = {s["split"]: parts.dataset_of(values, s["split"]) for s in stages}
    val_set = parts.scored_set(values)
    device = parts.device_of(values)
    parts.deterministic(values["deterministic"])
    team.compare(facts(values, [*train_sets.values(), val_set]))
    net = fresh_network(values, val_set.labels.num_classes, stages[0]["os"])
    folder = Path(values["runs"]).expanduser() / run_name(composed)

    run: Run | None = None
    with stopping(lambda: run.left() if run else None, patient=team.size > 1) as stop:
        with team.guard(), team.phase("opening the run"), team.first():  # one may have to download
            if team.leads:
                check_resume(folder, composed)
            weights = begin(folder, net, composed, val_set.labels)
        inputs = inputs_of(values, train_sets, folder, stop, team)
        run = opened(folder, composed, val_set.labels, weights, device, team)
        team.on_leave(run.record_end)
        with run, team.guard():
            if skipped := {split: made.words() for split, made in inputs.items() if made.skipped}:
                run.tell(skipped=skipped)
            watch = Watch(val_set, values, device, run, stop, team)
            plans = [
                plan(number, stage, values, inputs[stage["split"]].dataset, net, stop, team)
                for number, stage in enumerate(stages)
            ]
            train(
                run,
                plans,
                settings_of(values, device),
                stop=stop,
                team=team,
                validate=watch.validate,
                on_validation=watch.show,
            )
    if team.leads:
        write_curve(folder / "curve.png", run.metrics(), folder.name)
        for made in inputs.values():
            if made.skipped:
                print(made)
        print(f"run: {folder}")
    return ExitCode.OK


def facts(values: parts.Values, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """What must be the same in every process for them to train one network."""
    same = {key: str(value) for key, value in identity(values).items()}
    for number, dataset in enumerate(datasets):
        same[f"samples {number}"] = parts.digest_of(dataset)
        same[f"classes {number}"] = ",".join(dataset.labels.names)
    return same | parts.versions()


def opened(
    folder: Path,
    composed: Composed,
    labels: LabelSet,
    weights: Mapping[str, Any],
    device: torch.device,
    team: Alone,
) -> Run:
    """The run folder, opened by rank 0 and followed by the others."""
    if team.leads:
        run = open_run(folder, composed, labels, weights, device)
        names = ("id", "resumed", "finished", "has_metrics")
        team.share({name: getattr(run, name) for name in names})
        return run
    with team.guard():
        return Follower(folder, team, team.share({}))


# -- stages ------------------------------------------------------------------------------------


def plan(
    number: int,
    stage: Mapping[str, Any],
    values: parts.Values,
    dataset: Dataset,
    start: Segmenter,
    stop: Stop,
    team: Alone,
) -> StagePlan:
    """One stage of the schedule as the engine wants it."""
    schedule, policy = values["schedule"], parts.policy_of(values)
    labels, steps = dataset.labels, stage["steps"]
    transform = transform_of(values, start, labels.ignore_label)

    def make_model() -> Segmenter:
        # The first stage begins with the pretrained start; later ones are given their weights.
        net = start if number == 0 else fresh_network(values, labels.num_classes, stage["os"])
        net.recompute(values["recompute"])
        return net

    def batches(first_step: int) -> Iterator[Any]:
        return train_batches(
            dataset,
            transform,
            seed=values["seed"],
            stage=number,
            batch=stage["batch"],
            first_step=first_step,
            last_step=steps,
            workers=parts.workers_of(values),
            rank=team.rank,
            world=team.size,
            timeout=values["worker_timeout"],
            pin=parts.device_of(values).type == "cuda",
            should_stop=stop,
        )

    momentum = schedule["bn_momentum"]
    if momentum is None:
        momentum = batch_norm_momentum(sum(s["steps"] for s in schedule["stages"]))
    return StagePlan(
        name=stage["name"],
        output_stride=stage["os"],
        steps=steps,
        batch=stage["batch"],
        accumulate=schedule["accumulate"],
        bn=stage["bn"],
        bn_momentum=momentum,
        make_model=make_model,
        make_optimizer=optimizer_of(values, stage["lr"]),
        learning_rate=lambda step: learning_rate(policy, stage["lr"], step, steps),
        set_learning_rate=set_learning_rate,
        loss=parts.loss_of(values, labels),
        batches=batches,
        normalise=Normalise(start.pixels.mean, start.pixels.std),
    )


def transform_of(
    values: parts.Values, start: Segmenter | None, ignore_label: int
) -> TrainTransform:
    """The training augmentation, padding with the mean pixel of the network ``start``."""
    pixels = start.pixels if start else IMAGENET_PIXELS
    return TrainTransform(**values["augment"], ignore_label=ignore_label, mean=pixels.mean)


def optimizer_of(values: parts.Values, rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    schedule = values["schedule"]
    return functools.partial(
        sgd,
        rules=parts.rules_of(values),
        lr=rate,
        momentum=schedule["momentum"],
        weight_decay=schedule["weight_decay"],
        nesterov=schedule["nesterov"],
    )


def settings_of(values: parts.Values, device: torch.device) -> Settings:
    return Settings(
        seed=values["seed"],
        device=device,
        precision=parts.precision_of(values, device),
        log_every=values["log"]["every"],
        validate_every=values["eval"]["every"],
        save_every=values["checkpoint"]["every"],
        keep=values["checkpoint"]["keep"],
        on_save_error=values["checkpoint"]["on_error"],
        save_in_background=values["checkpoint"]["background"],
        compile=parts.compiler_of(values, device),
        sync_bn=values["sync_bn"],
        ema=values["schedule"]["ema"],
        validate_raw=values["eval"]["weights"] == "raw",
    )


# -- validation --------------------------------------------------------------------------------


class Watch:
    """Validation during training: single scale, the stage's own output stride, a few pictures."""

    def __init__(
        self,
        dataset: Dataset,
        values: parts.Values,
        device: torch.device,
        run: Run,
        stop: Stop,
        team: Alone,
    ) -> None:
        self.dataset, self.values, self.device = dataset, values, device
        self.run, self.stop, self.team = run, stop, team
        self.seen: list[tuple[EvalSample, np.ndarray]] = []
        self.memory = memory_of(values, device)  # what it learnt of it lasts for the whole run

    def validate(self, net: nn.Module, step: int) -> dict[str, Any]:  # noqa: ARG002
        """Score ``net`` on the val split."""
        assert isinstance(net, Segmenter)
        self.seen.clear()
        predictor = asking(net, self.values, self.device, self.memory)
        samples = eval_samples(
            self.dataset,
            workers=parts.workers_of(self.values),
            rank=self.team.rank,
            world=self.team.size,
            timeout=self.values["worker_timeout"],
            should_stop=self.stop,
        )
        labels = self.dataset.labels
        score = evaluate(
            samples,
            lambda together: predictor.labels([s.image for s in together], verify=False),
            num_classes=labels.num_classes,
            ignore_label=labels.ignore_label,
            device=self.device,
            batch=self.memory.batch,
            on_image=self.keep,
            should_stop=self.stop,
            team=self.team,
        )
        predictor.verify()
        found = iou(score.matrix)
        return {
            "miou": mean_iou(score.matrix),
            "pixel_accuracy": pixel_accuracy(score.matrix),
            "iou": dict(zip(labels.names, found, strict=True)),
            "images": score.images,
        }

    def keep(self, sample: EvalSample, prediction: Tensor) -> None:
        if len(self.seen) < self.values["log"]["images"]:
            self.seen.append((sample, prediction.cpu().numpy()))

    def show(self, step: int, score: Mapping[str, Any]) -> None:
        """Per-class table in the terminal, pictures in TensorBoard."""
        labels = self.dataset.labels
        print(f"\nvalidation at step {step}, {score['images']} images")
        print_class_table(score["iou"], score["miou"])
        for sample, prediction in self.seen:
            picture = panel(
                sample.label,
                prediction,
                image=sample.rgb,
                colours=labels.colours,
                names=labels.names,
                ignore=labels.ignore_label,
                title=sample.id,
            )
            self.run.picture(f"validation/{sample.id}", np.asarray(picture), step)
