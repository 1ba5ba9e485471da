"""Bytes before a step: by hand where a hand can, and against what a process then takes."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from segkit.config import compose
from segkit.parts import stages_of
from segkit.planning.live import Live, half_convolutions
from segkit.planning.update import Size, simulated

MEASURED = """
import re, sys, torch
from segkit.config import compose
from segkit.engine.loop import Update
from segkit.parts import stages_of
from segkit.planning.update import Size, batch_of, network_of, simulated, update_of

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))

values = compose("train", sys.argv[1:]).values
stage, cpu = stages_of(values)[0], torch.device("cpu")
size = Size(stage["batch"], 1, values["augment"]["crop"])
found = simulated(values, stage, size, 21, device="cpu", precision="fp32")
before = status("VmRSS")
net = network_of(values, stage, 21, cpu)
update = update_of(Update, net, values, stage, size, cpu, "fp32")
batch = batch_of(size, cpu)
open("/proc/self/clear_refs", "w").write("5")
for number in range(2):
    update(batch, 0, number)
print((found.peak + before) / (status("VmHWM") + 0), found.peak / (status("VmHWM") - before))
"""


def step(*words, images=2, accumulate=1, device="cpu", precision="fp32"):
    values = compose("train", ("backbone=r_tiny", "augment.crop=97", *words)).values
    size = Size(images, accumulate, 97)
    return simulated(values, stages_of(values)[0], size, 21, device=device, precision=precision)


def test_storages_count_from_their_making_to_their_end():
    with Live() as live:
        first = torch.empty(10, device="meta")
        view = first[2:]
        second = torch.empty(5, device="meta")
        assert live.now == 60
        del first
        assert live.now == 60  # the view has it still
        del view
        assert live.now == 20
        assert second.add_(1) is not None
    assert (live.now, live.peak) == (20, 60)


def test_what_a_card_gives_out_is_a_multiple_of_its_block():
    with Live(512) as live:
        kept = [torch.empty(1, device="meta"), torch.empty(129, device="meta")]
    assert live.now == 512 + 1024
    assert len(kept) == 2


def test_half_precision_is_that_of_convolutions():
    with torch.device("meta"):
        net = nn.Conv2d(3, 4, 1)
        images = torch.empty(1, 3, 8, 8)
    with half_convolutions():
        found = net(images)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert net.weight.grad.dtype == torch.float32


def test_weights_gradients_and_momentum_are_in_it():
    found = step()
    assert found.live > 3 * found.weights
    assert found.peak > found.live
    card = step(device="cuda")
    assert card.peak == card.live  # nothing is known beyond


def test_more_takes_more():
    two, four = step(images=2).live, step(images=4).live
    assert two < four < 2 * two
    parts = step(images=2, accumulate=2).live
    # The second part finds the first one's gradients, and all images are there from the start.
    assert two < parts < two + step().weights + 2 * 4 * 97 * 97
    assert step(images=4, precision="bf16").live < four
    average = step("schedule.ema=0.99").live
    assert average > two + step().weights
    assert step(*("schedule.stages.0.bn=frozen",)).live < two


def test_counting_leaves_nothing_behind():
    before = torch.get_rng_state()
    step()
    assert torch.equal(torch.get_rng_state(), before)
    from segkit.losses import banded

    assert "meta" not in banded.BAND_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("backbone=mnv2", "augment.crop=193", "schedule.batch=2"),
        ("model=v3plus", "backbone=r50", "augment.crop=161", "schedule.batch=2"),
        ("model=v1", "backbone=vgg16", "augment.crop=161", "schedule.batch=2"),
    ],
)
def test_a_process_takes_what_was_said(words):
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True
    )
    whole, growth = map(float, done.stdout.split())
    assert 0.8 < whole < 1.25
    assert 0.75 < growth < 1.33
