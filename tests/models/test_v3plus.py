"""v3+: parameters of the tables, every decoder of Tables 1 and 2, parity with smp's pieces."""

from functools import partial

import pytest
import segmentation_models_pytorch as smp
import torch
from network_zoo import BACKBONES, random_norms
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.config import compose
from segkit.errors import ConfigError
from segkit.models.contracts import Feature
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.heads.v3plus import DeepLabV3Plus, Join
from segkit.models.segmenter import Segmenter, build_segmenter
from segkit.models.separable import SeparableConvNormReLU
from segkit.parts import check_network
from segkit.rules import check

FEATURES = {"low": Feature(6, 4), "res3": Feature(7, 8), "out": Feature(8, 16)}


def maps(side: int = 5, batch: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    sides = {"out": side, "res3": 2 * side - 1, "low": 4 * side - 3}
    return {k: torch.randn(batch, FEATURES[k].channels, n, n) for k, n in sides.items()}


def head(output_stride: int = 16, **arguments: object) -> DeepLabV3Plus:
    torch.manual_seed(0)
    sizes = {"channels": 16, "low_channels": 4, "refine_channels": 16} | arguments
    made = DeepLabV3Plus(FEATURES, 3, output_stride=output_stride, **sizes)
    random_norms(made)
    return made


def parameters(name: str, head: object, output_stride: int = 16) -> int:
    with torch.device("meta"):
        net = build_segmenter(BACKBONES[name], head, num_classes=21, output_stride=output_stride)
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", ["r50", "r50_beta", "r101", "r101_beta", "r101_caffe", "x65"])
def test_a_decoder_adds_1_304_million(name: str) -> None:
    added = parameters(name, DeepLabV3Plus) - parameters(name, DeepLabV3)
    assert added == 1_303_648
    assert parameters(name, partial(DeepLabV3Plus, decoder="none")) == parameters(name, DeepLabV3)


@pytest.mark.parametrize(
    ("name", "made", "millions"),
    [
        ("r101", DeepLabV3, 58.041),
        ("r101_beta", DeepLabV3, 58.164),
        ("r101_beta", DeepLabV3Plus, 58.164 + 1.304),
        ("x65", DeepLabV3, 53.408),
        ("x65", DeepLabV3Plus, 54.711),
        ("x65", partial(DeepLabV3Plus, separable=True), 41.055),
    ],
)
def test_parameters_of_the_facts(name: str, made: object, millions: float) -> None:
    assert parameters(name, made) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert parameters(name, made, output_stride=8) == parameters(name, made)


# Tables 1 and 2: what stands between the ASPP and the classifier, as [kernel, in, out].
TABLES = [
    *(
        ({"low_channels": n, "refine_layers": 1}, [[3, 256 + n, 256]])
        for n in (8, 16, 32, 48, 64)
    ),
    ({}, [[3, 304, 256], [3, 256, 256]]),
    ({"refine_layers": 3}, [[3, 304, 256], [3, 256, 256], [3, 256, 256]]),
    ({"refine_layers": 1, "refine_channels": 128}, [[3, 304, 128]]),
    ({"refine_layers": 1, "refine_kernel": 1}, [[1, 304, 256]]),
    ({"refine_layers": 1, "decoder": "conv2_conv3"}, [[3, 304, 256], [3, 304, 256]]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "convs"), TABLES, ids=str)
def test_decoders_of_tables_1_and_2(arguments: dict[str, object], convs: list[list[int]]) -> None:
    typed = [f"model.{key}={value}" for key, value in arguments.items()]
    values = compose("train", ["model=v3plus", "backbone=r50", *typed]).values
    check(values)
    check_network(values)
    with torch.device("meta"):
        net = build_segmenter(
            BACKBONES["r50"],
            partial(DeepLabV3Plus, **arguments),
            num_classes=21,
            output_stride=16,
        )
        scores = net.eval().scores(torch.empty(1, 3, 513, 513))["out"]
    found = [
        [conv.kernel_size[0], conv.in_channels, conv.out_channels]
        for join in net.head.joins.values()
        for conv in join.refine.modules()
        if isinstance(conv, nn.Conv2d)
    ]
    assert found == convs
    low = arguments.get("low_channels", 48)
    assert {join.reduce[0].out_channels for join in net.head.joins.values()} == {low}
    assert scores.shape == (1, 21, 129, 129)
    assert net.head.classifier.bias is not None


@pytest.mark.parametrize(
    ("output_stride", "rates"),
    [(4, [24, 48, 72]), (8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])],
)
@pytest.mark.parametrize("separable", [True, False])
def test_rates_follow_the_output_stride(
    output_stride: int, rates: list[int], separable: bool
) -> None:
    made = head(output_stride, separable=separable)
    assert [branch[0].dilation[0] for branch in made.aspp.branches[2:]] == rates


