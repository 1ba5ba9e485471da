"""The average of the weights: the formula, what it leaves alone, and that a resume repeats it."""

import copy
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training as toy
from torch import Tensor, nn

from segkit.engine import checkpoint
from segkit.engine.average import Average
from segkit.engine.loop import Update
from segkit.engine.signals import Stop
from segkit.errors import CheckpointError
from segkit.optim import V3_RULES, sgd

EMA = toy.settings(ema=0.6)
APPLIED, SKIPPED = torch.tensor(1.0), torch.tensor(0.0)


def decay_at(step: int, decay: float) -> float:
    return min(decay, (1 + step) / (10 + step))


def copied(net: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(net.state_dict())


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# -- the class -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_sum_of_all_weights_so_far(dtype: torch.dtype) -> None:
    """Closed form: the start and each update, by its share and the decays after it; in fp32."""
    torch.manual_seed(1)
    net = nn.Linear(5, 3).to(dtype)
    seen, average = [net.weight.detach().double()], Average(net, 0.5)
    for step in range(30):  # warming up for the first eight
        net.weight.data = torch.randn(3, 5).to(dtype)
        seen.append(net.weight.detach().double())
        # Assigning .data keeps the parameter, as an optimiser's step does.
        average.update(step, APPLIED)
    shares = [1.0]
    for step in range(30):
        decay = decay_at(step, 0.5)
        shares = [share * decay for share in shares] + [1 - decay]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, seen, strict=True))
    found = average.network().weight
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


def test_a_skipped_update_leaves_it_alone() -> None:
    net = nn.Linear(5, 3)
    average = Average(net, 0.5)
    before = copied(average.network())
    nn.init.ones_(net.weight)
    average.update(0, SKIPPED)
    assert equal(before, average.network().state_dict())
    average.update(0, APPLIED)
    assert not equal(before, average.network().state_dict())


