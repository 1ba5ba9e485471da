"""Xception against the released code's table (facts §4.7), TensorFlow's padding, and timm."""

from functools import partial

import pytest
import timm
import torch
from network_zoo import BACKBONES, XCEPTIONS, on_meta, photo_or_noise, random_norms, rates
from torch import nn
from torch.nn import functional as F

from segkit.errors import CheckpointError, ConfigError
from segkit.models.atrous import Unit
from segkit.models.backbones.xception import Block, Layout, xception
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter
from segkit.models.weights import load_backbone


@pytest.fixture(scope="module")
def x41():
    """Xception-41 at OS 16 with its own start and batch norms that are no identity; for reading."""
    torch.manual_seed(0)
    net = xception(41, output_stride=16).eval()
    random_norms(net)
    return net


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "millions"), [("x41", 24.921), ("x65", 37.867), ("x71", 40.290)])
def test_parameters(name, millions):
    """Facts §4.4: without a classifier, γ and β counted."""
    assert parameters(on_meta(name, 16)) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_parameters_with_the_v3_head():
    with torch.device("meta"):
        net = build_segmenter(BACKBONES["x65"], DeepLabV3, num_classes=21, output_stride=16)
    assert parameters(net) / 1e6 == pytest.approx(53.408, abs=5e-4)


@pytest.mark.parametrize("name", XCEPTIONS)
def test_layers_are_what_the_name_says(name):
    separable = sum(len(block.stack) for block in on_meta(name, 16).blocks)
    assert 2 + separable == int(name[1:])


# The rates of an entry block behind stride 8, of the middle flow, and of the two exit blocks.
RATES = {
    32: (1, 1, 1, 1),
    16: (1, 1, 1, 2),
    8: (1, 2, 2, 4),
    4: (2, 4, 4, 8),
}


@pytest.mark.parametrize("multi_grid", [None, (1, 1, 1), (1, 2, 4), (1, 2, 1)])
@pytest.mark.parametrize("output_stride", RATES)
@pytest.mark.parametrize("name", XCEPTIONS)
def test_rates(name, output_stride, multi_grid):
    """Facts §4.7; the multi-grid multiplies exit block 2 alone."""
    found = rates(on_meta(name, output_stride, multi_grid))
    entry, middle, first, second = RATES[output_stride]
    entries = 5 if name == "x71" else 3
    behind = 2 if name == "x71" else 1  # entry blocks behind stride 8
    assert found[: entries - behind] == [[1] * 3] * (entries - behind)
    assert found[entries - behind : entries] == [[entry] * 3] * behind
    assert found[entries:-2] == [[middle] * 3] * (8 if name == "x41" else 16)
    assert found[-2:] == [[first] * 3, [second * times for times in multi_grid or (1, 1, 1)]]


@pytest.mark.parametrize(
    ("name", "strided"),
    [("x65", {32: [0, 1, 2, 19], 16: [0, 1, 2], 8: [0, 1], 4: [0]}), ("x71", {16: [0, 2, 4]})],
)
def test_strides(name, strided):
    """The third separable convolution takes it, and the 1×1 beside it."""
    for output_stride, blocks in strided.items():
        for index, block in enumerate(on_meta(name, output_stride).blocks):
            convs = [conv.conv_dw.stride[0] for conv in block.stack]
            assert convs == [1, 1, 2 if index in blocks else 1]
            if block.kind == "conv":
                assert block.shortcut.conv.stride[0] == convs[-1]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_sizes_of_the_released_table(output_stride):
    net = on_meta("x65", output_stride).eval()
    sizes = [net.stem(torch.empty(1, 3, 513, 513, device="meta"))]
    for block in net.blocks:
        sizes.append(block(sizes[-1]))
    rest = 33 if output_stride == 16 else 65
    assert [m.shape[-1] for m in sizes] == [257, 129, 65] + [rest] * 19
    assert [m.shape[1] for m in sizes] == [64, 128, 256] + [728] * 17 + [1024, 2048]


