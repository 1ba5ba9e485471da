"""Hours, memory and disk before a training: by hand where a hand can, else how they must move."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from segkit.ablation import rate as rates
from segkit.ablation.asked import asked, images_of
from segkit.ablation.estimate import CRF_SECONDS, estimate
from segkit.ablation.jobs import Evaluation
from segkit.ablation.plan import composed
from segkit.ablation.rate import Rate, Seen, solved
from segkit.ablation.update import Update, updates_of
from segkit.models.cost import Cost, counted

WORDS = (
    *("backbone=r_tiny", "dataset=camvid", "augment.crop=97", "schedule.batch=8"),
    *("schedule.stages.0.steps=100", "eval.every=null"),
)
RATE = Rate(macs=1e9, moved=1e9)


def training(**changed):
    """The config of ``WORDS`` with ``a__b=value`` changed in its values."""
    base = composed(WORDS, None)
    values = copy.deepcopy(base.values)
    for key, value in changed.items():
        *nodes, name = key.split("__")
        node = values
        for part in nodes:
            node = node[int(part) if part.isdigit() else part]
        node[name] = value
    return replace(base, values=values)


def scored(*words, tune=None):
    return Evaluation("score", words, Path("scores/score"), tune)


def small():
    """A convolution, a norm and a ReLU on the meta device."""
    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )


def test_a_small_network_by_hand():
    net, images = small(), torch.empty(2, 3, 10, 10, device="meta")
    cost = counted(lambda: net(images), net)
    image, out = 2 * 3 * 100 * 4, 2 * 8 * 100 * 4
    assert cost.macs == 2 * 100 * (3 * 3 * 3 * 8)
    assert cost.largest == out
    # The convolution needs the image, the norm its input, mean and deviation, the ReLU its output.
    assert cost.kept == image + out + 2 * 8 * 4 + out
    weights = 3 * 3 * 3 * 8 * 4
    moves = image + weights + out  # convolution
    moves += out + 4 * 8 * 4 + out + 2 * 8 * 4  # norm: its weights and averages, its statistics
    moves += 2 * out  # ReLU
    assert cost.moved == pytest.approx(moves, abs=8 + 8)  # the counter of batches


def test_time_by_hand():
    cost, after = Cost(macs=100, moved=10), Cost(macs=0, moved=4)
    update = Update(5, 2, cost, after, weights=3, buffers=0, copies=2, half=False)
    assert update.macs == 3 * 2 * 100
    assert update.moved == 3 * 2 * (10 + 4) + 10 * 3
    assert Rate(macs=50, moved=7).seconds(update.macs, update.moved) == 600 / 50 + 114 / 7
    job = training()
    (one,) = updates_of(job.values, half=False)
    seconds = 100 * (one.macs / 1e9 + one.moved / 1e9)
    assert estimate(job, (), RATE).seconds_training == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("more", "longer", "larger"),
    [
        ({"schedule__batch": 16}, 2, True),
        ({"schedule__stages__0__steps": 200}, 2, False),
        ({"augment__crop": 193}, 3.5, True),
        ({"os": 8}, 1.1, True),
    ],
)
def test_more_takes_more(more, longer, larger):
    before, after = (estimate(training(**changed), (), RATE) for changed in ({}, more))
    assert after.seconds_training >= 0.95 * longer * before.seconds_training
    assert (after.memory_bytes > before.memory_bytes) == larger
    assert after.disk_bytes == before.disk_bytes


def test_parts_of_a_batch_take_less_memory_and_the_same_time():
    whole, parts = (estimate(training(schedule__accumulate=n), (), RATE) for n in (1, 4))
    assert parts.memory_bytes < whole.memory_bytes
    assert parts.seconds == pytest.approx(whole.seconds, rel=0.05)


def test_an_average_is_kept_beside_the_weights():
    before, after = (estimate(training(schedule__ema=e), (), RATE) for e in (None, 0.99))
    assert after.memory_bytes > before.memory_bytes
    assert after.disk_bytes == pytest.approx(1.5 * before.disk_bytes, rel=0.02)


def test_disk_by_hand():
    """Weights and momentum for each checkpoint: the two of a run that never saves on the way, else
    as many as are kept, the best and the one that is written."""
    never = estimate(training(checkpoint__every=None), (), RATE).disk_bytes
    (one,) = updates_of(training().values, half=False)
    assert never == 2 * (2 * one.weights + one.buffers)
    often = {"checkpoint__every": 10, "checkpoint__keep": 2}
    assert estimate(training(**often), (), RATE).disk_bytes == 1.5 * never
    assert estimate(training(**often, eval__every=50), (), RATE).disk_bytes == 2 * never
    page = estimate(training(), [scored()], RATE).disk_bytes - never
    assert page > estimate(training(), [scored("eval.report=false")], RATE).disk_bytes - never > 0


def test_each_evaluation_costs_its_views():
    plain, mirrored, every = (
        estimate(training(), [scored(*words)], RATE).seconds_evaluation
        for words in ((), ("flip=true",), ("ms=true", "flip=true"))
    )
    assert 2 * plain <= mirrored < 3.5 * plain
    assert every > 5 * mirrored
    assert estimate(training(), [scored()] * 3, RATE).seconds_evaluation == pytest.approx(3 * plain)


def test_a_search_for_the_crf_is_most_of_its_evaluation():
    crf = ("crf=true", "eval.limit=10")
    without, once, search = (
        estimate(training(), [score], RATE, cores=2).seconds_evaluation
        for score in (scored("eval.limit=10"), scored(*crf), scored(*crf, tune=5))
    )
    image = CRF_SECONDS * 11 * 360 * 480 / 2
    assert once - without == pytest.approx(10 * image)
    # The v2 papers' grid: 4 x 8 x 4 points, and 26 around the best.
    assert search - once == pytest.approx(5 * (4 * 8 * 4 + 26) * image)


def test_images_and_sizes_of_data_that_is_not_here():
    seen = {
        name: asked(composed((*WORDS, f"dataset={name}"), None), ())
        for name in ("voc_aug", "cityscapes", "camvid", "shapes")
    }
    assert {name: images_of(how.values) for name, how in seen.items()} == {
        "voc_aug": 1449, "cityscapes": 500, "camvid": 101, "shapes": 60,
    }  # fmt: skip
    assert {name: how.sizes for name, how in seen.items()} == {
        "voc_aug": ((513, 513),),
        "cityscapes": ((1025, 2049),),
        "camvid": ((369, 481),),
        "shapes": ((129, 129),),
    }


# -- the rate --------------------------------------------------------------------------------------


def test_two_measurements_give_two_rates():
    def seconds(macs, moved):
        return macs / 50e9 + moved / 8e9

    dense, light = (9e9, 1e8), (1e8, 5e8)
    found = solved((*dense, seconds(*dense)), (*light, seconds(*light)))
    assert found == pytest.approx((50e9, 8e9))
    # A disturbed probe: never a rate below zero.
    assert min(solved((*dense, 0.01), (*light, 5.0))) > 0


def test_runs_correct_the_probe_first_those_of_the_same_network():
    seen = tuple(
        Seen(run, choices, 10, factor)
        for run, choices, factor in [
            ("a", ("v3", "r50"), 1.5),
            ("b", ("v3", "mnv2"), 3.0),
            ("c", ("v1", "vgg16"), 1.0),
        ]
    )
    rate = Rate(1e9, 1e9, basis="a probe", seen=seen)
    assert rate.told({"model": "v3", "backbone": "mnv2"}) == (
        3.0,
        "10 updates of v3 on mnv2 on this machine (b)",
    )
    assert rate.told({"model": "v2", "backbone": "r101"})[0] == 1.5
    assert RATE.told({"model": "v2", "backbone": "r101"}) == (1.0, "as given")


def test_a_run_on_this_machine_is_taken_and_another_machines_is_not(tmp_path, monkeypatch):
    from segkit.record import environment_now

    monkeypatch.setattr(rates, "probe", lambda *_, **__: RATE)
    job = training()
    (one,) = updates_of(job.values, half=False)
    twice = 8 / (2 * RATE.seconds(one.macs, one.moved))  # images a second at half the speed
    here = environment_now(torch.device("cpu"))
    stored = {"choices": job.choices, "values": job.values}
    for name, environment in (("mine", here), ("another", here | {"cores": 999})):
        (tmp_path / name).mkdir()
        rows = [{"step": 4, "images_per_second": 1e-6}]  # it warms up
        rows += [{"step": 4 * n, "images_per_second": twice} for n in (2, 3)]
        (tmp_path / name / "timing.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / name / "environment.json").write_text(json.dumps(environment))
        (tmp_path / name / "config.yaml").write_text(json.dumps(stored))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "timing.jsonl").write_text('{"step": 4')
    rate = rates.rate_of(job.values | {"device": "cpu"}, tmp_path)
    assert [run.run for run in rate.seen] == ["mine"]
    factor, basis = rate.told(job.choices)
    assert factor == pytest.approx(2)
    assert basis == "12 updates of v3 on r_tiny on this machine (mine)"
    plain = estimate(job, (), RATE)
    assert estimate(job, (), rate).seconds_training == pytest.approx(2 * plain.seconds_training)


@pytest.mark.slow
def test_the_probe_measures_this_machine():
    before = torch.get_num_threads()
    found = rates.probe("cpu", half=False)
    assert torch.get_num_threads() == before
    assert 1e8 < found.macs < 1e14
    assert 1e7 < found.moved < 1e13
    assert found.basis == f"a probe of this cpu, {before} threads as if nothing else ran"