def test_statistics_are_the_models_own_and_what_does_not_train_stays() -> None:
    net = toy.make_net().to(memory_format=torch.channels_last)
    net.norm.requires_grad_(False)
    average = Average(net, 0.5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    net.norm.running_mean.fill_(7)
    net.norm.num_batches_tracked.fill_(3)
    average.update(99, APPLIED)
    made = average.network()
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert made.stem.weight.stride() == net.stem.weight.stride()
    assert torch.equal(made.norm.running_mean, net.norm.running_mean)
    assert made.norm.num_batches_tracked == 3
    assert not made.norm.weight.eq(net.norm.weight).any(), "outside the optimiser: it stays"
    torch.testing.assert_close(made.stem.weight, net.stem.weight - 0.5)


def test_it_draws_no_random_number() -> None:
    net = toy.make_net()
    state = torch.get_rng_state()
    Average(net, 0.5).network()
    assert torch.equal(state, torch.get_rng_state())


def test_a_step_that_is_not_finite_is_not_taken_in() -> None:
    net, plan = toy.make_net(), toy.plan(0, 14, bn="frozen_stats")
    net.set_batch_norm("frozen_stats", None)
    average = Average(net, 0.6)
    update = Update(net, plan.make_optimizer(net), plan, EMA, average=average)
    stream = plan.batches(0)
    assert update(next(stream), 0, 0).applied
    before, broken = copied(average.network()), next(stream)
    broken.images[0] = torch.nan
    assert not update(broken, 0, 1).applied
    assert equal(before, average.network().state_dict())


@pytest.mark.gpu
def test_a_skipped_update_on_the_device_is_not_taken_in() -> None:
    """Nobody asks whether it was applied: the share of the weights is 0 there."""
    net = toy.make_net().cuda()
    plan = toy.plan(0, 14, make_optimizer=lambda net: sgd(net, V3_RULES, lr=0.1, weight_decay=0))
    average = Average(net, 0.6)
    settings = replace(EMA, device=torch.device("cuda"))
    update = Update(net, plan.make_optimizer(net), plan, settings, average=average)
    stream, states = plan.batches(0), []
    for step in range(4):
        batch = next(stream)
        if step == 2:
            batch.images[0] = torch.nan
        assert update(batch, 0, step).applied
        states.append([p.clone() for p in average.network().parameters()])
    same = [all(map(torch.equal, *pair)) for pair in pairwise(states)]
    assert same == [False, True, True]


# -- the loop ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The whole toy run with an average."""
    folder: Path = tmp_path_factory.mktemp("averaged") / "run"
    with toy.one_thread():
        toy.train_toy(folder, settings=EMA)
    return toy.outcome(folder)


def test_it_changes_nothing_else(averaged: dict[str, str], whole: dict[str, str]) -> None:
    trained = [name for name in whole if name.startswith(("model/", "optimizer/"))]
    assert {name: averaged[name] for name in trained} == {name: whole[name] for name in trained}
    assert {name.partition("/")[0] for name in averaged.keys() - whole.keys()} == {"average"}


def test_without_one_there_is_no_file_of_it(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 2)])
    point = checkpoint.newest(tmp_path / "run")
    assert {path.name for path in point.iterdir()} == {*checkpoint.PAYLOADS, checkpoint.MANIFEST}
    assert checkpoint.load(point).average is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_update_is_taken_in_and_every_stage_begins_anew(
    tmp_path: Path, precision: str
) -> None:
    seen: list[dict[str, Tensor]] = []

    def keep(net: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        seen.append(copied(net))
        return {"miou": 0.0}

    settings = replace(EMA, precision=precision, validate_every=1, validate_raw=True, save_every=1)
    stages = [toy.plan(0, 12), toy.plan(1, 5)]
    toy.train_toy(
        tmp_path / "run", stages=stages, validate=keep, settings=replace(settings, keep=99)
    )
    first = checkpoint.load(tmp_path / "run/checkpoints/step-00000000")
    assert first.average is not None
    assert equal(first.average, first.model), "before the first update"
    for start, steps, weights in ((0, 12, first.model), (12, 5, seen[11])):
        expected = {name: tensor.double() for name, tensor in weights.items()}
        for step in range(steps):
            decay, now = decay_at(step, 0.6), seen[start + step]
            expected = {n: t * decay + now[n] * (1 - decay) for n, t in expected.items()}
            path = tmp_path / f"run/checkpoints/step-{start + step + 1:08d}"
            found = checkpoint.load(path).average
            assert found is not None
            assert found.keys() == expected.keys()
            for name, tensor in found.items():
                if name.startswith("norm.") and name not in ("norm.weight", "norm.bias"):
                    assert torch.equal(tensor, now[name]), name
                else:
                    assert tensor.dtype == torch.float32
                    torch.testing.assert_close(tensor, expected[name].float(), rtol=1e-5, atol=1e-6)


def stopped_at(folder: Path, step: int) -> None:
    stop = Stop()

    def watch(start: int) -> Any:
        def saw(local: int, _: list[str]) -> None:
            if start + local == step:
                stop.request(signal.SIGTERM)

        return saw

    stages = [
        toy.plan(0, 14, batches=toy.batches(0, 4, 14, watch(0))),
        toy.plan(1, 10, batches=toy.batches(1, 4, 10, watch(14))),
    ]
    with pytest.raises(toy.Interrupted):
        toy.train_toy(folder, stages=stages, stop=stop, settings=EMA)


@pytest.mark.parametrize("step", [0, 1, 7, 13, 14, 15, 20, 23])
def test_a_resumed_run_has_the_same_average(
    tmp_path: Path, step: int, averaged: dict[str, str]
) -> None:
    """In either stage and at their boundary, weights and average bit by bit."""
    stopped_at(tmp_path / "run", step)
    toy.train_toy(tmp_path / "run", resume=True, settings=EMA)
    assert any(name.startswith("average/") for name in averaged)
    # A stop adds a checkpoint of its own to those that are kept.
    assert toy.outcome(tmp_path / "run") | {"kept": ""} == averaged | {"kept": ""}


def test_the_average_is_validated_and_the_raw_weights_where_asked(tmp_path: Path) -> None:
    for raw in (False, True):
        seen: dict[int, dict[str, Tensor]] = {}

        def keep(net: nn.Module, step: int) -> dict[str, float]:
            assert not net.training
            seen[step] = copied(net)  # noqa: B023
            return {"miou": step / 100}

        folder, settings = tmp_path / f"raw-{raw}", replace(EMA, validate_raw=raw)
        toy.train_toy(folder, validate=keep, settings=settings)
        best = checkpoint.load(checkpoint.best(folder))
        assert best.average is not None
        assert equal(seen[best.step], best.model) == raw
        assert equal(seen[best.step], best.average) != raw


def test_a_run_without_one_cannot_go_on_with_one(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 3)])
    before = (tmp_path / "run/status.json").read_bytes()
    assert b'"finished"' in before
    with pytest.raises(CheckpointError, match=r"step-00000003.*schedule\.ema") as caught:
        toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 9)], resume=True, settings=EMA)
    assert caught.value.id == "CKPT-NO-AVERAGE"
    assert (tmp_path / "run/status.json").read_bytes() == before, "refused: it stays finished"


def test_a_run_with_one_can_go_on_without(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 3)], settings=EMA)
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 9)], resume=True)
    assert checkpoint.load(checkpoint.newest(tmp_path / "run")).average is None


def test_an_average_of_another_network_is_named(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 3)], settings=EMA)
    point = checkpoint.load(checkpoint.newest(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"average\.safetensors.*missing"):
        Average(nn.Linear(2, 2), 0.5).resume(point)
