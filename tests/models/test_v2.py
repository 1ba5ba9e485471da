"""DeepLab v2: ASPP in sums, on VGG and on a ResNet, at one scale and at three."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from network_zoo import BACKBONES, random_norms
from torch import nn
from torch.nn import functional as F

from segkit import cli, parts, recipe
from segkit.config import compose
from segkit.errors import ConfigError
from segkit.models.contracts import Feature
from segkit.models.heads.v2 import DeepLabV2
from segkit.models.segmenter import Segmenter, build_segmenter
from segkit.models.weights import load_backbone
from segkit.optim import assign

NAMES = ["v2", "v2_linear", "v2_vgg", "v2_aspp_s", "v2_largefov"]
RESNET = {"out": Feature(16, 8)}
VGG = {"out": Feature(16, 8), "pool4": Feature(16, 8)}
L = [6, 12, 18, 24]
S = [2, 4, 8, 12]


@functools.cache
def values_of(*words: str) -> dict[str, Any]:
    return compose("train", words).values


def on_meta(name: str, *words: str, output_stride: int = 8) -> Segmenter:
    with torch.device("meta"):
        return parts.network_of(values_of(f"model={name}", *words), 21, output_stride)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_papers():
    """Facts §2.1: 37.88M on VGG, 1.548M behind a ResNet; LargeFOV is v1's (20.505M)."""
    assert count(on_meta("v2_vgg")) == count(on_meta("v2_aspp_s")) == 37_877_652
    assert count(on_meta("v2_largefov")) == 20_505_429
    assert count(on_meta("v2").head) == 1_548_372
    assert count(on_meta("v2", "backbone=vgg16")) == 37_877_652
    assert count(on_meta("v2_linear").head) == 2048 * 21 + 21


