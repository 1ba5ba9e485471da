"""Other projects' networks with random weights, imported: the same scores."""

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from network_zoo import photo_or_noise, random_norms
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.config import compose
from segkit.errors import ConfigError
from segkit.model_import import Call, Imported, import_file
from segkit.models.backbones.resnet import resnet
from segkit.models.contracts import IMAGENET_PIXELS, Feature
from segkit.models.foreign.mnv2_voc import MNV2_VOC, norm_of
from segkit.models.foreign.source import renamed
from segkit.models.foreign.sources import SOURCES, guess
from segkit.models.heads.v3plus_smp import SmpV3Plus
from segkit.parts import check_network
from segkit.rules import check


def saved(net: nn.Module, folder: Path) -> Path:
    random_norms(net)
    torch.save(net.eval().state_dict(), folder / "theirs.pth")
    return folder / "theirs.pth"


def imported(path: Path, *overrides: str) -> Imported:
    found = import_file(Call(str(path), overrides=list(overrides)))
    found.net.eval()
    return found


def assert_same(found: Tensor, expected: Tensor) -> None:
    """As shares of the largest value: random weights put it anywhere."""
    scale = expected.abs().max()
    assert expected.std() > 1e-3 * scale
    assert (found - expected).abs().max() <= 1e-4 * scale


def torchvision_v3(depth: int, aux: bool, classes: int = 21) -> nn.Module:
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, f"deeplabv3_resnet{depth}")
    return make(weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)


