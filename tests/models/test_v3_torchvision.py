"""torchvision's DeepLabV3, key by key: the same scores from the same weights."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from network_zoo import BACKBONES, random_norms
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.config import compose
from segkit.errors import ConfigError
from segkit.models.contracts import IMAGENET_PIXELS, Feature
from segkit.models.heads.v3_torchvision import TorchvisionV3
from segkit.models.segmenter import Segmenter, build_segmenter
from segkit.parts import check_network
from segkit.rules import check

FEATURES = {"out": Feature(16, 8), "res4": Feature(8, 8)}

# Prefixes of torchvision's state dict and ours; their pooling branch begins with a pooling layer.
NAMES = {
    "backbone.": "backbone.",
    "classifier.0.convs.4.1.": "head.aspp.branches.4.0.",
    "classifier.0.convs.4.2.": "head.aspp.branches.4.1.",
    "classifier.0.convs.": "head.aspp.branches.",
    "classifier.0.project.": "head.aspp.project.",
    "classifier.1.": "head.refine.0.",
    "classifier.2.": "head.refine.1.",
    "classifier.4.": "head.classifier.",
    "aux_classifier.0.": "head.auxiliary.0.0.",
    "aux_classifier.1.": "head.auxiliary.0.1.",
    "aux_classifier.4.": "head.auxiliary.2.",
}


def in_our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {}
    for key, tensor in state.items():
        prefix = next(prefix for prefix in NAMES if key.startswith(prefix))
        ours[NAMES[prefix] + key.removeprefix(prefix)] = tensor
    return ours


def pair(depth: int, output_stride: int = 8) -> tuple[nn.Module, Segmenter]:
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, f"deeplabv3_resnet{depth}")
    theirs = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    random_norms(theirs)
    ours = build_segmenter(
        BACKBONES[f"r{depth}"], TorchvisionV3, num_classes=21, output_stride=output_stride
    ).eval()
    ours.load_state_dict(in_our_names(theirs.state_dict()), strict=True)
    return theirs, ours


def assert_same(theirs: nn.Module, ours: Segmenter, x: Tensor) -> None:
    """As shares of the largest score: random weights put it anywhere."""
    with torch.inference_mode():
        expected = theirs(x)
        maps = ours.backbone(x)
        found = {"out": ours.head(maps)["out"], "aux": ours.head.auxiliary(maps["res4"])}
        for name, score in found.items():
            # torchvision resizes without aligned corners, all DeepLabs do with them.
            full = F.interpolate(score, x.shape[2:], mode="bilinear", align_corners=False)
            scale = expected[name].abs().max()
            assert expected[name].std() > 1e-3 * scale
            assert (full - expected[name]).abs().max() <= 1e-4 * scale


@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.slow)])
def test_parity(depth: int) -> None:
    assert_same(*pair(depth), torch.randn(1, 3, 97, 81))


@pytest.mark.data
@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["bird", "cat"])
def test_parity_on_a_photo(depth: int, name: str) -> None:
    path = Path(os.environ.get("SEGKIT_DATA", "unset")) / f"photos/{name}.png"
    if not path.exists():
        pytest.skip(f"photos/{name}.png is not in SEGKIT_DATA")
    image = np.array(Image.open(path).convert("RGB").resize((193, 161)))
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in vars(IMAGENET_PIXELS).values())
    assert_same(*pair(depth), (x - mean) / std)


@pytest.mark.parametrize(("depth", "count"), [(50, 42_004_074), (101, 60_996_202)])
def test_parameters_are_the_published_ones(depth: int, count: int) -> None:
    """Facts §4.11; without the auxiliary head and the extra 3×3 it is the paper's v3 (§3.5)."""

    def parameters(**arguments: object) -> int:
        with torch.device("meta"):
            net = build_segmenter(
                BACKBONES[f"r{depth}"],
                partial(TorchvisionV3, **arguments),
                num_classes=21,
                output_stride=8,
            )
        return sum(p.numel() for p in net.parameters())

    assert parameters() == count
    assert parameters(auxiliary=False) == count - 2_365_205
    assert count - 2_365_205 - 590_336 == {50: 39_048_533, 101: 58_040_661}[depth]


@pytest.mark.parametrize(
    ("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])]
)
def test_rates_are_written_for_output_stride_8(output_stride: int, rates: list[int]) -> None:
    head = TorchvisionV3(FEATURES, 3, output_stride=output_stride, channels=8)
    assert [branch[0].dilation[0] for branch in head.aspp.branches[1:4]] == rates


def test_the_auxiliary_score_is_there_in_training_only() -> None:
    maps = {"out": torch.randn(2, 16, 5, 5), "res4": torch.randn(2, 8, 5, 5)}
    head = TorchvisionV3(FEATURES, 3, output_stride=8, channels=8)
    assert head.gives_aux
    assert head.train()(maps).keys() == {"out", "aux"}
    assert head.eval()(maps).keys() == {"out"}
    without = TorchvisionV3(FEATURES, 3, output_stride=8, channels=8, auxiliary=False)
    assert not without.gives_aux
    assert without.train()(maps).keys() == {"out"}
    assert not [name for name, _ in without.named_parameters() if "auxiliary" in name]
    sum(score.square().sum() for score in head.train()(maps).values()).backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["model=v3_torchvision", "loss=ce"], "model.auxiliary=false"),
        (["model=v3_torchvision", "loss=hard_pixels"], "loss.aux_weight=0.5"),
        (["model=v3_torchvision", "model.auxiliary=false"], "no aux score"),
        (["model=v3", "loss=ce_aux"], "no aux score"),
    ],
)
def test_a_loss_and_an_auxiliary_score_must_go_together(typed: list[str], said: str) -> None:
    """Unused parameters have no gradient, and several processes would wait for it."""
    values = compose("train", typed).values
    with pytest.raises(ConfigError) as fault:
        check_network(values)
    assert fault.value.where == "loss.aux_weight"
    assert said in fault.value.line()


@pytest.mark.parametrize(
    "typed", [[], ["loss=ce", "model.auxiliary=false"], ["backbone=r50"], ["backbone=mnv2"]]
)
def test_it_composes(typed: list[str]) -> None:
    values = compose("train", ["model=v3_torchvision", *typed]).values
    check(values)
    check_network(values)
    assert (values["os"], values["multi_grid"]) == (8, None)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"channels": 0}, "model.channels"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"rates": [0]}, "model.rates"),
        ({"features": {"out": Feature(16, 8)}}, "model.auxiliary"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as fault:
        TorchvisionV3(**{"features": FEATURES, "num_classes": 3, "output_stride": 8} | arguments)
    assert fault.value.where == where
