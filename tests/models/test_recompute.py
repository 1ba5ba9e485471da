"""Units that are computed again: the same numbers, less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from segkit.config import compose
from segkit.errors import ConfigError
from segkit.models.segmenter import Segmenter
from segkit.parts import network_of, stages_of
from segkit.planning.live import Live
from segkit.planning.update import Size, simulated


def net_of(backbone: str, device: str = "cpu") -> Segmenter:
    values = compose("train", ["model=v3plus", f"backbone={backbone}", "pretrained=none"]).values
    torch.manual_seed(0)
    with torch.device(device):
        net = network_of(values, 3, 16)
    net.train()
    net.head.eval()  # its dropout draws
    return net


def updated(net: Segmenter, share: float) -> dict[str, Tensor]:
    """Scores, gradients and buffers after one forward and backward pass."""
    net.recompute(share)
    torch.manual_seed(1)
    scores = net.scores(torch.randn(2, 3, 65, 65))["out"]
    (scores**2).sum().backward()
    gradients = {f"{n}.grad": p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert len(gradients) > 20
    return {"scores": scores, **gradients, **dict(net.named_buffers())}


@pytest.mark.parametrize("backbone", ["r_tiny", "r50_beta", "mnv2", "x41"])
@pytest.mark.parametrize("mode", ["train", "frozen_stats"])
def test_every_number_is_the_same_to_the_bit(backbone: str, mode: Any) -> None:
    kept, again = net_of(backbone), net_of(backbone)
    for net in (kept, again):
        net.set_batch_norm(mode)
    expected, found = updated(kept, 0.0), updated(again, 1.0)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize("backbone", ["r50", "mnv2", "x65"])
def test_less_is_alive(backbone: str) -> None:
    peaks = []
    for share in (0.0, 0.5, 1.0):
        net = net_of(backbone, "meta")
        net.recompute(share)
        with Live() as live:
            net.scores(torch.empty(8, 3, 257, 257, device="meta"))["out"].sum().backward()
        peaks.append(live.peak)
    assert peaks[0] > 1.1 * peaks[1] > 1.1 * peaks[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_counts_it(precision: str) -> None:
    peaks = []
    for share in (0.0, 0.4, 1.0):
        words = ["model=v3", "backbone=r50", f"recompute={share}", "pretrained=none"]
        values = compose("train", words).values
        size = Size(images=16, accumulate=1, crop=257)
        (stage, *_) = stages_of(values)
        step = simulated(values, stage, size, 21, device="cuda", precision=precision)
        peaks.append(step.peak)
    assert peaks[0] > 1.05 * peaks[1] > 1.05 * peaks[2]


def test_an_evaluation_knows_nothing_of_it() -> None:
    net = net_of("r_tiny").eval()
    net.recompute(1.0)
    with torch.no_grad():
        assert not net.scores(torch.randn(1, 3, 65, 65))["out"].requires_grad


@pytest.mark.parametrize(("backbone", "share"), [("vgg16", 0.5), ("r_tiny", 1.5), ("r_tiny", -1)])
def test_what_cannot_be_is_refused(backbone: str, share: float) -> None:
    words = ["model=v1" if backbone == "vgg16" else "model=v3", f"backbone={backbone}"]
    with torch.device("meta"):
        net = network_of(compose("train", [*words, "pretrained=none"]).values, 3, 8)
    with pytest.raises(ConfigError, match="recompute"):
        net.recompute(share)


@pytest.mark.gpu
def test_under_autocast_on_a_gpu() -> None:
    """What is computed again is narrow again."""
    found = []
    for share in (0.0, 1.0):
        net = net_of("r50").cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.recompute(share)
        torch.manual_seed(1)
        images = torch.randn(2, 3, 65, 65, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            scores = net.scores(images)["out"]
        scores.float().square().sum().backward()
        gradient = net.backbone.get_parameter("conv1.weight").grad
        assert gradient is not None
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=2e-2, atol=1e-3 * float(found[0].abs().max()))