@pytest.mark.parametrize("decoder", ["none", "conv2", "conv2_conv3"])
@pytest.mark.parametrize("separable", [True, False])
def test_scores_and_gradients(decoder: str, separable: bool) -> None:
    made = head(decoder=decoder, separable=separable)
    scores = made(maps())["out"]
    assert scores.shape == (2, 3, *((5, 5) if decoder == "none" else (17, 17)))
    scores.square().sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in made.named_parameters() if "weight" in n)


def test_without_a_decoder_it_is_v3() -> None:
    made = head(decoder="none").eval()
    v3 = DeepLabV3(FEATURES, 3, output_stride=16, channels=16).eval()
    v3.load_state_dict(made.state_dict(), strict=True)
    torch.testing.assert_close(made(maps())["out"], v3(maps())["out"])


def test_conv3_is_joined_before_conv2() -> None:
    """Step by step: up, join Conv3, refine, up, join Conv2, refine."""
    made = head(decoder="conv2_conv3", refine_layers=1).eval()
    given = maps()
    x = made.aspp(given["out"])
    for name in ("res3", "low"):
        join = made.joins[name]
        x = F.interpolate(x, given[name].shape[2:], mode="bilinear", align_corners=True)
        x = join.refine(torch.cat([x, join.reduce(given[name])], dim=1))
    torch.testing.assert_close(made(given)["out"], made.classifier(x))


def test_corners_are_aligned_and_the_encoder_comes_first() -> None:
    join = Join(2, 3, 4, [5], kernel=1, separable=False).eval()
    seen = []
    join.refine.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(1, 2, 3, 3)
    join(x, torch.randn(1, 3, 9, 9))
    torch.testing.assert_close(seen[0][:, :2, ::4, ::4], x)
    assert seen[0].shape == (1, 6, 9, 9)


