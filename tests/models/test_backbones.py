"""One body over every backbone and output stride."""

import pytest
import torch
import torchvision
from network_zoo import (
    BACKBONES,
    BOTTLENECKS,
    WITHOUT_MULTI_GRID,
    XCEPTIONS,
    on_meta,
    random_norms,
    rates,
)

from segkit.errors import ConfigError
from segkit.models.backbones.mobilenetv2 import mobilenetv2
from segkit.models.backbones.resnet import resnet
from segkit.models.weights import _in_our_names

STRIDES = [4, 8, 16, 32]


def grid():
    """Every network at every stride; the deep ones beyond 16 run with the slow tests."""
    for name in BACKBONES:
        deep = name.endswith(("65", "71")) or "101" in name
        for stride in STRIDES:
            slow = deep and stride != 16
            yield pytest.param(name, stride, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(("name", "output_stride"), list(grid()))
def test_maps_are_what_the_features_say(name, output_stride):
    backbone = on_meta(name, output_stride).eval()
    for size in ((321, 513), (128, 97)):
        maps = backbone(torch.empty(2, 3, *size, device="meta"))
        assert maps.keys() == backbone.features.keys()
        for key, feature in backbone.features.items():
            expected = [(side - 1) // feature.stride + 1 for side in size]
            assert list(maps[key].shape) == [2, feature.channels, *expected], key
    assert backbone.features["low"].stride == 4
    assert backbone.features["out"].stride == output_stride
    strides = [backbone.features[f"res{n}"].stride for n in (2, 3, 4, 5)]
    assert strides == [min(natural, output_stride) for natural in (4, 8, 16, 32)]


@pytest.mark.parametrize("name", BACKBONES)
def test_same_parameters_at_any_output_stride(name):
    def shapes(output_stride):
        state = on_meta(name, output_stride).state_dict()
        return {key: value.shape for key, value in state.items()}

    assert shapes(4) == shapes(8) == shapes(16) == shapes(32)


@pytest.mark.parametrize(
    ("name", "output_stride", "multi_grid", "layer3", "layer4"),
    [
        # torchvision's own: a block's first unit keeps the rate before it (facts §8).
        ("r50", 32, None, [1] * 6, [1, 1, 1]),
        ("r50", 16, None, [1] * 6, [1, 2, 2]),
        ("r50", 8, None, [1] + [2] * 5, [2, 4, 4]),
        ("r101", 8, None, [1] + [2] * 22, [2, 4, 4]),
        ("r50", 16, (1, 2, 4), [1] * 6, [1, 4, 8]),
        # The papers' own: 2 / 4 on every unit (v2 §3.1, v3 §3.2.1 and §4).
        ("r50_caffe", 32, None, [1] * 6, [1, 1, 1]),
        ("r50_caffe", 16, None, [1] * 6, [2, 2, 2]),
        ("r50_caffe", 8, None, [2] * 6, [4, 4, 4]),
        ("r101_caffe", 8, None, [2] * 23, [4, 4, 4]),
        ("r101_caffe", 16, (1, 2, 4), [1] * 23, [2, 4, 8]),
        ("r101_caffe", 16, (2, 2, 2), [1] * 23, [4, 4, 4]),
        ("r101_caffe", 8, (1, 2, 1), [2] * 23, [4, 8, 4]),
        # The stride behind a block: one rate for all its units (facts §3.4), layer2 included.
        ("r50_beta", 32, None, [1] * 6, [1, 1, 1]),
        ("r50_beta", 16, None, [1] * 6, [2, 2, 2]),
        ("r50_beta", 8, None, [2] * 6, [4, 4, 4]),
        ("r101_beta", 8, None, [2] * 23, [4, 4, 4]),
        ("r101_beta", 16, (1, 2, 4), [1] * 23, [2, 4, 8]),
        ("r101_beta", 8, (1, 2, 1), [2] * 23, [4, 8, 4]),
        # Basic units: the 3x3 with the stride keeps the rate, the one after it has the next.
        ("r18", 16, None, [1, 1, 1, 1], [1, 2, 2, 2]),
        ("r18", 8, None, [1, 2, 2, 2], [2, 4, 4, 4]),
        ("r_tiny", 8, None, [1, 2, 2, 2], [2, 4, 4, 4]),
    ],
)
def test_rates_of_resnets(name, output_stride, multi_grid, layer3, layer4):
    expected = rates(on_meta(name, output_stride, multi_grid))
    assert expected[2:] == [layer3, layer4]
    assert {rate for block in expected[:2] for rate in block} == {1}


@pytest.mark.parametrize(
    ("name", "multi_grid", "layer2", "layer3", "layer4"),
    [
        ("r50", None, [1, 2, 2, 2], [2] + [4] * 5, [4, 8, 8]),
        ("r101", (1, 2, 4), [1, 2, 2, 2], [2] + [4] * 22, [4, 16, 32]),
        ("r50_caffe", None, [2] * 4, [4] * 6, [8, 8, 8]),
        ("r101_beta", (1, 2, 4), [2] * 4, [4] * 23, [8, 16, 32]),
        ("r18", None, [1, 2, 2, 2], [2, 4, 4, 4], [4, 8, 8, 8]),
    ],
)
def test_rates_at_4(name, multi_grid, layer2, layer3, layer4):
    """v3's Table 13 evaluates there: every stride behind the stem is a rate."""
    found = rates(on_meta(name, 4, multi_grid))
    assert set(found[0]) == {1}
    assert found[1:] == [layer2, layer3, layer4]


@pytest.mark.parametrize(
    ("output_stride", "units_14_to_17", "units_7_to_13"),
    [
        (32, [1] * 4, [1] * 7),
        (16, [1, 2, 2, 2], [1] * 7),
        (8, [2, 4, 4, 4], [1] + [2] * 6),
        (4, [4, 8, 8, 8], [2] + [4] * 6),
    ],
)
def test_rates_of_mobilenetv2(output_stride, units_14_to_17, units_7_to_13):
    found = rates(on_meta("mnv2", output_stride))
    assert found[5] == units_14_to_17
    assert found[3] + found[4] == units_7_to_13


@pytest.mark.parametrize(
    ("name", "multi_grid"),
    [(name, None) for name in ("r_tiny", "r18", "r50_caffe", "x41", "mnv2")]
    + [("r50", (1, 2, 4)), ("r50_beta", (1, 2, 4))]
    + [
        pytest.param(name, None, marks=pytest.mark.slow)
        for name in ("r34", "r50", "r50_beta", "r101_beta", "x65", "x71")
    ]
    + [
        pytest.param(*more, marks=pytest.mark.slow)
        for more in (("r50_caffe", (2, 2, 2)), ("x41", (1, 2, 4)))
    ],
)
def test_atrous_maps_contain_the_strided_ones(name, multi_grid):
    """The same weights give the same value wherever the OS 32 network has one, borders included.

    So the receptive field, too, is the same at any output stride (facts §7.1).
    """
    torch.manual_seed(0)
    strided = BACKBONES[name](output_stride=32, multi_grid=multi_grid).eval()
    random_norms(strided)
    x = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        expected = strided(x)["out"]
        scale = expected.abs().max()
        for output_stride in (4, 8, 16):
            dense = on_meta(name, output_stride, multi_grid).eval()
            dense.load_state_dict(strided.state_dict(), assign=True)
            step = 32 // output_stride
            found = dense(x)["out"][..., ::step, ::step]
            torch.testing.assert_close(found / scale, expected / scale, msg=f"OS {output_stride}")


def torchvision_resnet(depth, dilated):
    make = {
        18: torchvision.models.resnet18,
        34: torchvision.models.resnet34,
        50: torchvision.models.resnet50,
        101: torchvision.models.resnet101,
    }[depth]
    return make(weights=None, replace_stride_with_dilation=dilated)


@pytest.mark.parametrize(
    ("depth", "output_stride"),
    [(18, 32), (34, 32), (50, 32), (50, 16), (50, 8), (101, 8)],
)
def test_parity_with_torchvisions_resnets(depth, output_stride):
    torch.manual_seed(0)
    dilated = [False, output_stride <= 8, output_stride <= 16]
    theirs = torchvision_resnet(depth, dilated if depth >= 50 else None).eval()
    random_norms(theirs)
    ours = resnet(depth, output_stride=output_stride).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 65, 81)
    with torch.inference_mode():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        maps = ours(x)
        for number in (1, 2, 3, 4):
            y = getattr(theirs, f"layer{number}")(y)
            scale = y.abs().max()
            found = maps[f"res{number + 1}"]
            torch.testing.assert_close(found / scale, y / scale, rtol=0, atol=1e-5)


def test_parity_with_torchvisions_mobilenetv2():
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    random_norms(theirs)
    ours = BACKBONES["mnv2"](output_stride=32).eval()
    ours.load_state_dict(_in_our_names(theirs.state_dict(), ours.imagenet), strict=True)
    x = torch.randn(2, 3, 65, 81)
    with torch.inference_mode():
        maps, y = ours(x), x
        for index, layer in enumerate(theirs.features[:18]):
            y = layer(y)
            if key := {3: "res2", 6: "res3", 13: "res4", 17: "res5"}.get(index):
                scale = y.abs().max()
                torch.testing.assert_close(maps[key] / scale, y / scale, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_mobilenetv2s_taps():
    """Facts §4.8: behind layers.3's depthwise convolution, or the unit's output."""
    torch.manual_seed(0)
    released, ports = (
        mobilenetv2(low=low, output_stride=16).eval() for low in ("released", "ports")
    )
    random_norms(released)
    ports.load_state_dict(released.state_dict())
    x = torch.randn(1, 3, 65, 49)
    found, unit = released(x), ports(x)
    expected = released.layers[3].conv[1](released.layers[3].conv[0](released.layers[:3](x)))
    assert torch.equal(found["low"], expected)
    assert (released.features["low"].channels, released.features["low"].stride) == (144, 4)
    assert unit["low"] is unit["res2"]
    assert all(torch.equal(found[key], unit[key]) for key in unit if key != "low")
    with pytest.raises(ConfigError) as fault:
        mobilenetv2(low="sum", output_stride=16)
    assert fault.value.where == "backbone.low"


def test_the_two_styles_share_weights_but_not_values():
    torch.manual_seed(0)
    ours, caffe = (resnet(50, style, output_stride=32).eval() for style in ("torchvision", "caffe"))
    caffe.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        assert torch.equal(ours(x)["res2"], caffe(x)["res2"])
        assert not torch.allclose(ours(x)["res3"], caffe(x)["res3"])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("r_tiny", 0.70),
        ("r18", 11.18),
        ("r34", 21.28),
        ("r50", 23.51),
        ("r101", 42.50),
        ("r50_caffe", 23.51),
        ("r50_beta", 23.63),
        ("r101_beta", 42.62),
        ("mnv2", 1.81),
    ],
)
def test_parameters(name, millions):
    count = sum(p.numel() for p in on_meta(name, 16).parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", BACKBONES)
def test_names_are_those_of_the_configs(name):
    assert on_meta(name, 16).name == name


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("output_stride", [1, 12, 64])
def test_output_strides_are_refused_by_name(name, output_stride):
    with pytest.raises(ConfigError, match=rf"{name} cannot have .*8, 16, 32") as fault:
        on_meta(name, output_stride)
    assert fault.value.where == "os"


@pytest.mark.parametrize("name", WITHOUT_MULTI_GRID)
def test_multi_grid_is_refused_by_name(name):
    assert not on_meta(name, 16).accepts_multi_grid
    with pytest.raises(ConfigError, match=name) as fault:
        on_meta(name, 16, (1, 2, 4))
    assert fault.value.where == "multi_grid"


@pytest.mark.parametrize("name", BOTTLENECKS + XCEPTIONS)
def test_multi_grid_is_accepted(name):
    assert on_meta(name, 16).accepts_multi_grid
    assert on_meta(name, 16).has_bottlenecks == (name in BOTTLENECKS)


@pytest.mark.parametrize(
    ("depth", "style", "key"),
    [
        (51, "torchvision", "depth"),
        (0, "caffe", "depth"),
        (50, "v1d", "style"),
        (18, "caffe", "style"),
        (34, "beta", "style"),
    ],
)
def test_resnets_there_are_none_of(depth, style, key):
    with pytest.raises(ConfigError) as fault:
        resnet(depth, style, output_stride=16)
    assert fault.value.where == f"backbone.{key}"
