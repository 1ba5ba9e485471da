"""Every network as a file: the same scores at any size, in any batch, at OS 8 and 16."""

import functools
import io
import math
from pathlib import Path

import pytest
import torch
from network_zoo import random_norms
from torch import nn

import segkit
from segkit.models import export
from segkit.models.export import TOLERANCE, Answer, difference, probes
from segkit.models.segmenter import Segmenter, resized

CONF = Path(__file__).parents[2] / "conf"
KINDS = {
    "onnx": (export.to_onnx, export.onnx_runner),
    "torch": (export.to_torch, export.torch_runner),
}

VGG = {"vgg16", "vgg16_pool5a"}
BASIC, TINY = {"r18", "r34"}, {"r_tiny", "timm"}
BOTTLENECKS = {
    f"r{depth}{style}" for depth in (50, 101) for style in ("", "_beta", "_caffe", "_v1c")
}
MOBILE, XCEPTIONS = {"mnv2", "mnv2_tf", "mnv2_vainf"}, {"x41", "x65", "x71"}
ALL = VGG | BASIC | TINY | BOTTLENECKS | MOBILE | XCEPTIONS
# Where a model goes with some backbones only; its own YAML or its head says why.
FITS = {
    **dict.fromkeys([path.stem for path in (CONF / "model").glob("v1*.yaml")], VGG),
    "v2_kazuto1011": BOTTLENECKS | BASIC | MOBILE,
    "v3_cascade": BOTTLENECKS,
    "v3_smp": BOTTLENECKS,
    "v3plus_jfzhang95": BOTTLENECKS,
    "v3plus_smp": BOTTLENECKS,
    "v3plus_vainf": BOTTLENECKS | BASIC | MOBILE | XCEPTIONS,
}
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
PAIRS = [(model, backbone) for model in MODELS for backbone in sorted(FITS.get(model, ALL))]
# A head sees nothing of a backbone but maps, so that each model on one network and each network
# under two heads meet every line of both; the rest of the grid is the long row.
HOSTS = {"r50", "vgg16"}
FIRST = {"v2", "v3plus"}


@functools.lru_cache(maxsize=2)
def network(model: str, backbone: str, stride: int, *overrides: str) -> Segmenter:
    """A network whose batch norms are no identity, so that one folded wrongly shows."""
    torch.manual_seed(0)
    net = segkit.build(model, backbone, os=stride, num_classes=5, overrides=overrides).eval()
    random_norms(net)
    return net


@functools.lru_cache(maxsize=4)
def exported(kind: str, model: str, backbone: str, stride: int, *overrides: str) -> bytes:
    net = network(model, backbone, stride, *overrides)
    return KINDS[kind][0](Answer(net, "logits").eval(), '{"a": 1}')


