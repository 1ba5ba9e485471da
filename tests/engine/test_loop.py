"""The loop against a straightforward one, and what it must survive without a kill."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training as toy
from torch import nn

from segkit.engine import checkpoint
from segkit.engine.loop import train
from segkit.engine.signals import Stop
from segkit.errors import CheckpointError, ConfigError, DataError, NumericsError
from segkit.losses import CrossEntropy
from segkit.randomness import integer


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def plain_loop(steps: int) -> nn.Module:
    """What anybody would write: no accumulation, no checkpoints, torch's own loss."""
    net = toy.make_net().to(memory_format=torch.channels_last)
    net.train()
    norms, biases = list(net.norm.parameters()), [net.classifier.bias]
    kernels = [net.stem.weight, net.classifier.weight]
    optimizer = torch.optim.SGD(
        [
            {"params": biases, "times": 2.0, "weight_decay": 0.0},
            {"params": norms, "times": 1.0, "weight_decay": 0.0},
            {"params": [net.depthwise.weight], "times": 1.0, "weight_decay": 0.0},
            {"params": kernels, "times": 1.0, "weight_decay": 1e-3},
        ],
        lr=0.1,
        momentum=0.9,
    )
    stream = toy.batches(0, 4, steps, lambda *_: None)(0)
    for step, batch in enumerate(stream):
        torch.manual_seed(integer(toy.SEED, "step", 0, step))
        for group in optimizer.param_groups:
            rate = 0.1 * (1 - step / steps) ** 0.9
            group["lr"] = group["times"] * (rate * (step + 1) / 2 if step < 2 else rate)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        scores = net.scores(images)["out"]
        full = nn.functional.interpolate(
            scores, size=(toy.SIDE, toy.SIDE), mode="bilinear", align_corners=True
        )
        # torch's "mean" is sum / count, the same two roundings as ours.
        loss = nn.functional.cross_entropy(full, batch.labels.long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.usefixtures("deterministic")
def test_ten_steps_equal_a_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 10)])
    ours = checkpoint.load(checkpoint.newest(tmp_path / "run")).model
    theirs = plain_loop(10).state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_the_fast_path_stays_beside_the_plain_loop(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 10)])
    ours = checkpoint.load(checkpoint.newest(tmp_path / "run")).model
    for name, theirs in plain_loop(10).state_dict().items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=1e-5)


def test_accumulation_equals_the_whole_batch_without_batch_statistics(tmp_path: Path) -> None:
    ends = []
    for parts in (1, 2, 4):
        plan = toy.plan(1, 6, accumulate=parts, make_model=net_without_dropout)
        toy.train_toy(tmp_path / str(parts), stages=[plan])
        ends.append(checkpoint.load(checkpoint.newest(tmp_path / str(parts))).model)
    for other in ends[1:]:
        for name, tensor in ends[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)


def net_without_dropout() -> nn.Module:
    net = toy.make_net()
    net.drop.p = 0.0
    return net


