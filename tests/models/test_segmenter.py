"""The joint: multi-grid resolved, batch norm in three meanings, formats and devices."""

import copy
from functools import partial

import pytest
import torch
from network_zoo import BACKBONES, BOTTLENECKS, WITHOUT_MULTI_GRID
from torch import nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models.contracts import Head
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter

small_head = partial(DeepLabV3, channels=8)


def tiny(output_stride: int = 16, head=small_head, **arguments):
    torch.manual_seed(0)
    return build_segmenter(
        BACKBONES["r_tiny"], head, num_classes=5, output_stride=output_stride, **arguments
    )


def whole_networks():
    """Every network at 16 and the light ones everywhere; the others run with the slow tests."""
    for name in BACKBONES:
        light = name in ("r_tiny", "r18", "r50_caffe", "mnv2")
        for stride in (4, 8, 16, 32):
            marks = () if light or stride == 16 else pytest.mark.slow
            yield pytest.param(name, stride, marks=marks)


@pytest.mark.parametrize(("name", "output_stride"), list(whole_networks()))
def test_whole_networks_on_meta(name, output_stride):
    with torch.device("meta"):
        net = build_segmenter(
            BACKBONES[name], DeepLabV3, num_classes=21, output_stride=output_stride
        ).eval()
    images = torch.empty(2, 3, 321, 513, device="meta")
    assert net.scores(images)["out"].shape == (
        2,
        21,
        320 // output_stride + 1,
        512 // output_stride + 1,
    )
    assert net(images).shape == (2, 21, 321, 513)
    assert (net.num_classes, net.output_stride) == (21, output_stride)


@pytest.mark.parametrize("name", BACKBONES)
def test_auto_multi_grid(name):
    with torch.device("meta"):
        net = build_segmenter(BACKBONES[name], DeepLabV3, num_classes=2, output_stride=16)
    assert net.multi_grid == ((1, 2, 4) if name in BOTTLENECKS else None)


def test_auto_equals_what_it_resolves_to():
    with torch.device("meta"):
        auto, explicit = (
            build_segmenter(
                BACKBONES["r50_caffe"], DeepLabV3, num_classes=2, output_stride=8, multi_grid=grid
            )
            for grid in ("auto", [1, 2, 4])
        )
    assert auto.multi_grid == explicit.multi_grid == (1, 2, 4)
    for net in (auto, explicit):
        assert [unit.conv2.dilation[0] for unit in net.backbone.layer4] == [4, 8, 16]


@pytest.mark.parametrize("name", WITHOUT_MULTI_GRID)
def test_explicit_multi_grid_where_there_is_none(name):
    with pytest.raises(ConfigError) as fault:
        build_segmenter(
            BACKBONES[name], small_head, num_classes=2, output_stride=16, multi_grid=(1, 2, 4)
        )
    assert fault.value.id == "CFG-MULTI-GRID"


def test_asking_for_the_multi_grid_leaves_the_random_state_alone():
    torch.manual_seed(0)
    with_auto = build_segmenter(BACKBONES["r50"], small_head, num_classes=2, output_stride=16)
    torch.manual_seed(0)
    without = build_segmenter(
        BACKBONES["r50"], small_head, num_classes=2, output_stride=16, multi_grid=None
    )
    for key, value in with_auto.state_dict().items():
        assert torch.equal(value, without.state_dict()[key]), key


def test_same_weights_at_any_output_stride():
    first, *others = (tiny(output_stride) for output_stride in (4, 8, 16, 32))
    for net in others:
        net.load_state_dict(first.state_dict(), strict=True)


def test_forward_is_out_resized_once_with_aligned_corners():
    net = tiny().eval()
    images = torch.randn(2, 3, 65, 49)
    out = net.scores(images)["out"]
    expected = F.interpolate(out, (65, 49), mode="bilinear", align_corners=True)
    assert torch.equal(net(images), expected)
    # Aligned corners on 16k + 1: every 16th pixel IS a score.
    torch.testing.assert_close(net(images)[..., ::16, ::16], out, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (33, 1), (64, 48)])
def test_any_image_size_in_eval(size):
    assert tiny().eval()(torch.randn(1, 3, *size)).shape == (1, 5, *size)


class Deep(Head):
    """Strides on where the backbone ends, as a cascade does."""

    written_for = 16
    max_backbone_stride = 32

    def __init__(self, features, num_classes, *, output_stride):
        super().__init__()
        taken = output_stride // features["out"].stride
        self.classifier = nn.Conv2d(features["out"].channels, num_classes, 1, stride=taken)

    def forward(self, maps):
        return {"out": self.classifier(maps["out"])}


