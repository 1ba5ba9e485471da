"""DeepLab v1: Table 2's four networks, their MSc, and what a classifier's file starts."""

import functools
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segkit import cli, parts, recipe
from segkit.config import compose
from segkit.errors import CheckpointError, ConfigError
from segkit.models.backbones import vgg
from segkit.models.backbones.vgg import VGG16
from segkit.models.heads.v1 import TAPS, DeepLabV1
from segkit.models.segmenter import Segmenter
from segkit.models.weights import Origin, load_backbone
from segkit.optim import assign


@functools.cache
def values_of(*words: str) -> dict[str, Any]:
    return compose("train", words).values


def on_meta(name: str, *words: str, output_stride: int = 8) -> Segmenter:
    with torch.device("meta"):
        return parts.network_of(values_of(f"model={name}", *words), 21, output_stride)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("v1_7x7", 134_346_581),  # facts §1.2: 134.347M
        ("v1_4x4", 65_140_565),  # 65.141M
        ("v1_4x4_r8", 65_140_565),
        ("v1", 20_505_429),  # 20.505M
    ],
)
def test_parameters_of_the_papers(name, count):
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


@pytest.mark.parametrize(
    ("name", "kernel", "rate", "channels"),
    [
        ("v1_7x7", 7, 4, 4096),
        ("v1_4x4", 4, 4, 4096),
        ("v1_4x4_r8", 4, 8, 4096),
        ("v1", 3, 12, 1024),
    ],
)
@pytest.mark.parametrize("variant", ["", "_msc"])
def test_table_2(name, kernel, rate, channels, variant):
    net = on_meta(name + variant)
    fc = net.head.fc
    assert (fc.fc6.kernel_size[0], fc.fc6.dilation[0]) == (kernel, rate)
    assert (fc.fc6.out_channels, fc.fc7.out_channels) == (channels, channels)
    assert fc.dropout.p == 0.5
    assert list(net.head.taps) == (list(TAPS) if variant else [])
    assert (net.backbone.pool5a is not None) == (name == "v1")
    assert (net.output_stride, net.multi_grid) == (8, None)
    for side, scores in ((321, 41), (513, 65), (97, 13)):
        images = torch.empty(1, 3, side, side, device="meta")
        assert net.scores(images)["out"].shape == (1, 21, scores, scores)