def test_the_rate_of_every_step_is_the_formula(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run")
    rates = [row["lr"] for row in rows(tmp_path / "run") if "lr" in row]
    plans = [toy.plan(0, 14), toy.plan(1, 10)]
    assert rates == [plan.learning_rate(step) for plan in plans for step in range(plan.steps)]


@pytest.mark.parametrize("mode", ["train", "frozen_stats", "frozen"])
def test_batch_norm_keeps_its_mode_over_validation_and_resume(tmp_path: Path, mode: str) -> None:
    """K12: what moves is exactly what the mode says."""
    stages = [toy.plan(0, 8, bn=mode)]
    stop = Stop()

    def stop_at_five(step: int, _: list[str]) -> None:
        if step == 5:
            stop.request(15)

    stopping = [toy.plan(0, 8, bn=mode, batches=toy.batches(0, 4, 8, stop_at_five))]
    with pytest.raises(toy.Interrupted):
        toy.train_toy(tmp_path / "run", stages=stopping, stop=stop)
    toy.train_toy(tmp_path / "run", resume=True, stages=stages)
    first, last = toy.make_net().state_dict(), checkpoint.load(checkpoint.newest(tmp_path / "run"))
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    affine = {"norm.weight", "norm.bias"}
    moved = {name for name in first if not torch.equal(first[name], last.model[name])}
    assert moved & statistics == (statistics if mode == "train" else set())
    assert moved & affine == (affine if mode != "frozen" else set())
    assert {"stem.weight", "classifier.bias"} <= moved


def test_validation_changes_nothing(tmp_path: Path) -> None:
    """E14: a run that validates, badly, ends like one that does not."""

    def careless(model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training
        model.train()
        model.scores(torch.randn(2, 3, 9, 9))
        torch.manual_seed(1)
        return {"miou": step / 100}

    toy.train_toy(tmp_path / "quiet", settings=toy.settings(validate_every=None))
    toy.train_toy(tmp_path / "watched", settings=toy.settings(validate_every=1), validate=careless)
    quiet, watched = (
        checkpoint.load(checkpoint.newest(tmp_path / name)) for name in ("quiet", "watched")
    )
    assert all(torch.equal(quiet.model[name], watched.model[name]) for name in quiet.model)
    trained = [[r for r in rows(tmp_path / name) if "loss" in r] for name in ("quiet", "watched")]
    assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.2], 2),
        ([0.3, 0.3, 0.3], 1),
        ([math.nan, 0.1, math.nan], 2),
        ([0.2, math.inf, 0.1], 1),
        ([None, 0.0, None], 2),
    ],
)
def test_the_best_is_the_first_highest_number(tmp_path: Path, scores: list[Any], best: int) -> None:
    """C8."""
    toy.train_toy(
        tmp_path / "run",
        stages=[toy.plan(0, 6)],
        settings=toy.settings(validate_every=2, save_every=None, keep=1),
        validate=lambda _, step: {"miou": scores[step // 2 - 1]},
    )
    assert checkpoint.best(tmp_path / "run").name == f"step-{2 * best:08d}"
    checkpoint.load(checkpoint.best(tmp_path / "run"))


def test_no_number_at_all_is_no_best(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", validate=lambda *_: {"miou": math.nan})
    with pytest.raises(CheckpointError, match=r"best\.json"):
        checkpoint.best(tmp_path / "run")


def test_a_validation_without_miou_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="miou"):
        toy.train_toy(tmp_path / "run", validate=lambda *_: {"accuracy": 1.0})


def poisoned(step_of_poison: int, value: float) -> Any:
    def stream(first: int) -> Iterator[toy.ToyBatch]:
        made = toy.batches(0, 4, 14, lambda *_: None)(first)
        for step, batch in enumerate(made, start=first):
            if step == step_of_poison:
                batch.images[1] = value
            yield batch

    return stream


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_that_is_not_finite_stops_before_its_update(
    tmp_path: Path, value: float, parts: int
) -> None:
    """R16: step, loss, gradient norm and samples are named; what is saved is finite."""
    kept: list[nn.Module] = []

    def make() -> nn.Module:
        kept.append(toy.make_net())
        return kept[-1]

    plan = toy.plan(
        0, 14, batches=poisoned(4, value), accumulate=parts, make_model=make, bn="frozen_stats"
    )
    with pytest.raises(NumericsError) as caught:
        toy.train_toy(tmp_path / "run", stages=[plan])
    assert caught.value.id == "NUM-NON-FINITE"
    for word in ("step 5:", "loss", "gradient norm", "learning rate"):
        assert word in str(caught.value)
    assert all(bool(t.isfinite().all()) for t in kept[-1].state_dict().values())
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 5)
    assert status["error_id"] == "NUM-NON-FINITE"
    facts = json.loads((tmp_path / "run/logs/non-finite-step-00000005.json").read_text())
    assert len(facts["ids"]) == 4
    assert ", ".join(facts["ids"]) in str(caught.value)
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4]
    assert checkpoint.load(checkpoint.newest(tmp_path / "run")).step == 4


def test_a_learning_rate_that_explodes_stops(tmp_path: Path) -> None:
    plan = toy.plan(0, 14, learning_rate=lambda _: 1e20)
    with pytest.raises(NumericsError, match=r"1e\+20"):
        toy.train_toy(tmp_path / "run", stages=[plan])
    checkpoint.load(checkpoint.newest(tmp_path / "run"))