def test_multi_grid_is_for_those_who_ask():
    """v3+ uses none with Xception: auto gives none, and a grid of another length is refused."""
    for asked, given in (("auto", None), ([1, 2, 4], (1, 2, 4))):
        with torch.device("meta"):
            net = build_segmenter(
                BACKBONES["x41"], DeepLabV3, num_classes=2, output_stride=16, multi_grid=asked
            )
        assert net.multi_grid == given
    with pytest.raises(ConfigError, match="3 whole numbers"):
        on_meta("x41", 16, (1, 2))


def test_batch_norms_and_start(x41):
    norms = [m for m in x41.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    convs = [m for m in x41.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == len(norms)
    assert all(conv.bias is None and conv.weight.abs().max() <= 0.18 for conv in convs)
    # The deviation of a normal cut off at twice its own.
    assert torch.cat([c.weight.flatten() for c in convs]).std().item() == pytest.approx(
        0.0792, rel=0.01
    )


def relus(block, x):
    """Whether each of the maps inside ``block`` is negative somewhere: depthwise, pointwise."""
    inputs = []
    hooks = [
        conv.register_forward_pre_hook(lambda _m, i: inputs.append(bool((i[0] < 0).any())))
        for conv in block.modules()
        if isinstance(conv, nn.Conv2d)
    ]
    out = block(x)
    for hook in hooks:
        hook.remove()
    return inputs, bool((out < 0).any())


@torch.inference_mode()
def test_where_the_relus_are(x41):
    """Before each separable convolution; in exit block 2 behind both of its batch norms instead."""
    inputs, out = relus(x41.blocks[0], torch.randn(1, 64, 17, 17))
    # Depthwise sees no negative value, pointwise does (no ReLU between), the shortcut does, too.
    assert inputs == [False, True] * 3 + [True]
    assert out  # no ReLU behind the sum
    assert relus(x41.blocks[5], torch.randn(1, 728, 9, 9)) == ([False, True] * 3, True)
    assert relus(x41.blocks[-1], torch.randn(1, 1024, 9, 9)) == ([True] + [False] * 5, False)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "low"),
    [
        ("x41", "ports"),
        ("x71", "released"),
        pytest.param("x41", "released", marks=pytest.mark.slow),
        pytest.param("x71", "ports", marks=pytest.mark.slow),
    ],
)
def test_low(name, low):
    """Facts §4.8: block 2's second pointwise norm (block 3's in 71), or the block before."""
    torch.manual_seed(0)
    net = xception(int(name[1:]), low=low, output_stride=16).eval()
    random_norms(net)
    seen = {}
    striding = 2 if name == "x71" else 1
    tapped = net.blocks[striding].stack.conv2 if low == "released" else net.blocks[striding - 1]
    # A copy: that nothing later writes into the tapped map is part of what is tested.
    tapped.register_forward_hook(lambda _m, _i, y: seen.update(low=y.clone()))
    maps = net(torch.randn(1, 3, 33, 49))
    assert torch.equal(maps["low"], seen["low"])
    assert (maps["low"] < 0).any()
    channels = 128 if low == "ports" and name != "x71" else 256
    assert (net.features["low"].channels, net.features["low"].stride) == (channels, 4)
    assert torch.equal(maps["res2"], maps["low"]) == (low == "ports")


def test_the_tap_survives_training():
    """Gradients through the tap and the output agree with a block that never writes in place."""
    torch.manual_seed(0)
    units = [Unit(1, 1, 1), Unit(1, 1, 1), Unit(2, 1, 1)]
    block = Block(4, Layout((8, 8, 8), 2, "conv"), units, tapped=True)
    x = torch.randn(2, 4, 9, 9)

    def gradient():
        block.zero_grad()
        before = block.before_stride(x)
        (block.join(before, x).square().mean() + before.square().mean()).backward()
        return block.stack.conv1.conv_dw.weight.grad.clone()

    found = gradient()
    for conv in block.stack:
        conv.keeps_input = True
    assert torch.equal(found, gradient())