@pytest.mark.parametrize(("output_stride", "rate"), [(4, 24), (8, 12), (16, 6), (32, 3)])
def test_rate_and_taps_follow_the_output_stride(output_stride, rate):
    net = on_meta("v1_msc", output_stride=output_stride)
    assert net.head.fc.fc6.dilation == net.head.fc.fc6.padding == (rate, rate)
    strides = [net.head.taps[name].conv3x3.stride[0] for name in TAPS]
    assert strides == [max(output_stride // reached, 1) for reached in (1, 2, 4, 8, 16)]
    net.scores(torch.empty(1, 3, 129, 97, device="meta"))


@pytest.mark.parametrize(
    ("name", "words", "output_stride", "found"),
    [
        ("v1_4x4", (), 32, r"model\.rate: a 4x4 kernel has no middle at rate 1"),
        ("v1", ("model.rate=3",), 32, r"model\.rate: .*0\.75"),
        ("v1_7x7", (), 64, "vgg16 cannot have output stride 64"),
        ("v1", ("model.kernel=5",), 8, r"model\.kernel: found 5; one of 7, 4, 3"),
        ("v1", ("model.channels=0",), 8, r"model\.channels"),
        ("v1", ("model.dropout=1.0",), 8, r"model\.dropout"),
        ("v1", ("multi_grid=1-2-4",), 8, "vgg16 cannot have a multi-grid.*multi_grid=none"),
        ("v1", ("backbone=r50",), 8, "backbone: DeepLab v1 continues VGG.*vgg16"),
        ("v1_msc", ("backbone=mnv2",), 8, "vgg16 or vgg16_pool5a.*model=v2"),
        ("v1", ("+backbone.depth=16",), 8, r"backbone\.depth"),
        ("v1", ("backbone.pool=4",), 8, r"backbone\.pool: 4 is not one of 2, 3"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, words, output_stride, found):
    with pytest.raises(ConfigError) as fault:
        on_meta(name, *words, output_stride=output_stride)
    assert re.search(found, fault.value.line()), fault.value.line()


# VGG but for its widths: what is behind pool5 is as wide as fc6 wants it.
NARROW = ((2, 2), (2, 2), (2, 3), (2, 3), (512, 1))


def narrow(pool: Literal[2, 3] = 3, output_stride: int = 8) -> VGG16:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "_BLOCKS", NARROW)
        return vgg.vgg16(pool, output_stride=output_stride)


def small(msc: bool = False, channels: int = 8, kernel: int = 3) -> Segmenter:
    torch.manual_seed(0)
    backbone = narrow()
    head = DeepLabV1(
        backbone.features, 5, output_stride=8, kernel=kernel, channels=channels, msc=msc
    )
    return Segmenter(backbone, head, num_classes=5, output_stride=8, multi_grid=None)


def classifier_file(width: int = 16) -> dict[str, Tensor]:
    """What a whole VGG-16 holds, with narrower fc layers; every value says where it stood."""
    tensors = {f"features.{key}": value for key, value in narrow().layers.state_dict().items()}
    channel, tap = torch.meshgrid(torch.arange(512.0), torch.arange(49.0), indexing="ij")
    place = (channel * 49 + tap).flatten() / (512 * 49)
    tensors["classifier.0.weight"] = torch.arange(float(width))[:, None] + place
    tensors["classifier.0.bias"] = torch.arange(float(width))
    square = torch.arange(float(width))
    tensors["classifier.3.weight"] = square[:, None] * 100 + square
    tensors["classifier.3.bias"] = -square
    tensors["classifier.6.weight"] = torch.zeros(1000, width)
    tensors["classifier.6.bias"] = torch.zeros(1000)
    return tensors


def written(folder: Path, tensors: dict[str, Tensor]) -> str:
    torch.save(tensors, folder / "weights.pth")
    return str(folder / "weights.pth")


def load(net: Segmenter, path: str) -> Origin:
    return load_backbone(net.backbone, path, source=net.backbone.imagenet, head=net.head)


@pytest.mark.parametrize(
    ("kernel", "taps"), [(7, [0, 1, 2, 3, 4, 5, 6]), (4, [0, 2, 4, 6]), (3, [0, 3, 6])]
)
@pytest.mark.parametrize(("channels", "kept"), [(16, list(range(16))), (4, [0, 4, 8, 12])])
def test_fc6_and_fc7_are_decimated(tmp_path, kernel, taps, channels, kept):
    """v1 §3.1 and §3.2: taps 0 2 4 6 or 0 3 6, every 4th filter, and fc7's inputs with them."""
    tensors = classifier_file()
    net = small(kernel=kernel, channels=channels)
    fc8 = net.head.fc.fc8.weight.clone()
    origin = load(net, written(tmp_path, tensors))
    assert (origin.kind, origin.keys_loaded, origin.not_loaded) == ("file", 26, ())
    whole = tensors["classifier.0.weight"].view(16, 512, 7, 7)
    fc = net.head.fc
    for o, theirs in enumerate(kept):
        for i, row in enumerate(taps):
            for j, column in enumerate(taps):
                expected = whole[theirs, :, row, column]
                assert torch.equal(fc.fc6.weight[o, :, i, j], expected)
    assert fc.fc6.bias.tolist() == kept
    assert fc.fc7.weight[:, :, 0, 0].tolist() == [[o * 100 + i for i in kept] for o in kept]
    assert fc.fc7.bias.tolist() == [-k for k in kept]
    assert torch.equal(fc.fc8.weight, fc8)


def test_a_whole_fc6_gives_the_classifiers_values(tmp_path):
    """On the 7x7 map of a 224 image the middle position is torchvision's fc7, dropout aside."""
    torch.manual_seed(1)
    tensors = classifier_file()
    for key in [k for k in tensors if k.startswith("classifier.")]:
        tensors[key] = torch.randn_like(tensors[key]) * 0.01
    backbone = narrow(2, output_stride=32)
    head = DeepLabV1(backbone.features, 5, output_stride=32, kernel=7, rate=4, channels=16).eval()
    load_backbone(backbone, written(tmp_path, tensors), source=backbone.imagenet, head=head)
    maps = torch.rand(1, 512, 7, 7)
    y = nn.functional.linear(
        maps.flatten(1), tensors["classifier.0.weight"], tensors["classifier.0.bias"]
    ).relu()
    y = nn.functional.linear(y, tensors["classifier.3.weight"], tensors["classifier.3.bias"]).relu()
    expected = head.fc.fc8(y[..., None, None])[0, :, 0, 0]
    torch.testing.assert_close(head({"out": maps})["out"][0, :, 3, 3], expected)


FC = ("head.fc.fc6.weight", "head.fc.fc6.bias", "head.fc.fc7.weight", "head.fc.fc7.bias")
FC8 = ("head.fc.fc8.weight", "head.fc.fc8.bias")


@pytest.mark.parametrize(
    ("msc", "drop", "left"),
    [(False, "classifier.", FC), (True, "classifier.", FC + FC8), (True, "nothing", FC8)],
)
def test_what_a_file_lacks_starts_from_random_and_is_said(tmp_path, msc, drop, left):
    tensors = {k: v for k, v in classifier_file().items() if not k.startswith(drop)}
    origin = load(small(msc), written(tmp_path, tensors))
    assert origin.not_loaded == left
    assert origin.to_dict()["not_loaded"] == list(left)


def test_a_narrower_classifier_is_not_enough(tmp_path):
    assert load(small(channels=32), written(tmp_path, classifier_file())).not_loaded == FC


def test_a_bad_fc6_leaves_the_network_as_it_was(tmp_path):
    tensors = classifier_file()
    tensors["classifier.0.bias"][0] = float("nan")
    net = small()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"fc6\.bias"):
        load(net, written(tmp_path, tensors))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_msc_starts_from_a_trained_network_without_it(tmp_path):
    """fc8 included; then its scores are v1's plus those of the taps."""
    plain = small().eval()
    net = small(msc=True).eval()
    origin = load(net, written(tmp_path, plain.state_dict()))
    assert all(name.startswith("head.taps.") for name in origin.not_loaded)
    assert origin.keys_loaded == len(plain.state_dict())
    x = torch.randn(1, 3, 65, 49)
    with torch.inference_mode():
        maps = net.backbone(x)
        taps = sum(net.head.taps[name](maps[name]) for name in TAPS)
        torch.testing.assert_close(net.scores(x)["out"], plain.scores(x)["out"] + taps)


def test_how_the_new_layers_start():
    """Facts §1.1 and §1.4."""
    head = small(msc=True, channels=512).head
    found = {name: part for name, part in head.named_modules() if isinstance(part, nn.Conv2d)}
    assert len(found) == 3 + 5 * 3
    for name, conv in found.items():
        if name in ("fc.fc6", "fc.fc7"):
            continue
        std = 0.005 if name == "taps.pool4.conv1x1" else 0.001
        std = 0.01 if name.endswith(("score", "fc8")) else std
        assert conv.weight.std().item() == pytest.approx(std, rel=0.15), name
        assert not conv.bias.any()


def test_summed_scores_are_the_papers_concatenation():
    """§4.3: 640 channels beside fc7's, and one linear classifier on them all."""
    net = small(msc=True).eval()
    maps = net.backbone(torch.randn(1, 3, 49, 33))
    seen: list[Tensor] = []
    layers = [net.head.fc.fc8, *(net.head.taps[name].score for name in TAPS)]
    for layer in layers:
        layer.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    scores = net.head(maps)["out"]
    joined = torch.cat(seen, 1)
    assert joined.shape[1] == 8 + 640
    weight = torch.cat([layer.weight for layer in layers], 1)
    expected = nn.functional.conv2d(joined, weight, sum(layer.bias for layer in layers))
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("name", ["v1", "v1_7x7"])
def test_multipliers(name):
    """Facts §1.3: 1/2, and 10/20 for fc8; decay 1/0."""
    rules = {
        key: (rule.lr, rule.decay)
        for key, rule in assign(on_meta(name), parts.rules_of(values_of(f"model={name}"))).items()
    }
    assert rules.pop("head.fc.fc8.weight") == (10, 1)
    assert rules.pop("head.fc.fc8.bias") == (20, 0)
    for key, found in rules.items():
        assert found == ((2, 0) if key.endswith("bias") else (1, 1)), key


def test_with_msc_only_the_taps_are_trained():
    rules = assign(on_meta("v1_msc"), parts.rules_of(values_of("model=v1_msc")))
    for key, rule in rules.items():
        assert (rule.lr > 0) == key.startswith("head.taps."), key


def test_the_recipe():
    values = values_of("model=v1")
    schedule = values["schedule"]
    assert (schedule["policy"], schedule["step_every"], schedule["step_factor"]) == (
        "step",
        2000,
        0.1,
    )
    assert [(s["steps"], s["lr"]) for s in parts.stages_of(values)] == [(6000, 0.001)]
    assert (schedule["batch"], schedule["momentum"], schedule["weight_decay"]) == (30, 0.9, 5e-4)
    augment = values["augment"]
    assert (augment["crop"], augment["scale_min"], augment["scale_max"]) == (321, 1, 1)
    assert values["loss"]["name"] == "labels8"


@pytest.mark.parametrize("name", ["v1_7x7", "v1_4x4", "v1_4x4_r8", "v1"])
@pytest.mark.parametrize("variant", ["", "_msc"])
def test_every_config_is_sound(name, variant):
    values = values_of(f"model={name}{variant}", "dataset=shapes", "pretrained=none")
    recipe.check(values, parts.check_network(values))
    assert values["model"]["name"] == name + variant


@pytest.mark.parametrize("words", [("model=v1", "schedule=v1_msc"), ("model=v3", "schedule=v1")])
def test_another_models_multipliers_are_refused_before_data_is_read(words):
    values = values_of(*words, "os=8", "augment.crop=65", "dataset=shapes")
    with pytest.raises(ConfigError, match=r"no (parameter is left|rule covers)") as fault:
        recipe.check(values, parts.check_network(values))
    assert fault.value.where == "schedule.rules"


TINY = [
    *("dataset=shapes", "dataset.size=33", "dataset.count=4", "dataset.val={count: 1}"),
    *("augment.crop=33", "schedule.batch=2", "workers=0", "log.tensorboard=false"),
    *("eval.every=2", "model.channels=8", "device=cpu"),
]


def test_v1_trains_and_its_msc_goes_on_from_it(tmp_path, monkeypatch, capsys):
    """Two steps each through the command line; what stands still is the same to the last bit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vgg, "_BLOCKS", NARROW)
    stages = "schedule.stages=[{name: a, steps: 2, lr: 0.01}]"
    path = written(tmp_path, {k: v for k, v in classifier_file().items() if "features" in k})
    words = ["train", "model=v1", *TINY, stages, "checkpoint.keep=1"]
    assert cli.main([*words, f"pretrained={path}", "name=plain"]) == 0
    assert "from random: head.fc.fc6.weight" in capsys.readouterr().out
    first = next((tmp_path / "runs/plain/checkpoints").glob("step-*2/model.safetensors"))
    words[1] = "model=v1_msc"
    assert cli.main([*words, "pretrained=runs/plain", "name=msc"]) == 0
    told = capsys.readouterr().out.partition("from random: ")[2].splitlines()[0]
    assert all(name.startswith("head.taps.") for name in told.split(", ")[:-1])
    second = next((tmp_path / "runs/msc/checkpoints").glob("step-*2/model.safetensors"))
    before, after = load_file(first), load_file(second)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert {key.split(".")[1] for key in after.keys() - before.keys()} == {"taps"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1_7x7", "v1_4x4", "v1_4x4_r8", "v1"])
@pytest.mark.parametrize("variant", ["", "_msc"])
def test_every_config_takes_two_steps(name, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", f"model={name}{variant}", *TINY, "pretrained=none", "name=x"]
    assert cli.main([*words, "schedule.stages=[{name: a, steps: 2, lr: 0.01}]"]) == 0