def test_a_batch_of_ignored_pixels_counts_zero(tmp_path: Path) -> None:
    """D12: no NaN, one warning that names the samples, and training goes on."""

    def stream(first: int) -> Iterator[toy.ToyBatch]:
        made = toy.batches(0, 4, 14, lambda *_: None)(first)
        for step, batch in enumerate(made, start=first):
            if step in (3, 5):
                batch.labels[:] = 255
            yield batch

    said: list[str] = []
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 14, batches=stream)], notice=said.append)
    void = [row for row in rows(tmp_path / "run") if row.get("pixels") == 0]
    assert [(row["step"], row["loss"], row["gradient_norm"]) for row in void] == [
        (4, 0.0, 0.0),
        (6, 0.0, 0.0),
    ]
    warnings = [line for line in said if "no labelled pixel" in line]
    assert len(warnings) == 1
    assert "step 4" in warnings[0]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"accumulate": 3}, "schedule.stages.0.accumulate"),
        ({"accumulate": 0}, "schedule.stages.0.accumulate"),
        ({"batch": 0}, "schedule.stages.0.accumulate"),
        ({"steps": 0}, "schedule.stages.0.steps"),
    ],
)
def test_a_stage_that_cannot_be_run_is_refused(
    tmp_path: Path, changes: dict[str, int], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        toy.train_toy(tmp_path / "run", stages=[replace(toy.plan(0, 14), **changes)])


def test_one_value_per_channel_names_the_ways_out(tmp_path: Path) -> None:
    """G7, should the start not have seen it: batch norm behind a global pooling."""

    class Pooled(toy.Net):
        def scores(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            x = self.stem(images).mean((2, 3), keepdim=True)
            return {"out": self.classifier(self.norm(x))}

    plan = toy.plan(0, 4, accumulate=4, make_model=Pooled)
    with pytest.raises(ConfigError, match="frozen_stats") as caught:
        toy.train_toy(tmp_path / "run", stages=[plan])
    assert caught.value.where == "schedule.stages.0.batch"


def test_batches_that_end_early_are_an_error(tmp_path: Path) -> None:
    plan = toy.plan(0, 9, batches=toy.batches(0, 4, 5, lambda *_: None))
    with pytest.raises(DataError, match="5 of 9"):
        toy.train_toy(tmp_path / "run", stages=[plan])


def test_loaders_are_closed_with_their_stage(tmp_path: Path) -> None:
    closed: list[int] = []

    def stream(first: int) -> Iterator[toy.ToyBatch]:
        try:
            yield from toy.batches(0, 4, 99, lambda *_: None)(first)
        finally:
            closed.append(first)

    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 3, batches=stream)])
    assert closed == [0]


def test_bf16_keeps_the_loss_in_fp32(tmp_path: Path) -> None:
    """R19: 70 000 is infinite in half precision, and here it is a loss."""

    class Loud(CrossEntropy):
        def __call__(self, scores: Any, labels: Any, normaliser: Any) -> torch.Tensor:
            assert scores["out"].dtype == torch.bfloat16
            loss = super().__call__(scores, labels, normaliser) + 70_000.0
            assert loss.dtype == torch.float32
            return loss

    toy.train_toy(
        tmp_path / "run",
        stages=[toy.plan(0, 4, loss=Loud(255))],
        settings=toy.settings(precision="bf16"),
    )
    assert rows(tmp_path / "run")[0]["loss"] > 70_000


def test_compile_is_handed_the_forward_function(tmp_path: Path) -> None:
    calls: list[str] = []

    def compile(function: Any) -> Any:
        def compiled(images: torch.Tensor) -> Any:
            calls.append("forward")
            return function(images)

        return compiled

    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 3)], settings=toy.settings(compile=compile))
    assert len(calls) == 3


def test_a_run_can_be_taken_up_only_with_a_schedule_it_fits(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run")
    for stages in ([toy.plan(0, 14)], [toy.plan(0, 14), toy.plan(1, 5)]):
        with pytest.raises(CheckpointError, match="schedule"):
            toy.train_toy(tmp_path / "run", resume=True, stages=stages)


def test_the_fresh_run_says_what_it_is_at_step_zero(tmp_path: Path) -> None:
    stop = Stop()
    stop.request(2)
    with toy.open_run(tmp_path / "run") as run, pytest.raises(toy.Interrupted):
        train(run, [toy.plan(0, 4)], toy.settings(), stop=stop)
    point = checkpoint.load(checkpoint.newest(tmp_path / "run"))
    assert (point.step, point.stage, point.optimizer) == (0, 0, {})
    assert point.config["model"] == {"name": "toy"}