def rates(net: Segmenter) -> list[int]:
    convs = [branch.fc6 if hasattr(branch, "fc6") else branch.fc8 for branch in net.head.branches]
    assert all(conv.kernel_size == (3, 3) and conv.padding == conv.dilation for conv in convs)
    return [conv.dilation[0] for conv in convs]


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("v2", (), L),
        ("v2_vgg", (), L),
        ("v2_aspp_s", (), S),
        ("v2_aspp_s", ("backbone=r50_caffe",), S),
        ("v2_largefov", (), [12]),
        ("v2_largefov", ("backbone=r101_caffe",), [12]),
    ],
)
def test_rates(name, words, expected):
    assert rates(on_meta(name, *words)) == expected
    assert rates(on_meta(name, *words, output_stride=4)) == [2 * rate for rate in expected]
    assert rates(on_meta(name, *words, output_stride=16)) == [rate // 2 for rate in expected]


@pytest.mark.parametrize(
    ("features", "branch", "expected"),
    [
        (VGG, "auto", ["fc6", "fc7", "fc8"]),
        (RESNET, "auto", ["fc8"]),
        (VGG, "conv", ["fc8"]),
        (RESNET, "fc", ["fc6", "fc7", "fc8"]),
    ],
)
def test_branches_are_what_the_backbone_needs(features, branch, expected):
    head = DeepLabV2(features, 5, output_stride=8, rates=[2, 4], branch=branch, channels=8)
    for part in head.branches:
        named = dict(part.named_modules())
        convs = [name for name, module in named.items() if isinstance(module, nn.Conv2d)]
        assert convs == expected
        assert named["fc8"].weight.std().item() == pytest.approx(0.01, rel=0.35)
        assert not named["fc8"].bias.any()
    names = [name for name, _ in head.named_parameters()]
    classifier = [name for name in names if name.startswith(head.classifier_prefixes)]
    assert classifier == [name for name in names if "fc8" in name]


@pytest.mark.parametrize("features", [VGG, RESNET])
def test_the_scores_of_the_branches_are_summed(features):
    head = DeepLabV2(features, 5, output_stride=8, rates=S, channels=8).eval()
    x = torch.randn(2, 16, 9, 7)
    expected = torch.stack([branch(x) for branch in head.branches]).sum(0)
    torch.testing.assert_close(head({"out": x})["out"], expected)


@pytest.mark.parametrize(
    ("name", "words", "output_stride", "found"),
    [
        ("v2", ("model.rates=[6,9]",), 16, r"model\.rates: .*4\.5"),
        ("v2", ("model.branch=fire",), 8, r"model\.branch: 'fire' is not one of auto, fc, conv"),
        ("v2_vgg", ("model.rates=[]",), 8, r"model\.rates: is empty.*branch=conv"),
        ("v2_vgg", ("model.channels=0",), 8, r"model\.channels"),
        ("v2_vgg", ("multi_grid=1-2-4",), 8, "vgg16 cannot have a multi-grid"),
        ("v2", ("model.msc=3",), 8, r"model\.msc"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, words, output_stride, found):
    with pytest.raises(ConfigError) as fault:
        on_meta(name, *words, output_stride=output_stride)
    assert re.search(found, fault.value.line()), fault.value.line()


# -- three scales ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v2", "v2_vgg", "v2_linear", "v2_largefov"])
@pytest.mark.parametrize(
    ("side", "inputs", "sizes"),
    [(513, [513, 385, 257], [65, 49, 33]), (321, [321, 241, 161], [41, 31, 21])],
)
def test_sizes_of_the_scales(name, side, inputs, sizes):
    """Facts §2.8."""
    net = on_meta(name, "model.msc=true")
    seen: list[int] = []
    net.backbone.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[-1]))
    scores = net.scores(torch.empty(1, 3, side, side, device="meta"))
    assert seen == inputs
    assert {key: list(score.shape) for key, score in scores.items()} == {
        "out": [1, 21, sizes[0], sizes[0]],
        "scale_1": [1, 21, sizes[0], sizes[0]],
        "scale_075": [1, 21, sizes[1], sizes[1]],
        "scale_05": [1, 21, sizes[2], sizes[2]],
    }


def tiny(msc: bool = True, **arguments: object) -> Segmenter:
    torch.manual_seed(0)
    head = functools.partial(DeepLabV2, rates=[2, 4], msc=msc, **arguments)
    net = build_segmenter(BACKBONES["r_tiny"], head, num_classes=5, output_stride=8)
    random_norms(net)
    for branch in net.head.branches:
        nn.init.normal_(branch.fc8.weight, std=0.3)
    return net


@pytest.mark.parametrize("training", [True, False])
def test_the_maximum_over_scales_with_shared_weights(training):
    """The same in training and at test (batch norm fixed, as the recipe has it)."""
    net, plain = tiny().train(training), tiny(msc=False).train(training)
    net.set_batch_norm("frozen")
    plain.set_batch_norm("frozen")
    assert net.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        scores = net.scores(x)
        own = []
        for size in ((65, 97), (49, 73), (33, 49)):
            scaled = F.interpolate(x, size, mode="bilinear", align_corners=True)
            own.append(plain.scores(scaled)["out"])
        for name, expected in zip(("scale_1", "scale_075", "scale_05"), own, strict=True):
            torch.testing.assert_close(scores[name], expected)
        full = [F.interpolate(s, (9, 13), mode="bilinear", align_corners=True) for s in own]
        expected = torch.stack(full).amax(0)
        torch.testing.assert_close(scores["out"], expected)
        winners = torch.stack(full).argmax(0).flatten().bincount(minlength=3)
        assert (winners > 0).all(), "each scale must win somewhere, or this shows nothing"
        upsampled = F.interpolate(expected, (65, 97), mode="bilinear", align_corners=True)
        torch.testing.assert_close(net(x), upsampled)


@pytest.mark.parametrize("only", ["out", "scale_1", "scale_075", "scale_05"])
def test_every_parameter_has_a_gradient_through_any_of_the_scores(only):
    """What DistributedDataParallel needs, whatever the loss."""
    net = tiny()
    net.set_batch_norm("frozen")
    net.scores(torch.randn(1, 3, 65, 65))[only].square().sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (64, 48)])
