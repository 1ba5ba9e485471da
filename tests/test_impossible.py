"""Combinations that cannot be, or cannot learn: one line before data, naming what would do."""

import pytest

from segkit import cli, parts, recipe, rules
from segkit.conf_files import choices_of
from segkit.config import compose
from segkit.errors import CheckpointError
from segkit.models.weights import Origin

STAGE = "schedule.stages=[{{name: a, steps: 2, lr: 0.01, os: {}}}]"

# Words; the error's id; what its line names: the key, and a way out.
TABLE = [
    # Multi-grid where there is no block for it.
    ("model=v1 multi_grid=1-2-4", "MULTI-GRID", "multi_grid: vgg16 ", "multi_grid=none"),
    ("model=v2_vgg multi_grid=1-2-1", "MULTI-GRID", "multi_grid", "multi_grid=none"),
    ("model=v3 backbone=vgg16 multi_grid=1-2-4", "MULTI-GRID", "multi_grid", "r50, r101"),
    ("model=v3 backbone=r18 multi_grid=1-2-4", "MULTI-GRID", "multi_grid: r18", "multi_grid=none"),
    ("model=v3plus backbone=mnv2 multi_grid=2-2-2", "MULTI-GRID", "multi_grid: mnv2", "r50, r101"),
    # Decoders without their map.
    ("model=v3plus os=4 model.decoder=conv2_conv3", "FEATURE", "res3 at stride 8", "larger os"),
    # Output strides.
    ("model=v3 backbone=r101 os=64", "OUTPUT-STRIDE", "os: r101", "one of 4, 8, 16, 32"),
    ("model=v1 os=64 augment.crop=321", "OUTPUT-STRIDE", "os: vgg16", "one of 4, 8, 16, 32"),
    (f"model=v3 backbone=r50 {STAGE.format(2)}", "OUTPUT-STRIDE", "os: r50", "4, 8, 16, 32"),
    ("model=v3_cascade model.blocks=4 os=64", "OUTPUT-STRIDE", "os", "one of 4, 8, 16, 32"),
    ("model=v3 os=7", "UNKNOWN-CHOICE", "os: '7'", "choices: 4, 8, 16, 32, 64, 128, 256"),
    (f"model=v3 {STAGE.format(12)}", "RANGE", "schedule.stages.0.os: 12", "4, 8, 16, 32"),
    # Crops.
    ("model=v3 augment.crop=512", "CROP", "augment.crop: 512", "nearest: 513"),
    ("model=v1 augment.crop=320", "CROP", "augment.crop: 320", "nearest: 321"),
    ("model=v3 os=32 augment.crop=17", "CROP", "augment.crop: 17", "nearest: 33 or 65"),
    # Rates that are no whole numbers at this output stride.
    ("model=v3 backbone=r50 os=32 model.rates=[5]", "RATES", "model.rates", "a smaller os"),
    ("model=v1_4x4 os=32 loss=ce", "RATES", "model.rate", "even rate"),
    # Heads that continue another network.
    ("model=v1 backbone=r101", "BACKBONE", "backbone", "vgg16 or vgg16_pool5a"),
    ("model=v1 backbone=mnv2", "BACKBONE", "backbone", "vgg16 or vgg16_pool5a"),
    ("model=v3_cascade backbone=vgg16", "BACKBONE", "backbone: vgg16", "r50, r101"),
    ("model=v3_cascade backbone=x41", "BACKBONE", "backbone: x41", "r50, r101"),
    # Recipes of another network.
    ("model=v2 backbone=vgg16", "RECIPE", "schedule.stages.0.bn: frozen", "model=v2_vgg"),
    ("model=v2_vgg backbone=r50_caffe", "RECIPE", "schedule.rules", "schedule=v2_resnet"),
    ("model=v2_largefov backbone=r101_caffe", "RECIPE", "schedule.rules", "schedule=v2_resnet"),
    ("model=v3 backbone=r50 schedule=v1 os=8", "RECIPE", "schedule.rules", "v3 and v3plus"),
    ("model=v3plus_xception loss=ce_aux", "AUX", "loss.aux_weight", "loss.aux_weight=0"),
    # Scores that the loss would leave out.
    ("model=v2 model.msc=true loss=ce", "SCALES", "loss: leaves out", "loss=msc"),
    ("model=v2 model.msc=true loss=labels8", "SCALES", "model.msc=true", "model.msc=false"),
    ("model=v2_kazuto1011 loss=hard_pixels", "SCALES", "loss: leaves out", "loss=msc"),
    # Labels that the scores do not meet.
    ("model=v1 os=16", "SHRINK", "loss.shrink, os, schedule.stages.0.os", "loss.shrink=16"),
    ("model=v3 backbone=r50 loss=labels16 os=8", "SHRINK", "every 16th pixel", "loss.shrink=8"),
    ("model=v3plus backbone=mnv2 loss=labels16", "SHRINK", "scores are 4 apart", "loss=ce"),
    ("model=v2 model.msc=true os=16", "SHRINK", "every 8th pixel", "loss.shrink=16"),
    # Nothing to start from.
    (
        "model=v1_msc",
        "PRETRAINED",
        "head.fc.fc8.weight",
        "segkit train model=v1 dataset=shapes name=first",
    ),
    (
        "model=v1_7x7_msc",
        "PRETRAINED",
        "pretrained: imagenet",
        "model=v1_7x7 dataset=shapes name=first",
    ),
]


