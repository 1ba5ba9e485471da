"""Five projects whose code is no dependency: their key lists fit, and what is turned on the way.

Checked here with every run: names, shapes, what is turned, and the options that exist for their
sake; in test_foreign_options.py the rates, dropouts and resizing that no key tells. NOT checked
again, as it takes their code, is what was measured once, when the importers were written: with
random weights and statistics in THEIR networks (built from their own source, the lists' origin),
the imported ones gave these scores, on a real photo of 129 and of 257 pixels a side; the difference
is that of the largest value.

    project          network                          scores compared                 difference
    kazuto1011       v2 R101, one scale               score map at OS 8               1.1e-6
    vainf            v3 R50 OS16, MobileNetV2 OS16    full size, resized their way    4.1e-7
    vainf            v3+ R50 OS8, MobileNetV2 OS8     full size, resized their way    7.1e-7
    jfzhang95        v3+ R101 OS16                    full size                       6.6e-7
    keras            v3 MobileNetV2 OS8               full size                       0
    keras            v3+ X65 OS16 and OS8             full size                       0
    mmsegmentation   v3 R50, v3+ R101 and R50 (7x7)   score map                       7.7e-7

Keras's layers were stood in for by torch's with TensorFlow's padding, mmcv's by torch's. What
differs by intent stands in docs/log.md.
"""

import pytest
import torch
from foreign_lists import filled, listed
from torch import nn
from torch.nn import functional as F

from segkit.config import compose
from segkit.errors import CheckpointError, ConfigError
from segkit.model_import import Call, import_file, is_count
from segkit.models.atrous import Unit
from segkit.models.backbones.mobilenetv2 import InvertedResidual, mobilenetv2
from segkit.models.backbones.resnet import resnet
from segkit.models.foreign.jfzhang95 import JFZHANG95
from segkit.models.foreign.kazuto1011 import KAZUTO1011
from segkit.models.foreign.keras import KERAS
from segkit.models.foreign.source import pooling_first
from segkit.models.foreign.sources import SOURCES, guess
from segkit.models.foreign.vainf import VAINF
from segkit.models.heads.v3plus import Join
from segkit.models.pixels import CAFFE_PIXELS, IMAGENET_PIXELS, SYMMETRIC_PIXELS, Pixels
from segkit.parts import check_network, network_of, stages_of
from segkit.rules import check

# The list, and the model and backbone it is of; its first word is the project.
TAKEN = {
    "kazuto1011_v2_r101": ("v2_kazuto1011", "r101_caffe"),
    "vainf_v3_r50": ("v3_vainf", "r50"),
    "vainf_v3_r101": ("v3_vainf", "r101"),
    "vainf_v3_mnv2": ("v3_vainf", "mnv2_vainf"),
    "vainf_v3plus_r50": ("v3plus_vainf", "r50"),
    "vainf_v3plus_r101": ("v3plus_vainf", "r101"),
    "vainf_v3plus_mnv2": ("v3plus_vainf", "mnv2_vainf"),
    "jfzhang95_v3plus_r101": ("v3plus_jfzhang95", "r101"),
    "keras_v3_mnv2": ("v3_mnv2", "mnv2_tf"),
    "keras_v3plus_x65": ("v3plus_xception", "x65"),
    "mmsegmentation_v3_r50": ("v3_mmseg", "r50_v1c"),
    "mmsegmentation_v3plus_r101": ("v3plus_mmseg", "r101_v1c"),
    "mmsegmentation_v3plus_r50b": ("v3plus_mmseg", "r50"),
}
REFUSED = {
    "vainf_v3plus_xception": "only ResNets and MobileNetV2",
    "jfzhang95_v3plus_xception": "only ResNet-101",
    "jfzhang95_v3plus_mobilenet": "only ResNet-101",
    "jfzhang95_v3plus_drn": "only ResNet-101",
    "mmsegmentation_v3_r50d": "only ResNet-50, ResNet-101",
}


def project(name: str) -> str:
    return name.partition("_")[0]


@pytest.mark.parametrize("name", [*TAKEN, *REFUSED])
def test_one_project_claims_a_file(name: str) -> None:
    tensors = listed(name)
    assert [s.name for s in SOURCES.values() if s.recognises(tensors)] == [project(name)]


@pytest.mark.parametrize("name", TAKEN)
def test_every_key_is_used_and_every_shape_fits(name: str) -> None:
    tensors = listed(name)
    source = SOURCES[project(name)]
    assert source.refuses(tensors) == ""
    composed = compose("train", [*source.overrides(tensors), "pretrained=imported"])
    assert (composed.choices["model"], composed.choices["backbone"]) == TAKEN[name]
    values = composed.values
    check(values)
    check_network(values)
    ours = source.rename(tensors)
    with torch.device("meta"):
        net = network_of(values, len(ours[source.classifier]), stages_of(values)[-1]["os"])
    unused = [key for key in tensors if source.unused and key.startswith(source.unused)]
    assert len(unused) == (8 if source.name == "mmsegmentation" else 0)  # its auxiliary head
    theirs = {key: t.shape for key, t in ours.items() if key not in unused}
    expected = {
        key: t.shape for key, t in net.state_dict().items() if key in ours or not is_count(key)
    }
    assert theirs == expected
    assert len(ours) == len(tensors)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_here_is_refused(name: str) -> None:
    tensors = listed(name)
    found = guess(tensors)
    assert found is not None
    assert REFUSED[name] in found.refuses(tensors)