def test_any_image_size(size):
    assert tiny().eval()(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_bfloat16_scores_are_fused_in_float32():
    net = tiny().eval()
    x = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        expected = net.scores(x)["out"]
        with torch.autocast("cpu", torch.bfloat16):
            found = net.scores(x)["out"]
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


# -- weights and recipes -----------------------------------------------------------------------


def test_every_branch_starts_from_the_same_fc6_and_fc7(tmp_path: Path):
    from test_v1 import classifier_file, narrow, written

    def fresh() -> Segmenter:
        backbone = narrow()
        head = DeepLabV2(backbone.features, 5, output_stride=8, rates=S, channels=4)
        return Segmenter(backbone, head, num_classes=5, output_stride=8, multi_grid=None)

    tensors = classifier_file()
    net = fresh()
    path = written(tmp_path, tensors)
    origin = load_backbone(net.backbone, path, source=net.backbone.imagenet, head=net.head)
    assert origin.not_loaded == ()
    assert origin.keys_loaded == len(net.backbone.state_dict()) + 4 * 4
    whole = tensors["classifier.0.weight"].view(16, 512, 7, 7)
    for branch in net.head.branches:
        assert torch.equal(branch.fc6.weight, whole[::4, :, ::3, ::3])
        assert branch.fc7.bias.tolist() == [0, -4, -8, -12]
    net = fresh()
    path = written(tmp_path, {k: v for k, v in tensors.items() if "features" in k})
    origin = load_backbone(net.backbone, path, source=net.backbone.imagenet, head=net.head)
    assert len(origin.not_loaded) == 4 * 4
    assert origin.not_loaded[-1] == "head.branches.3.fc7.bias"


@pytest.mark.parametrize("name", NAMES)
def test_multipliers(name):
    """Facts §2.8 and §2.9: fc8 of every branch at 10/20, batch norm fixed, no decay on biases."""
    values = values_of(f"model={name}")
    for key, rule in assign(on_meta(name), parts.rules_of(values)).items():
        bias, norm = key.endswith("bias"), ".bn" in key or "downsample.1" in key
        if ".fc8." in key:
            assert (rule.lr, rule.decay) == ((20, 0) if bias else (10, 1)), key
        elif norm:
            assert (rule.lr, rule.decay) == (0, 0), key
        else:
            assert (rule.lr, rule.decay) == ((2, 0) if bias else (1, 1)), key


@pytest.mark.parametrize(
    ("name", "lr", "bn", "scales"),
    [("v2", 2.5e-4, "frozen", (0.5, 1.5, 0.25)), ("v2_vgg", 1e-3, "train", (1, 1, 0))],
)
def test_the_recipes(name, lr, bn, scales):
    values = values_of(f"model={name}")
    schedule, augment = values["schedule"], values["augment"]
    assert (schedule["policy"], schedule["power"]) == ("poly", 0.9)
    assert (schedule["batch"], schedule["momentum"], schedule["weight_decay"]) == (10, 0.9, 5e-4)
    assert [(s["steps"], s["lr"], s["bn"]) for s in schedule["stages"]] == [(20000, lr, bn)]
    assert augment["crop"] == 321
    assert (augment["scale_min"], augment["scale_max"], augment["scale_step"]) == scales


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("msc", ["false", "true"])
def test_every_config_is_sound(name, msc):
    values = values_of(f"model={name}", f"model.msc={msc}", "dataset=shapes")
    recipe.check(values, parts.check_network(values))
    assert values["model"]["name"] == name
    assert values["loss"]["name"] == "msc"


TINY = [
    *("dataset=shapes", "dataset.size=65", "dataset.count=4", "dataset.val={count: 2}"),
    *("augment.crop=65", "schedule.batch=2", "workers=0", "log.tensorboard=false"),
    *("eval.every=2", "pretrained=none", "name=x", "device=cpu"),
]


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_steps_at_three_scales(accumulate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "backbone=r_tiny", "model.msc=true", f"schedule.accumulate={accumulate}"]
    words += ["schedule.stages=[{name: a, steps: 2, lr: 0.01, bn: frozen}]"]
    assert cli.main(["train", "model=v2", *words]) == 0
    assert cli.main(["eval", "ckpt=runs/x", "workers=0", "ms=true", "tta.fusion=max"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("msc", ["false", "true"])
def test_every_config_takes_two_steps(name, msc, tmp_path, monkeypatch):
    """Batch norm in training: frozen, a random ResNet-101 has no scale to speak of."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, f"model.msc={msc}", "model.channels=64"]
    words += ["schedule.stages=[{name: a, steps: 2, lr: 0.001, bn: train}]"]
    assert cli.main(["train", f"model={name}", *words]) == 0