@pytest.mark.parametrize(
    ("depth", "aux"),
    [
        (50, True),
        pytest.param(50, False, marks=pytest.mark.slow),
        pytest.param(101, True, marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_torchvisions_deeplabv3(depth: int, aux: bool, tmp_path: Path) -> None:
    theirs = torchvision_v3(depth, aux)
    ours = imported(saved(theirs, tmp_path))
    assert ours.source.name == "torchvision"
    assert ours.composed.choices["backbone"] == f"r{depth}"
    assert (ours.unused, ours.missing) == ((), ())
    assert len(ours.used) == len(theirs.state_dict())
    x = photo_or_noise(97, IMAGENET_PIXELS)
    expected, maps = theirs(x), ours.net.backbone(x)
    scores = {"out": ours.net.head(maps)["out"]}
    if aux:
        scores["aux"] = ours.net.head.auxiliary(maps["res4"])
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        # torchvision resizes without aligned corners, all DeepLabs do with them.
        full = F.interpolate(score, x.shape[2:], mode="bilinear", align_corners=False)
        assert_same(full, expected[name])


def test_an_auxiliary_score_can_be_left_out(tmp_path: Path) -> None:
    theirs = torchvision_v3(50, aux=True, classes=3)
    ours = imported(saved(theirs, tmp_path), "model.auxiliary=false", "loss=ce")
    assert ours.unused == tuple(k for k in theirs.state_dict() if k.startswith("aux_classifier."))
    assert (len(ours.unused), ours.missing) == (8, ())


@pytest.mark.parametrize(
    ("encoder", "output_stride"),
    [
        ("resnet18", 16),
        *(pytest.param("resnet50", stride, marks=pytest.mark.slow) for stride in (8, 16)),
    ],
)
@torch.inference_mode()
def test_smps_deeplabv3(encoder: str, output_stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = smp.DeepLabV3(
        encoder, encoder_weights=None, classes=5, encoder_output_stride=output_stride
    )
    path = saved(theirs, tmp_path)
    # smp does not scale its rates; at OS 16 ours would be halved.
    typed = {8: [], 16: ["os=16", "model.rates=[24,48,72]"]}[output_stride]
    ours = imported(path, *typed)
    assert (ours.source.name, ours.labels.num_classes) == ("smp", 5)
    assert (ours.unused, ours.missing) == ((), ())
    x = photo_or_noise(96, IMAGENET_PIXELS)
    # Its pooling branch is resized from one value, its scores with aligned corners: both as here.
    assert_same(ours.net(x), theirs(x))


@pytest.mark.parametrize(
    ("encoder", "separable"),
    [
        ("resnet18", False),
        *(pytest.param("resnet50", s, marks=pytest.mark.slow) for s in (True, False)),
    ],
)
@torch.inference_mode()
def test_smps_deeplabv3plus(encoder: str, separable: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = smp.DeepLabV3Plus(
        encoder, encoder_weights=None, classes=5, decoder_aspp_separable=separable
    )
    ours = imported(saved(theirs, tmp_path))
    assert ours.composed.choices["model"] == "v3plus_smp"
    assert (ours.unused, ours.missing) == ((), ())
    x = photo_or_noise(96, IMAGENET_PIXELS)
    assert_same(ours.net(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "backbone", "output_stride"),
    [
        ("resnet18", "r18", 32),
        ("resnet50", "r50", 8),
        *(
            pytest.param(*more, 16, marks=pytest.mark.slow)
            for more in (
                ("resnet34", "r34"),
                ("resnet101", "r101"),
                ("xception41", "x41"),
                ("xception65", "x65"),
                ("xception71", "x71"),
            )
        ),
    ],
)
@torch.inference_mode()
def test_timms_backbones(name: str, backbone: str, output_stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, output_stride=output_stride)
    ours = imported(saved(theirs, tmp_path), "model=v3", f"os={output_stride}", "multi_grid=none")
    assert (ours.source.name, ours.composed.choices["backbone"]) == ("timm", backbone)
    head = "head.fc." if name.startswith("x") else "fc."
    assert ours.unused == (f"{head}weight", f"{head}bias")
    assert ours.missing
    assert all(key.startswith("head.") for key in ours.missing)
    x = photo_or_noise(97, ours.net.pixels)
    assert_same(ours.net.backbone(x)["out"], theirs.forward_features(x))


@pytest.mark.parametrize("model", ["v3_smp", "v3plus_smp"])
def test_smps_networks_compose(model: str) -> None:
    values = compose("train", [f"model={model}"]).values
    check(values)
    check_network(values)
    assert values["backbone"]["first_rate"] == "raised"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"channels": 0}, "model.channels"),
        ({"low_channels": 0}, "model.low_channels"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"rates": [5], "output_stride": 32}, "model.rates"),
        ({"features": {"out": Feature(8, 16)}}, "model"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], where: str) -> None:
    features = {"out": Feature(8, 16), "low": Feature(4, 4)}
    with pytest.raises(ConfigError) as fault:
        SmpV3Plus(**{"features": features, "num_classes": 3, "output_stride": 16} | arguments)
    assert fault.value.where == where


@pytest.mark.parametrize(
    ("style", "first_rate", "rates"),
    [
        ("torchvision", "kept", [[1] * 6, [1, 2, 2]]),
        ("torchvision", "raised", [[1] * 6, [2, 2, 2]]),
        ("caffe", "kept", [[1] * 6, [2, 2, 2]]),
    ],
)
def test_the_rate_of_a_unit_that_lost_its_stride(
    style: str, first_rate: str, rates: list[list[int]]
) -> None:
    with torch.device("meta"):
        net = resnet(50, style, first_rate=first_rate, output_stride=16)
    assert [[unit.conv2.dilation[0] for unit in b] for b in (net.layer3, net.layer4)] == rates
    with pytest.raises(ConfigError, match="kept, raised"):
        resnet(50, first_rate="none", output_stride=16)


def test_a_folded_bias_is_a_batch_norm() -> None:
    bias = torch.randn(7)
    norm = nn.BatchNorm2d(7).eval()
    named = {key.removeprefix("x.1."): t for key, t in norm_of("x", bias).items()}
    norm.load_state_dict(named, strict=False)
    x = torch.randn(2, 7, 5, 5)
    assert torch.allclose(norm(x), x + bias.view(1, 7, 1, 1), atol=1e-6)


def test_names_are_replaced_by_the_first_prefix_that_fits() -> None:
    one, two, three = torch.zeros(3)
    names = (("a.b.", "x."), ("a.", "y."))
    found = renamed({"a.b.c": one, "a.c": two, "d": three}, names)
    assert found == {"x.c": one, "y.c": two, "d": three}


def test_no_two_projects_claim_a_file() -> None:
    with torch.device("meta"):
        files = {
            "torchvision": torchvision_v3(50, aux=True).state_dict(),
            "smp": smp.DeepLabV3Plus("resnet18", encoder_weights=None).state_dict(),
            "timm": timm.create_model("xception41", pretrained=False).state_dict(),
        }
    files["mnv2-voc"] = dict.fromkeys(
        ("features.0.0.weight", "aspp.b0.weight", "classifier.weight"), torch.zeros(1)
    )
    assert files.keys() <= SOURCES.keys()  # the others' are in test_foreign_keys.py
    for name, tensors in files.items():
        assert [s.name for s in SOURCES.values() if s.recognises(tensors)] == [name]
        assert guess(tensors) is SOURCES[name]
    assert guess({"features.0.0.weight": torch.zeros(1)}) is None
    assert MNV2_VOC.overrides({}) == ["model=v3_mnv2"]
