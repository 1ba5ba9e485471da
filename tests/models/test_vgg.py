"""VGG-16: torchvision's values, the released network's sizes and rates."""

import pytest
import torch
import torchvision
from test_real_weights import given, photo
from torch import nn

from segkit.errors import ConfigError
from segkit.models.backbones.vgg import VGG16, Pool, vgg16
from segkit.models.weights import _in_our_names, load_backbone

# Where torchvision's ``features`` and our maps are the same thing.
TAPS = {
    "pool1": 4, "pool2": 9, "pool3": 16, "pool4": 23, "res2": 15, "res3": 22, "res4": 29, "out": 30,
}  # fmt: skip


def on_meta(output_stride: int, **arguments: object) -> VGG16:
    with torch.device("meta"):
        return vgg16(output_stride=output_stride, **arguments)


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [part for part in net.modules() if isinstance(part, nn.Conv2d)]


def test_thirteen_convolutions_with_biases():
    convs = convolutions(on_meta(8))
    assert len(convs) == 13
    assert all(conv.bias is not None and conv.kernel_size == (3, 3) for conv in convs)
    assert sum(p.numel() for p in on_meta(8).parameters()) == 14_714_688


@pytest.mark.parametrize(
    ("output_stride", "conv4", "conv5"), [(32, 1, 1), (16, 1, 1), (8, 1, 2), (4, 2, 4)]
)
def test_rates(output_stride, conv4, conv5):
    """Facts §1.1: conv5 looks at rate 2 where pool4 no longer strides."""
    convs = convolutions(on_meta(output_stride))
    assert [c.dilation[0] for c in convs] == [1] * 7 + [conv4] * 3 + [conv5] * 3
    assert all(conv.padding == conv.dilation for conv in convs)


@pytest.mark.parametrize("arguments", [{}, {"pool": 2}, {"average_pool": True}])
@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_maps_are_what_the_features_say(output_stride, arguments):
    net = on_meta(output_stride, **arguments)
    for size in ((513, 513), (321, 513), (129, 129), (128, 97), (1, 2)):
        maps = net(torch.empty(1, 3, *size, device="meta"))
        assert maps.keys() == net.features.keys()
        for key, feature in net.features.items():
            expected = [(side - 1) // feature.stride + 1 for side in size]
            assert list(maps[key].shape[1:]) == [feature.channels, *expected], key
    assert net.features["low"].stride == 4
    assert net.features["out"].stride == output_stride


@pytest.mark.parametrize(("side", "sizes"), [(321, [161, 81, 41]), (513, [257, 129, 65])])
def test_sizes_of_the_released_network(side, sizes):
    maps = on_meta(8)(torch.empty(1, 3, side, side, device="meta"))
    found = [maps[f"pool{n}"].shape[-1] for n in (1, 2, 3, 4)]
    assert found == [*sizes, sizes[-1]]
    assert maps["out"].shape[-1] == sizes[-1]


def receptive_field(net: VGG16, name: str, side: int) -> int:
    """Rows of the image that the middle of a map depends on, by the gradient's support."""
    for index, layer in enumerate(net.layers):
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
        elif isinstance(layer, Pool):
            # A maximum has the gradient of one winner only; a mean shows the whole window.
            net.layers[index] = nn.AvgPool2d(layer.kernel, layer.stride, padding=1)
    x = torch.ones(1, 3, side, side, dtype=torch.double, requires_grad=True)
    y = net.double()(x)[name]
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    return int((x.grad.abs().sum((0, 1, 3)) > 0).sum())


def narrow(monkeypatch, **arguments) -> VGG16:
    """One channel everywhere: where it looks has nothing to do with how wide it is."""
    monkeypatch.setattr(
        "segkit.models.backbones.vgg._BLOCKS", tuple((1, n) for n in (2, 2, 3, 3, 3))
    )
    return vgg16(**arguments)


def test_receptive_field_of_the_released_network(monkeypatch):
    """Facts §7.1: 227 at pool5 with holes and 3x3 pools; pool5a adds two steps of 8."""
    assert receptive_field(narrow(monkeypatch, output_stride=8), "out", 321) == 227
    wide = narrow(monkeypatch, output_stride=8, average_pool=True)
    assert receptive_field(wide, "out", 321) == 243


@pytest.mark.parametrize("pool", [2, 3])
def test_atrous_maps_contain_the_strided_ones(pool):
    """Up to pool5's input: same weights, same values wherever the OS 32 network has one."""
    torch.manual_seed(0)
    strided = vgg16(pool, output_stride=32).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        expected = strided(x)["res4"]
        scale = expected.abs().max()
        dense = on_meta(8, pool=pool)
        dense.load_state_dict(strided.state_dict(), assign=True)
        found = dense(x)["res4"][..., ::2, ::2]
        torch.testing.assert_close(found / scale, expected / scale)


def same_as_torchvision(ours: VGG16, theirs: nn.Module, x: torch.Tensor, atol: float) -> None:
    with torch.inference_mode():
        maps, y, found = ours(x), x, {}
        for index, layer in enumerate(theirs.features):
            y = layer(y.clone())
            found[index] = y
    for key, index in TAPS.items():
        scale = found[index].abs().max()
        torch.testing.assert_close(
            maps[key] / scale, found[index] / scale, rtol=0, atol=atol, msg=key
        )


def test_parity_with_torchvision():
    torch.manual_seed(0)
    theirs = torchvision.models.VGG(
        torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]),
        num_classes=2,
        init_weights=False,
    ).eval()
    ours = vgg16(2, output_stride=32).eval()
    tensors = _in_our_names(theirs.state_dict(), ours.imagenet)
    ours.load_state_dict(tensors, strict=True)
    same_as_torchvision(ours, theirs, torch.randn(1, 3, 64, 96), 1e-5)


@pytest.mark.data
def test_parity_with_torchvision_on_a_photo():
    """On the given ImageNet weights."""
    given("SEGKIT_WEIGHTS", "vgg16_caffe_keras_conv_fp16.pth")
    ours = vgg16(2, output_stride=32).eval()
    origin = load_backbone(ours, "imagenet", source=ours.imagenet)
    assert (origin.keys_loaded, origin.not_loaded) == (26, ())
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]).eval()
    layers.load_state_dict(ours.layers.state_dict())
    theirs = nn.Module()
    theirs.features = layers
    same_as_torchvision(ours, theirs, photo("bird", 224, ours.pixels), 1e-4)


def test_pool5a_is_caffes_average():
    """Over nine positions everywhere: zeros of the padding count."""
    with_it, without = (vgg16(average_pool=a, output_stride=8).eval() for a in (True, False))
    assert with_it.state_dict().keys() == without.state_dict().keys()
    without.load_state_dict(with_it.state_dict())
    x = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        padded = nn.functional.pad(without(x)["out"], (1, 1, 1, 1))
        expected = padded.unfold(2, 3, 1).unfold(3, 3, 1).mean((-1, -2))
        torch.testing.assert_close(with_it(x)["out"], expected)


def test_no_multi_grid_and_no_other_strides():
    with pytest.raises(ConfigError, match=r"vgg16 cannot have a multi-grid.*") as fault:
        on_meta(8, multi_grid=(1, 2, 4))
    assert "multi_grid=none" in fault.value.fix
    for output_stride in (1, 12, 64):
        with pytest.raises(ConfigError, match="vgg16 cannot have") as fault:
            on_meta(output_stride)
        assert fault.value.fix == "one of 4, 8, 16, 32"