def test_separable_heads_of_vainf_are_refused() -> None:
    tensors = listed("vainf_v3plus_mnv2") | {"classifier.classifier.0.body.0.weight": torch.ones(1)}
    assert "--separable_conv" in VAINF.refuses(tensors)


def test_a_lost_key_and_one_too_many_are_named(tmp_path) -> None:
    tensors = filled("vainf_v3plus_mnv2")
    del tensors["classifier.project.1.bias"]
    torch.save({"model_state": tensors | {"classifier.more": torch.ones(1)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as fault:
        import_file(Call(str(tmp_path / "x.pth")))
    assert "1 missing (head.joins.low.reduce.1.bias); 1 extra (classifier.more)" in str(fault.value)


def test_a_list_imported_with_values(tmp_path) -> None:
    tensors = filled("vainf_v3plus_mnv2")
    torch.save({"model_state": tensors, "cur_itrs": 7}, tmp_path / "x.pth")
    ours = import_file(Call(str(tmp_path / "x.pth"), overrides=["os=8"]))
    assert (len(ours.used), ours.unused, ours.missing) == (len(tensors), (), ())
    assert ours.net.output_stride == 8
    found = ours.net.state_dict()["backbone.layers.17.conv.2.weight"]
    assert torch.equal(found, tensors["backbone.high_level_features.17.conv.2.weight"])


# -- what is turned on the way -------------------------------------------------------------------


def test_a_pooling_branch_comes_first_here() -> None:
    kernel = torch.arange(10.0).view(1, 10, 1, 1).expand(2, -1, -1, -1)  # five branches of two
    assert pooling_first(kernel)[0].flatten().tolist() == [8, 9, 0, 1, 2, 3, 4, 5, 6, 7]


@torch.inference_mode()
def test_vainfs_decoder_has_the_low_map_first() -> None:
    encoder, low = torch.randn(1, 6, 5, 5), torch.randn(1, 2, 5, 5)
    theirs = torch.randn(4, 8, 3, 3)
    renamed = VAINF.rename(
        {
            "classifier.aspp.x": torch.zeros(1),
            "classifier.project.0.weight": torch.zeros(2, 3, 1, 1),
            "classifier.classifier.0.weight": theirs,
        }
    )
    ours = renamed["head.joins.low.refine.0.0.weight"]
    expected = F.conv2d(torch.cat([low, encoder], 1), theirs)
    assert torch.allclose(F.conv2d(torch.cat([encoder, low], 1), ours), expected, atol=1e-4)


@torch.inference_mode()
def test_kazutos_pixels_are_blue_first_and_lack_the_mean() -> None:
    rgb, theirs = torch.rand(1, 3, 9, 9), torch.randn(4, 3, 7, 7)
    blue_first = (255 * rgb - torch.tensor([122.675, 116.669, 104.008]).view(1, 3, 1, 1)).flip(1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CAFFE_PIXELS.mean, CAFFE_PIXELS.std))
    ours = KAZUTO1011.rename({"base.layer1.conv1.conv.weight": theirs})["backbone.conv1.weight"]
    # The border is theirs, too: zero padding is the mean pixel in both.
    found = F.conv2d((rgb - mean) / std, ours, padding=3)
    expected = F.conv2d(blue_first, theirs, padding=3)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_kazutos_network_without_the_three_scales() -> None:
    tensors = {key.removeprefix("base."): t for key, t in listed("kazuto1011_v2_r101").items()}
    assert KAZUTO1011.recognises(tensors)
    assert "model.msc=false" in KAZUTO1011.overrides(tensors)
    assert "only v2" in KAZUTO1011.refuses({"base.layer1.conv1.conv.weight": torch.ones(1)})


@torch.inference_mode()
def test_keras_kernels_and_epsilons() -> None:
    kernel, depthwise = torch.randn(3, 3, 4, 5), torch.randn(3, 3, 4, 1)
    variance = torch.rand(4)
    ours = KERAS.rename(
        {
            "Conv_kernel": kernel,
            "expanded_conv_3_depthwise_depthwise_kernel": depthwise,
            "expanded_conv_3_depthwise_BN_moving_variance": variance,
            "aspp0_BN_moving_variance": variance,
            "custom_logits_semantic_bias": torch.ones(5),
        }
    )
    assert ours["backbone.layers.0.0.weight"][4, 3, 2, 1] == kernel[2, 1, 3, 4]
    assert ours["backbone.layers.4.conv.1.0.weight"][3, 0, 2, 1] == depthwise[2, 1, 3, 0]
    found = ours["backbone.layers.4.conv.1.1.running_var"] + nn.BatchNorm2d(1).eps
    assert torch.allclose(found, variance + 1e-3, rtol=0, atol=1e-7)
    assert torch.equal(ours["head.aspp.branches.1.1.running_var"], variance)
    assert "head.classifier.bias" in ours


def test_misshaped_tensors_are_left_to_the_fit() -> None:
    one = torch.zeros(1)
    files = {
        JFZHANG95: "aspp.conv1.weight",
        KAZUTO1011: "base.layer1.conv1.conv.weight",
        KERAS: "Conv_kernel",
        VAINF: "classifier.aspp.project.0.weight",
    }
    for source, key in files.items():
        assert list(source.rename({key: one}).values()) == [one]


# -- options that only imported weights need -----------------------------------------------------


@torch.inference_mode()
def test_a_border_of_expanded_zeros() -> None:
    """Around the map stands what the expansion makes of zeros."""
    torch.manual_seed(0)
    unit = Unit(1, 2, 2)
    theirs = InvertedResidual(4, 4, 6, unit, "expanded").eval()
    padded = InvertedResidual(4, 4, 6, unit, "zeros").eval()
    for norm in (part for part in theirs.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
    padded.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 4, 9, 9)
    wide = padded(F.pad(x, [5] * 4))[:, :, 5:-5, 5:-5]
    assert torch.allclose(theirs(x), wide, atol=1e-5)
    assert torch.allclose(theirs.project(theirs.depthwise(x), x), wide, atol=1e-5)
    assert not torch.allclose(padded(x), wide, atol=1e-2)


def test_the_first_convolution_then_goes_over_whole_neighbourhoods() -> None:
    x = torch.zeros(1, 3, 65, 65, device="meta")
    with torch.device("meta"):
        sides = [
            mobilenetv2(border=border, output_stride=16)(x)["out"].shape[-1]
            for border in ("zeros", "expanded")
        ]
    assert sides == [5, 4]


@torch.inference_mode()
def test_a_join_without_aligned_corners() -> None:
    torch.manual_seed(0)
    joins = [
        Join(2, 2, 2, [2], kernel=1, separable=False, align_corners=a).eval() for a in (True, False)
    ]
    joins[1].load_state_dict(joins[0].state_dict())
    x, low = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 9, 9)
    for join, aligned in zip(joins, (True, False), strict=True):
        full = F.interpolate(x, (9, 9), mode="bilinear", align_corners=aligned)
        assert torch.equal(join(x, low), join(full, low))
    assert not torch.allclose(joins[0](x, low), joins[1](x, low), atol=1e-3)


@pytest.mark.parametrize(
    ("typed", "pixels"),
    [
        (["model=v2_kazuto1011"], CAFFE_PIXELS),
        (["model=v2"], IMAGENET_PIXELS),
        (["backbone=mnv2_tf"], SYMMETRIC_PIXELS),
        (["backbone=mnv2_vainf"], IMAGENET_PIXELS),
        (["backbone=r50_v1c"], IMAGENET_PIXELS),
    ],
)
def test_pixels_travel_with_the_network(typed: list[str], pixels: Pixels) -> None:
    values = compose("train", typed).values
    with torch.device("meta"):
        net = network_of(values, 21, stages_of(values)[-1]["os"])
    assert net.pixels == pixels
    # Public weights that see other pixels are not offered.
    table = net.backbone.imagenet
    assert table is not None
    assert bool(table.files) == (pixels == IMAGENET_PIXELS and typed == ["backbone=mnv2_vainf"])


def test_options_there_are_none_of() -> None:
    makes = {
        "border": lambda: mobilenetv2(border="wide", output_stride=16),
        "pixels": lambda: mobilenetv2(pixels="grey", output_stride=16),
        "low": lambda: mobilenetv2(low="sum", output_stride=16),
    }
    for key, make in makes.items():
        with pytest.raises(ConfigError) as fault:
            make()
        assert fault.value.where == f"backbone.{key}"
    with pytest.raises(ConfigError, match="imagenet, symmetric, caffe"):
        resnet(50, pixels="grey", output_stride=16)
    for key in ("model.project_kernel", "model.refine_kernel"):
        with pytest.raises(ConfigError) as fault:
            check_network(compose("train", ["model=v3plus", f"{key}=2"]).values)
        assert fault.value.where == key


@pytest.mark.parametrize(("style", "widths"), [("v1c", [32, 32, 64]), ("beta", [64, 64, 128])])
def test_deep_stems(style: str, widths: list[int]) -> None:
    with torch.device("meta"):
        stem = resnet(50, style, output_stride=32).conv1
    assert [part.out_channels for part in stem if isinstance(part, nn.Conv2d)] == widths