@pytest.mark.parametrize("rate", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [513, 257, 129, 65, 33, 321, 769])
def test_same_padding_is_symmetric_on_odd_sizes(size, stride, rate):
    """TensorFlow's rule: enough zeros for ceil(n / s) outputs, the odd one out at the end."""
    if stride > 1 and rate > 1:
        return  # no layer has both
    extent = 2 * rate + 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    assert (total // 2, total - total // 2) == (rate, rate)


@torch.inference_mode()
@pytest.mark.parametrize(("size", "same"), [(65, True), (64, False)])
def test_same_padding_differs_on_even_sizes_only(size, same):
    conv = on_meta("x65", 32).blocks[0].stack.conv3.conv_dw
    torch.manual_seed(0)
    weight, x = torch.randn(conv.weight.shape), torch.randn(1, 128, size, size)
    ours = F.conv2d(x, weight, stride=2, padding=conv.padding, groups=128)
    total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
    padded = F.pad(x, [total // 2, total - total // 2] * 2)
    assert torch.allclose(ours, F.conv2d(padded, weight, stride=2, groups=128), atol=1e-5) == same


def pair(layers, output_stride):
    """timm's and ours with the same random weights: the keys are the same but for its head."""
    torch.manual_seed(0)
    theirs = timm.create_model(
        f"xception{layers}", pretrained=False, output_stride=output_stride
    ).eval()
    random_norms(theirs)
    ours = xception(layers, output_stride=output_stride).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("head.")}
    ours.load_state_dict(state, strict=True)
    return theirs, ours


# timm drops the shortcut convolution of 71's fifth block where its stride is gone (728 to 728).
@pytest.mark.parametrize(
    ("layers", "output_stride"),
    [
        (41, 8),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in ((41, 32), (41, 16), (65, 16), (71, 16), (71, 32))
        ),
    ],
)
@torch.inference_mode()
def test_parity_with_timm(layers, output_stride):
    theirs, ours = pair(layers, output_stride)
    x = photo_or_noise(129, ours.pixels)
    maps = ours(x)
    expected, taps = theirs.forward_intermediates(x, output_fmt="NCHW")
    for found, y in ((maps["out"], expected), (maps["low"].relu(), taps[1].relu())):
        scale = y.abs().max()
        torch.testing.assert_close(found / scale, y / scale, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_timms_files_load_as_they_are(tmp_path):
    theirs, ours = pair(41, 16)
    torch.save(theirs.state_dict(), tmp_path / "tf_xception_41.pth")
    again = xception(41, output_stride=8)
    origin = load_backbone(again, str(tmp_path / "tf_xception_41.pth"), source=again.imagenet)
    assert origin.not_loaded == ()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in ours.state_dict().items())


def test_a_missing_file_is_named_with_its_address(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = on_meta("x65", 16)
    with pytest.raises(CheckpointError, match=r"tf_xception_65-c9ae96e8\.pth"):
        load_backbone(net, "imagenet", source=net.imagenet)


@pytest.mark.parametrize(("layers", "low", "key"), [(66, "ports", "layers"), (65, "sum", "low")])
def test_there_is_no_other_xception(layers, low, key):
    with pytest.raises(ConfigError) as fault:
        xception(layers, low=low, output_stride=16)
    assert fault.value.where == f"backbone.{key}"


@pytest.mark.parametrize(
    "mode",
    ["train", *(pytest.param(m, marks=pytest.mark.slow) for m in ("frozen_stats", "frozen"))],
)
def test_two_steps_in_every_batch_norm_mode(mode):
    torch.manual_seed(0)
    net = build_segmenter(
        BACKBONES["x41"], partial(DeepLabV3, channels=8), num_classes=3, output_stride=16
    ).to(memory_format=torch.channels_last)
    net.set_batch_norm(mode)
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    labels = torch.randint(3, (2, 33, 33))
    for _ in range(2):
        images = torch.randn(2, 3, 33, 33).to(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)


@torch.inference_mode()
def test_any_image_size(x41):
    for size in ((1, 1), (2, 40), (33, 1), (64, 48)):
        maps = x41(torch.randn(1, 3, *size))
        assert list(maps["out"].shape[2:]) == [(side - 1) // 16 + 1 for side in size]