def test_separable_convolutions_are_the_released_ones() -> None:
    """Batch norm (eps 1e-5) and ReLU behind both; truncated normals of 0.33 and 0.06."""
    torch.manual_seed(0)
    made = DeepLabV3Plus(
        {"out": Feature(512, 16), "low": Feature(8, 4)}, 3, output_stride=16, separable=True
    )
    parts = [m for m in made.modules() if isinstance(m, SeparableConvNormReLU)]
    assert len(parts) == 3 + 2
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    for part in parts:
        assert [type(m) for m in part] == kinds
        assert part[0].groups == part[0].in_channels
        assert part[0].bias is None
        assert part[3].bias is None
        assert part[1].eps == part[4].eps == 1e-5
        for conv, std in ((part[0], 0.33), (part[3], 0.06)):
            # A normal cut off at two of its standard deviations has 0.88 of one.
            assert conv.weight.std().item() == pytest.approx(0.88 * std, rel=0.05)
            assert conv.weight.abs().max() <= 2 * std
    plain = [m for m in made.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(plain) == 5  # every 3×3 is one of theirs


# --- segmentation_models_pytorch ---------------------------------------------------------------
# Where smp agrees with the paper its weights give the same scores here. What it does otherwise
# and is therefore taken out of its network or copied into ours, by the tests and not by the code:
#   - a separable 3×3 + BN + ReLU between ASPP and decoder, which no paper has: skipped;
#   - one separable 3×3 in the decoder (the paper has two full ones): refine_layers=1;
#   - no BN + ReLU behind a depthwise convolution: ours are given a shift that keeps ReLU open and
#     that the norm behind the pointwise convolution takes away again;
#   - rates 12, 24, 36 at OS 16: those are rates of OS 8, so ours are asked for [12, 24, 36];
#   - all units of a dilated block take the new rate, torchvision's first one keeps the old: set.

SHIFT = 50.0


def copy_aspp(ours: nn.Module, theirs: nn.Module) -> None:
    """Their pooling is the last branch, ours the first."""
    for index, branch in enumerate(theirs.convs):
        skip = 1 if index == len(theirs.convs) - 1 else 0  # the pooling layer itself
        copy_branch(ours.branches[(index + 1) % len(theirs.convs)], list(branch)[skip:])
    copy_branch(ours.project, list(theirs.project))
    ours.project[0].weight.data = theirs.project[0].weight.data.roll(256, dims=1)


def copy_branch(ours: nn.Module, theirs: list[nn.Module]) -> None:
    conv, norm = theirs[0], theirs[1]
    if isinstance(conv, nn.Conv2d):
        ours[0].load_state_dict(conv.state_dict())
        ours[1].load_state_dict(norm.state_dict())
        return
    depthwise, pointwise = conv
    ours[0].load_state_dict(depthwise.state_dict())
    ours[3].load_state_dict(pointwise.state_dict())
    ours[4].load_state_dict(norm.state_dict())
    identity = ours[1]
    identity.weight.data = (identity.running_var + identity.eps).sqrt()
    identity.bias.data = identity.running_mean + SHIFT
    ours[4].running_mean += SHIFT * pointwise.weight.data.sum((1, 2, 3))


def converted(name: str, theirs: nn.Module, head: object, output_stride: int) -> Segmenter:
    """Our network with their backbone, their ASPP and their classifier, in double precision."""
    ours = build_segmenter(
        BACKBONES[name], head, num_classes=5, output_stride=output_stride, multi_grid=None
    )
    ours.backbone.load_state_dict(
        {k: v for k, v in theirs.encoder.state_dict().items() if not k.startswith("fc.")}
    )
    before = {16: ["layer4"], 8: ["layer3", "layer4"]}[output_stride]
    for layer in before:
        first, second = (getattr(ours.backbone, layer)[n].conv2 for n in (0, 1))
        first.dilation, first.padding = second.dilation, second.padding
    ours.head.classifier.load_state_dict(theirs.segmentation_head[0].state_dict())
    return ours


def assert_same(ours: Segmenter, theirs: nn.Module, side: int) -> None:
    x = torch.randn(1, 3, side, side, dtype=torch.double)
    with torch.inference_mode():
        expected = theirs.double().eval()(x)
        found = F.interpolate(
            ours.double().eval().scores(x)["out"],
            expected.shape[2:],
            mode="bilinear",
            align_corners=True,
        )
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("separable", [pytest.param(False, marks=pytest.mark.slow), True])
def test_parity_with_smps_deeplabv3plus(separable: bool) -> None:
    torch.manual_seed(0)
    theirs = smp.DeepLabV3Plus(
        "resnet50", encoder_weights=None, classes=5, decoder_aspp_separable=separable
    )
    random_norms(theirs)
    theirs.decoder.aspp = theirs.decoder.aspp[0]
    ours = converted(
        "r50",
        theirs,
        partial(DeepLabV3Plus, rates=[12, 24, 36], refine_layers=1, separable=True),
        16,
    )
    if not separable:
        plain = DeepLabV3({"out": Feature(2048, 16)}, 5, output_stride=16, rates=[12, 24, 36])
        ours.head.aspp = plain.aspp
    copy_aspp(ours.head.aspp, theirs.decoder.aspp)
    join = ours.head.joins["low"]
    copy_branch(join.reduce, list(theirs.decoder.block1))
    copy_branch(join.refine[0], list(theirs.decoder.block2))
    assert_same(ours, theirs, side=96)


def test_parity_with_smps_deeplabv3() -> None:
    """Theirs has torchvision's 3×3 behind the ASPP, which v3 has not: skipped."""
    torch.manual_seed(0)
    theirs = smp.DeepLabV3("resnet50", encoder_weights=None, classes=5)
    random_norms(theirs)
    theirs.decoder.conv = theirs.decoder.bn = theirs.decoder.relu = nn.Identity()
    ours = converted("r50", theirs, DeepLabV3, 8)
    copy_aspp(ours.head.aspp, theirs.decoder.aspp)
    assert_same(ours, theirs, side=96)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"low_channels": 0}, "model.low_channels"),
        ({"refine_layers": 0}, "model.refine_layers"),
        ({"refine_channels": 0}, "model.refine_channels"),
        ({"refine_kernel": 5}, "model.refine_kernel"),
        ({"decoder": "conv4"}, "model.decoder"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"rates": [5], "output_stride": 32}, "model.rates"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as fault:
        head(**arguments)
    assert fault.value.where == where


@pytest.mark.parametrize(
    ("features", "decoder", "found"),
    [
        ({"out": Feature(8, 16)}, "conv2", "out at 16"),
        ({"low": Feature(8, 8), "out": Feature(8, 8)}, "conv2", "low at 8"),
        ({"low": Feature(8, 4), "out": Feature(8, 16)}, "conv2_conv3", "low at 4, out at 16"),
    ],
)
def test_a_backbone_without_the_map_is_refused(
    features: dict[str, Feature], decoder: str, found: str
) -> None:
    with pytest.raises(ConfigError, match=found) as fault:
        DeepLabV3Plus(features, 3, output_stride=16, decoder=decoder)
    assert fault.value.where == "model.decoder"
    DeepLabV3Plus(features, 3, output_stride=16, decoder="none")


def test_the_papers_variants_compose() -> None:
    resnet = compose("train", ["model=v3plus"]).values
    xception = compose("train", ["model=v3plus_xception"]).values
    for values, backbone, decay in ((resnet, "r101", 1e-4), (xception, "x65", 4e-5)):
        check(values)
        check_network(values)
        assert values["backbone"]["name"] == backbone
        assert values["schedule"]["weight_decay"] == decay
        assert values["model"]["separable"] == (backbone == "x65")
    stages = compose("train", ["model=v3plus", "schedule=v3plus_test"]).values["schedule"]["stages"]
    assert [(s["os"], s["bn"], s["split"]) for s in stages] == [
        (None, "train", None),
        (8, "frozen_stats", "trainval"),
    ]