def check(
    kind: str, model: str, backbone: str, stride: int, *overrides: str, every: int = 1
) -> None:
    """Every ``every``-th probe gives what the network gives."""
    pytest.importorskip("onnxruntime")
    net = network(model, backbone, stride, *overrides)
    run = KINDS[kind][1](exported(kind, model, backbone, stride, *overrides))
    for images in probes(stride, torch.Generator().manual_seed(1))[::every]:
        with torch.no_grad():
            logits = net(images)
        output = run(images)
        assert output.shape == (len(images), 5, *images.shape[2:])
        assert logits.std() > 0
        assert difference(logits, output) <= TOLERANCE
        assert (logits.argmax(1) == output.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("onnx", ("v3plus", "r_tiny", 16)),
        ("onnx", ("v1_msc", "vgg16", 8)),
        ("torch", ("v1_msc", "vgg16", 8)),
        ("torch", ("v2_largefov", "vgg16", 16)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_file_gives_the_networks_scores(kind: str, words: tuple) -> None:
    check(kind, *words, every=3)


def grid() -> list:
    rows = []
    for model, backbone in PAIRS:
        first = backbone in HOSTS or model in FIRST
        mark = pytest.mark.slow if first else pytest.mark.long
        rows += [
            pytest.param(model, backbone, stride, marks=mark, id=f"{model}-{backbone}-{stride}")
            for stride in (8, 16)
        ]
    return rows


@pytest.mark.parametrize(("model", "backbone", "stride"), grid())
def test_every_network_can_be_a_file(model: str, backbone: str, stride: int) -> None:
    for kind in KINDS:
        check(kind, model, backbone, stride)


class Scaled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return resized(images, 0.75)


def test_an_images_size_is_no_constant_of_a_scale() -> None:
    sizes = {2: torch.export.Dim("height", min=5), 3: torch.export.Dim("width", min=5)}
    program = torch.export.export(Scaled(), (torch.zeros(1, 3, 33, 41),), dynamic_shapes=(sizes,))
    for side in (5, 32, 65, 66):
        images = torch.randn(1, 3, side, 33, generator=torch.Generator().manual_seed(side))
        assert torch.equal(program.module()(images), resized(images, 0.75))


class Rounded(nn.Module):
    """A pool that rounds up beside a stride that rounds up: torch cannot prove them equal.

    Nor can it save the number that timm's networks round up in Python.
    """

    output_stride, num_classes = 4, 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
        return (pooled + images[..., ::2, ::2]) * math.ceil(images.shape[2] / 2)


def test_what_cannot_be_proven_of_sizes_may_still_hold() -> None:
    net = Rounded()
    sizes = {2: torch.export.Dim("height", min=9), 3: torch.export.Dim("width", min=9)}
    with pytest.raises(RuntimeError, match="Constraints violated"):
        torch.export.export(net, (torch.zeros(1, 3, 21, 28),), dynamic_shapes=(sizes,))
    run = export.torch_runner(export.to_torch(Answer(net, "logits"), "{}"))
    for images in probes(4, torch.Generator().manual_seed(1)):
        assert torch.equal(run(images), net(images))


@pytest.mark.slow
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_scale_of_v2_is_inside(kind: str, stride: int) -> None:
    check(kind, "v2", "r50_caffe", stride, "model.msc=true")


@pytest.mark.slow
def test_a_network_of_patches_is_onnx_alone() -> None:
    pytest.importorskip("timm")
    words = ("v3", "timm", 32, "backbone.network=convnext_pico")
    check("onnx", *words)
    with pytest.raises(AssertionError, match="Guard failed"):
        check("torch", *words)


# -- what the check sees -------------------------------------------------------------------------


def edited(change: str) -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(exported("onnx", "v1_msc", "vgg16", 8))
    for node in model.graph.node:
        for attribute in node.attribute:
            if change == "corners" and attribute.name == "coordinate_transformation_mode":
                assert attribute.s == b"align_corners"
                attribute.s = b"half_pixel"
            if change == "border" and node.op_type == "MaxPool" and attribute.name == "pads":
                attribute.ints[:] = [0, 0, 2, 2]
    return model.SerializeToString()


@pytest.mark.parametrize("change", ["corners", "border"])
def test_other_corners_and_borders_are_far_beyond_the_tolerance(change: str) -> None:
    pytest.importorskip("onnxruntime")
    net = network("v1_msc", "vgg16", 8)
    run = export.onnx_runner(edited(change))
    for images in probes(8, torch.Generator().manual_seed(1))[:3]:
        with torch.no_grad():
            assert difference(net(images), run(images)) > 100 * TOLERANCE


def test_a_difference_is_that_of_the_worst_score() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.999, -2.0]]).view(1, 2, 2, 1)
    assert difference(logits, logits) == 0
    assert difference(logits, logits + 0.5) == pytest.approx(0.25)
    for none in (logits * torch.nan, logits[:, :1], logits[..., 1:, :]):
        assert difference(logits, none) == float("inf")


def test_of_labels_only_ties_may_change_places() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.9999, -2.0]]).view(1, 2, 2, 1)
    best, tie, wrong = (torch.tensor(v).view(1, 2, 1) for v in ([0, 0], [1, 0], [0, 1]))
    assert difference(logits, best) == 0
    assert 0 < difference(logits, tie) < TOLERANCE
    assert difference(logits, wrong) == 1
    assert difference(logits, best + 2) == float("inf")
    assert difference(logits, best[:, :1]) == float("inf")


# -- what a file promises ------------------------------------------------------------------------


def test_an_onnx_files_own_words() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(exported("onnx", "v1_msc", "vgg16", 8))
    (image,), (logits,) = model.graph.input, model.graph.output
    sides = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, logits)
    ]
    assert sides == [["batch", 3, "height", "width"], ["batch", 5, "height", "width"]]
    assert (image.name, logits.name) == ("image", "logits")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [export.OPSET]
    assert {p.key: p.value for p in model.metadata_props}["segkit"] == '{"a": 1}'
    assert b"segkit/models" not in exported("onnx", "v1_msc", "vgg16", 8)


def test_a_torch_files_smallest_side_is_what_is_said() -> None:
    module = torch.export.load(io.BytesIO(exported("torch", "v1_msc", "vgg16", 8))).module()
    least = export.smallest_side(8)
    with torch.no_grad():
        assert module(torch.zeros(1, 3, least, 40)).shape == (1, 5, least, 40)
        with pytest.raises((RuntimeError, AssertionError)):
            module(torch.zeros(1, 3, least - 1, 40))


def test_labels_are_those_of_the_best_scores() -> None:
    net = network("v1_msc", "vgg16", 8)
    images = torch.randn(2, 3, 33, 20, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels, best = Answer(net, "labels")(images), net(images).argmax(1)
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, 33, 20))
    assert torch.equal(labels.long(), best)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_labels(kind: str) -> None:
    pytest.importorskip("onnxruntime")
    net = network("v3", "r_tiny", 16)
    make, runner = KINDS[kind]
    run = runner(make(Answer(net, "labels").eval(), "{}"))
    for images in probes(16, torch.Generator().manual_seed(1)):
        with torch.no_grad():
            logits = net(images)
        labels = run(images)
        assert labels.dtype == torch.uint8
        assert difference(logits, labels) <= TOLERANCE
        assert (labels == logits.argmax(1)).float().mean() > 0.999


def test_preferred_sides_are_where_corners_meet_pixels() -> None:
    assert export.preferred_sides(16) == [321, 513, 769, 1025]
    assert all(side % 32 == 1 for side in export.preferred_sides(32))
