"""The v3 head against the paper's numbers and torchvision's pieces."""

from functools import partial

import pytest
import torch
import torchvision
from network_zoo import BACKBONES, random_norms
from torch import nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models.aspp import ASPP, ImagePooling
from segkit.models.contracts import Feature
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter

FEATURES = {"out": Feature(64, 16)}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "head", "count"),
    [
        # torchvision's published counts less its auxiliary head and extra 3x3 (facts §3.5).
        ("r50", DeepLabV3, 39_048_533),
        ("r101", DeepLabV3, 58_040_661),
        ("r50_caffe", DeepLabV3, 39_048_533),
        # MobileNetV2 paper, Table 7: 2.11M and 4.52M.
        ("mnv2", partial(DeepLabV3, rates=[]), 2_113_557),
        ("mnv2", DeepLabV3, 4_523_541),
    ],
)
def test_parameters_of_the_papers(name, head, count):
    with torch.device("meta"):
        net = build_segmenter(BACKBONES[name], head, num_classes=21, output_stride=16)
    assert parameters(net) == count


def atrous_rates(head: nn.Module) -> list[int]:
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(conv.padding == conv.dilation for conv in convs)
    return [conv.dilation[0] for conv in convs]


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [(4, [24, 48, 72]), (8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])],
)
def test_rates_follow_the_output_stride(output_stride, expected):
    assert atrous_rates(DeepLabV3(FEATURES, 5, output_stride=output_stride)) == expected


@pytest.mark.parametrize("image_pooling", [True, False])
@pytest.mark.parametrize("rates", [(), (6,), (6, 12, 18), (6, 12, 18, 24)])
def test_branches(rates, image_pooling):
    head = DeepLabV3(
        FEATURES, 5, output_stride=16, rates=rates, channels=8, image_pooling=image_pooling
    ).eval()
    assert len(head.aspp.branches) == image_pooling + 1 + len(rates)
    assert isinstance(head.aspp.branches[0], ImagePooling) == image_pooling
    assert head({"out": torch.randn(2, 64, 9, 7)})["out"].shape == (2, 5, 9, 7)


def test_classifier_starts_small_and_alone_has_a_bias():
    head = DeepLabV3(FEATURES, 500, output_stride=16)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.classifier.bias.any()
    biased = [n for n, m in head.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert biased == ["classifier"]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert {norm.eps for norm in norms} == {1e-5}


def test_image_pooling_equals_the_papers_resizing():
    pooling = ImagePooling(8, 4).eval()
    random_norms(pooling)
    x = torch.randn(2, 8, 5, 7)
    conv, norm, relu = pooling
    one = relu(norm(conv(F.adaptive_avg_pool2d(x, 1))))
    expected = F.interpolate(one, (5, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pooling(x), expected)


def from_torchvision(theirs: nn.Module) -> dict[str, torch.Tensor]:
    """torchvision's ASPP under our names: its pooling branch is the last, ours the first."""
    state, ours = theirs.state_dict(), {}
    for index, branch in enumerate([4, 0, 1, 2, 3]):
        shift = 1 if branch == 4 else 0  # a pooling layer stands before the convolution
        for position in (0, 1):
            prefix = f"convs.{branch}.{position + shift}."
            for key in (k for k in state if k.startswith(prefix)):
                ours[f"branches.{index}.{position}.{key.removeprefix(prefix)}"] = state[key]
    for key in (k for k in state if k.startswith("project.")):
        ours[key] = state[key]
    order = [*range(1024, 1280), *range(1024)]
    ours["project.0.weight"] = state["project.0.weight"][:, order]
    return ours


def test_parity_with_torchvisions_deeplabv3():
    """Its backbone and ASPP at OS 8 under our head; its extra 3x3 is not v3's and stays out."""
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=21
    ).eval()
    random_norms(theirs)
    ours = build_segmenter(
        BACKBONES["r50"], DeepLabV3, num_classes=21, output_stride=8, multi_grid=None
    ).eval()
    ours.backbone.load_state_dict(theirs.backbone.state_dict(), strict=True)
    ours.head.aspp.load_state_dict(from_torchvision(theirs.classifier[0]), strict=True)
    x = torch.randn(1, 3, 97, 81)
    with torch.inference_mode():
        expected = ours.head.classifier(theirs.classifier[0](theirs.backbone(x)["out"]))
        found = ours.scores(x)["out"]
        scale = expected.abs().max()
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)
        full = F.interpolate(found, (97, 81), mode="bilinear", align_corners=True)
        torch.testing.assert_close(ours(x), full)


def test_dropout_drops_a_tenth_behind_the_projection_in_training_only():
    torch.manual_seed(0)
    head = DeepLabV3(FEATURES, 5, output_stride=16, channels=16)
    seen = []
    head.classifier.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    x = {"out": torch.rand(4, 64, 33, 33)}
    head.aspp.project[1].bias.data.fill_(1e3)  # nothing is zero before the dropout
    head.train()(x)
    head.eval()(x)
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (seen[1] == 0).sum() == 0


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"rates": [5], "output_stride": 32}, "model.rates"),
        ({"rates": [0], "output_stride": 16}, "model.rates"),
        ({"channels": 0, "output_stride": 16}, "model.channels"),
        ({"dropout": 1.5, "output_stride": 16}, "model.dropout"),
        ({"dropout": -0.1, "output_stride": 16}, "model.dropout"),
        ({"dropout": float("nan"), "output_stride": 16}, "model.dropout"),
    ],
)
def test_arguments_out_of_range(arguments, where):
    with pytest.raises(ConfigError) as fault:
        DeepLabV3(FEATURES, 5, **arguments)
    assert fault.value.where == where


def test_gradients_reach_every_parameter():
    aspp = ASPP(8, 4, (1, 2), image_pooling=True)
    aspp(torch.randn(2, 8, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aspp.parameters())