@pytest.mark.parametrize(("output_stride", "backbone"), [(8, 8), (32, 32), (128, 32)])
def test_a_head_may_stride_on(output_stride, backbone):
    net = tiny(output_stride, Deep).eval()
    assert net.backbone.features["out"].stride == backbone
    assert net.scores(torch.randn(1, 3, 257, 257))["out"].shape[-1] == 256 // output_stride + 1
    assert (net.output_stride, net.multi_grid) == (output_stride, None)


def test_a_function_is_no_head():
    with pytest.raises(TypeError, match="Head class"):
        tiny(head=lambda *_args, **_kwargs: None)


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def statistics(net):
    return [(n.running_mean.clone(), n.running_var.clone()) for n in norms(net)]


def moved(before, net):
    return [
        not (torch.equal(mean, m) and torch.equal(var, v))
        for (mean, var), (m, v) in zip(before, statistics(net), strict=True)
    ]


def step(net):
    """One training forward and backward, entered the way every loop enters it."""
    net.train()
    net.zero_grad()
    net(torch.randn(2, 3, 33, 33)).square().mean().backward()


@pytest.mark.parametrize(
    ("mode", "statistics_move", "affine_learns"),
    [("train", True, True), ("frozen_stats", False, True), ("frozen", False, False)],
)
def test_batch_norm_modes(mode, statistics_move, affine_learns):
    net = tiny()
    net.set_batch_norm(mode)
    before = statistics(net)
    net.eval()
    step(net)
    assert moved(before, net) == [statistics_move] * len(before)
    affine = [p for n in norms(net) for p in (n.weight, n.bias)]
    assert all(p.requires_grad == affine_learns for p in affine)
    assert all((p.grad is not None) == affine_learns for p in affine)
    assert net.training
    assert net.head.dropout.training
    assert not any(n.training for n in norms(net.eval()))


@pytest.mark.parametrize("mode", ["frozen_stats", "frozen"])
@pytest.mark.parametrize("wrap", [lambda net: nn.Sequential(net), copy.deepcopy])
def test_the_freeze_survives(mode, wrap):
    net = tiny()
    net.set_batch_norm(mode)
    wrapped = wrap(net)
    for training in (True, False, True):
        wrapped.train(training)
    assert not any(n.training for n in norms(wrapped))


def test_the_freeze_survives_sync_batch_norm():
    net = tiny()
    net.set_batch_norm("frozen_stats")
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net).train()
    synced = [m for m in net.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(synced) == len(norms(tiny()))
    assert not any(n.training for n in synced)


def test_freezing_takes_hold_at_once_and_thaws_again():
    net = tiny().train()
    net.set_batch_norm("frozen")
    assert not any(n.training for n in norms(net))
    net.set_batch_norm("train")
    assert all(n.training and n.weight.requires_grad for n in norms(net))


def test_momentum():
    net = tiny()
    net.set_batch_norm("train", 3e-4)
    assert {n.momentum for n in norms(net)} == {3e-4}
    net.set_batch_norm("frozen_stats")
    assert {n.momentum for n in norms(net)} == {3e-4}


def test_unknown_mode_changes_nothing():
    net = tiny()
    with pytest.raises(ConfigError, match="train, frozen_stats, frozen"):
        net.set_batch_norm("eval")
    assert net.batch_norm_mode == "train"


@pytest.mark.parametrize(
    ("image_pooling", "mode", "fewest"),
    [(True, "train", 2), (True, "frozen_stats", 1), (True, "frozen", 1), (False, "train", 1)],
)
def test_min_train_batch_is_what_torch_really_takes(image_pooling, mode, fewest):
    net = tiny(head=partial(small_head, image_pooling=image_pooling)).train()
    net.set_batch_norm(mode)
    assert net.min_train_batch == fewest
    net(torch.randn(fewest, 3, 33, 33))
    if fewest > 1:
        with pytest.raises(ValueError, match="more than 1 value"):
            net(torch.randn(1, 3, 33, 33))


def test_classifier_prefixes_find_the_classifier():
    net = tiny()
    found = [n for n, _ in net.named_parameters() if n.startswith(net.classifier_prefixes)]
    assert found == ["head.classifier.weight", "head.classifier.bias"]


def test_pixels_are_the_backbones():
    assert tiny().pixels.mean == (0.485, 0.456, 0.406)
    assert tiny().pixels.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", ["r_tiny", "mnv2"])
def test_channels_last(name):
    torch.manual_seed(0)
    net = build_segmenter(BACKBONES[name], small_head, num_classes=5, output_stride=16).eval()
    x = torch.randn(2, 3, 65, 65)
    with torch.inference_mode():
        expected = net(x)
        found = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_gives_float32_logits():
    net = tiny().eval()
    x = torch.randn(2, 3, 65, 65)
    with torch.inference_mode():
        expected = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert net.scores(x)["out"].dtype == torch.bfloat16
            found = net(x)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    step(net)


def test_double_stays_double():
    assert tiny().double().eval()(torch.randn(1, 3, 33, 33).double()).dtype == torch.float64