@pytest.mark.parametrize(("words", "error", "found", "way"), TABLE)
def test_one_line_and_nothing_written(words, error, found, way, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    typed = split(words)
    assert cli.main(["train", *typed, "dataset=shapes", "device=cpu"]) == 2
    out, line = capsys.readouterr()
    assert out == ""
    assert line.startswith(f"segkit: error[CFG-{error}]: "), line
    assert line.count("\n") == 1, line
    assert found in line
    assert way in line
    assert not list(tmp_path.iterdir())


def split(words: str) -> list[str]:
    """At blanks outside brackets."""
    before, bracket, stages = words.partition("schedule.stages=")
    return [*before.split(), *([bracket + stages] if bracket else [])]


def test_a_backbone_without_a_map_at_stride_4(tmp_path, monkeypatch, capsys):
    """One of the user's own: every shipped one has that map."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/backbone").mkdir(parents=True)
    (tmp_path / "own/backbone/mine.yaml").write_text("_target_: my_backbones.mine\n")
    (tmp_path / "my_backbones.py").write_text(
        "from segkit.models.backbones.resnet import r_tiny\n"
        "def mine(*, output_stride, multi_grid=None):\n"
        "    net = r_tiny(output_stride=output_stride, multi_grid=multi_grid)\n"
        "    del net.features['low'], net.features['res2']\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["model=v3plus", "backbone=mine", "--config-dir", "own", "--trust", "my_backbones"]
    assert cli.main(["train", *words, "dataset=shapes"]) == 2
    line = capsys.readouterr().err
    assert "CFG-FEATURE" in line
    assert "conv2 needs a map low at stride 4; the backbone has res3 at 8" in line
    assert "model.decoder=none" in line


@pytest.mark.parametrize(
    "words",
    [
        "model=v2 backbone=vgg16 schedule=v2",
        "model=v2_vgg backbone=r50_caffe schedule=v2_resnet",
        "model=v1 os=16 loss.shrink=16 augment.crop=321",
        "model=v3 backbone=r50 loss=labels16",
        "model=v3plus backbone=mnv2 loss=labels16 loss.shrink=4",
        "model=v2 model.msc=true loss=msc",
        "model=v2 loss=ce",
        "model=v1_msc pretrained=none",
        "model=v1_msc pretrained=first/model.safetensors",
        "model=v1_msc schedule=v1",
    ],
)
def test_the_ways_out_are_taken(words):
    values = compose("train", [*words.split(), "dataset=shapes"]).values
    recipe.check(values, parts.check_network(values))


@pytest.mark.slow
@pytest.mark.parametrize("name", choices_of("model"))
def test_every_shipped_model_brings_its_own_recipe(name):
    values = compose("train", [f"model={name}", "dataset=shapes", "pretrained=none"]).values
    rules.check(values)
    recipe.check(values, parts.check_network(values))


def loaded(capsys: pytest.CaptureFixture[str], origin: Origin, *words: str) -> str:
    """What is said of a v1_msc that was filled from ``origin``."""
    values = compose("train", ["model=v1_msc", "dataset=shapes", *words]).values
    recipe.check_loaded(values, parts.check_network(values)[0], origin)
    return capsys.readouterr().out


def test_msc_without_a_trained_classifier(capsys):
    """Its schedule trains the taps alone (facts §1.4)."""
    keys = ("head.fc.fc8.weight", "head.fc.fc8.bias")
    assert loaded(capsys, Origin("file", "v1.safetensors"), "pretrained=v1.safetensors") == ""
    vgg = Origin("file", "vgg16.pth", not_loaded=keys)
    with pytest.raises(CheckpointError) as fault:
        loaded(capsys, vgg, "pretrained=vgg16.pth")
    assert fault.value.id == "CKPT-WEIGHTS-MISMATCH"
    assert "holds no head.fc.fc8.weight [2, 1024, 1, 1], head.fc.fc8.bias [2]" in fault.value.line()
    assert "segkit train model=v1 dataset=shapes name=first" in fault.value.line()
    said = "never trained (rate 0): head.fc.fc8.weight, head.fc.fc8.bias\n"
    assert said in loaded(capsys, vgg, "pretrained=vgg16.pth", "pretrained_strict=false")
    assert said in loaded(capsys, Origin("none"), "pretrained=none")
