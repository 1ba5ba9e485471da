"""The papers' own ResNets: the released beta, and which map its decoder sees."""

from functools import partial

import pytest
import timm
import torch
from network_zoo import BACKBONES, on_meta, random_norms
from torch import nn

from segkit.errors import CheckpointError, ConfigError
from segkit.models.backbones.resnet import resnet
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter
from segkit.models.weights import load_backbone

beta = partial(resnet, 50, "beta")


def close(found, expected, tolerance=1e-4):
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "count"), [("r50_beta", 39.172), ("r101_beta", 58.164), ("r101_caffe", 58.041)]
)
def test_parameters_with_the_v3_head(name, count):
    """Facts §3.5; the papers publish 58.16M for ResNet-101 (MobileNetV2, Table 7)."""
    with torch.device("meta"):
        net = build_segmenter(BACKBONES[name], DeepLabV3, num_classes=21, output_stride=16)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(count, abs=5e-4)


def strided(module: nn.Module) -> list[tuple[str, int]]:
    """The layers that stride, in the order they are made."""
    kinds = (nn.Conv2d, nn.MaxPool2d)
    layers = [(n, m.stride) for n, m in module.named_modules() if isinstance(m, kinds)]
    pairs = [(n, s if isinstance(s, int) else s[0]) for n, s in layers]
    return [(name, stride) for name, stride in pairs if stride != 1]


def test_beta_strides_in_the_3x3_of_a_blocks_last_unit():
    assert strided(on_meta("r50_beta", 32)) == [
        ("conv1.0", 2),
        ("maxpool", 2),
        ("layer1.2.conv2", 2),
        ("layer1.2.downsample", 2),
        ("layer2.3.conv2", 2),
        ("layer2.3.downsample", 2),
        ("layer3.5.conv2", 2),
        ("layer3.5.downsample", 2),
    ]
    assert strided(on_meta("r101_beta", 8))[-2:] == [
        ("layer1.2.conv2", 2),
        ("layer1.2.downsample", 2),
    ]


def test_the_subsampled_identity_is_every_second_pixel():
    unit = beta(output_stride=32).layer1[2].eval()
    nn.init.zeros_(unit.bn3.weight)  # the branch adds nothing
    x = torch.rand(1, 256, 9, 12)
    assert torch.equal(unit(x), x[..., ::2, ::2])


def test_stem():
    stem = [m for m in beta(output_stride=32).conv1 if isinstance(m, nn.Conv2d)]
    shapes = [(m.in_channels, m.out_channels, m.kernel_size, m.stride[0]) for m in stem]
    assert shapes == [(3, 64, (3, 3), 2), (64, 64, (3, 3), 1), (64, 128, (3, 3), 1)]


def strides_moved_to_the_ends(theirs: nn.Module) -> nn.Module:
    """timm's deep-stemmed ResNet with every block's stride where beta has it."""
    for number in (1, 2, 3):
        first, last = (
            getattr(theirs, f"layer{number + 1}")[0],
            getattr(theirs, f"layer{number}")[-1],
        )
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        last.conv2.stride, last.downsample = (2, 2), nn.MaxPool2d(1, 2)
    return theirs


def from_timm(**arguments):
    """timm's resnet50s (stem 64, 64, 128, as beta's) and ours with the same weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("resnet50s", pretrained=False).eval()
    random_norms(theirs)
    ours = beta(**arguments).eval()
    load = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(load, strict=True)
    return theirs, ours


def stem_of(theirs, x):
    return theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(x))))


@torch.inference_mode()
def test_parity_with_timms_deep_stem_up_to_the_first_stride():
    theirs, ours = from_timm(output_stride=32, low="ports")
    x = torch.randn(2, 3, 97, 65)
    close(ours(x)["res2"], theirs.layer1[:2](stem_of(theirs, x)))
    assert torch.equal(ours(x)["low"], ours(x)["res2"])


@torch.inference_mode()
def test_parity_with_timms_units_strides_moved():
    theirs, ours = from_timm(output_stride=32)
    theirs = strides_moved_to_the_ends(theirs)
    x = torch.randn(2, 3, 97, 65)
    maps, y = ours(x), stem_of(theirs, x)
    for number in (1, 2, 3, 4):
        layer = getattr(theirs, f"layer{number}")
        before = layer[:-1] if number < 4 else layer
        close(maps[f"res{number + 1}"], before(y))
        y = layer(y)
    close(maps["out"], y)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["r50", "r50_caffe", "r50_beta"])
def test_the_released_tap_is_the_branch_before_the_sum(name):
    style = name.removeprefix("r50_") if "_" in name else "torchvision"
    torch.manual_seed(0)
    net = resnet(50, style, low="released", output_stride=16).eval()
    random_norms(net)
    seen = {}
    last = net.layer1[1] if name == "r50_beta" else net.layer1[2]
    last.bn3.register_forward_hook(lambda _m, _i, y: seen.update(branch=y))
    maps = net(torch.randn(1, 3, 65, 65))
    assert torch.equal(maps["low"], seen["branch"])
    assert (maps["low"] < 0).any()  # no ReLU has touched it, not even the one behind the sum
    assert not (maps["res2"] < 0).any()
    assert net.features["low"] == net.features["res2"]


def test_the_tap_changes_nothing_else():
    torch.manual_seed(0)
    released = beta(output_stride=16, low="released").eval()
    ports = beta(output_stride=16, low="ports").eval()
    ports.load_state_dict(released.state_dict(), strict=True)
    x = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        ours, theirs = released(x), ports(x)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key != "low")


def test_there_is_no_other_tap():
    with pytest.raises(ConfigError) as fault:
        beta(output_stride=16, low="sum")
    assert fault.value.where == "backbone.low"


def test_pixels_travel_with_the_style():
    assert on_meta("r101_beta", 16).pixels.mean == on_meta("r101_beta", 16).pixels.std == (0.5,) * 3
    assert on_meta("r101_caffe", 16).pixels.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["r50_beta", "r101_beta", "r101_caffe"])
def test_there_are_no_public_weights(name):
    net = on_meta(name, 16)
    with pytest.raises(CheckpointError, match=name) as fault:
        load_backbone(net, "imagenet", source=net.imagenet)
    assert fault.value.id == "CKPT-WEIGHTS-NONE"
