"""Receptive fields and multiply-adds: the papers' figures, and the support of the gradient."""

from functools import partial

import pytest
import torch
from network_zoo import BACKBONES
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segkit.models.anatomy import Anatomy, Watch, anatomy_of
from segkit.models.arithmetic import NETWORKS, Layer, Reach, layer_reaches, space_to_batch
from segkit.models.backbones.vgg import vgg16
from segkit.models.heads.cascade import Cascade
from segkit.models.heads.v1 import DeepLabV1
from segkit.models.heads.v2 import DeepLabV2
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.heads.v3plus import DeepLabV3Plus
from segkit.models.segmenter import Segmenter, build_segmenter

# Facts §7.1: size / total stride / receptive field for an input of 224.
CLASSIC = {
    "alexnet": """
        conv1 54 4 11, pool1 26 8 19, conv2 26 8 51, pool2 12 16 67, conv3 12 16 99,
        conv4 12 16 131, conv5 12 16 163, pool5 5 32 195""",
    "vgg16": """
        conv1_1 224 1 3, conv1_2 224 1 5, pool1 112 2 6, conv2_1 112 2 10, conv2_2 112 2 14,
        pool2 56 4 16, conv3_1 56 4 24, conv3_2 56 4 32, conv3_3 56 4 40, pool3 28 8 44,
        conv4_1 28 8 60, conv4_2 28 8 76, conv4_3 28 8 92, pool4 14 16 100, conv5_1 14 16 132,
        conv5_2 14 16 164, conv5_3 14 16 196, pool5 7 32 212""",
    "zf-5": """
        conv1 112 2 7, pool1 56 4 11, conv2 28 8 27, pool2 14 16 43, conv3 14 16 75,
        conv4 14 16 107, conv5 14 16 139""",
}


@pytest.mark.parametrize("name", CLASSIC)
def test_the_classic_three(name):
    expected = [tuple(row.split()) for row in CLASSIC[name].split(",")]
    found = layer_reaches(NETWORKS[name], 224)
    assert [
        (row.name, str(row.size), str(row.stride), str(row.receptive_field)) for row in found
    ] == expected


@pytest.mark.parametrize(("kernel", "field"), [(7, 404), (4, 308)])
def test_fc6_behind_vgg_pool5(kernel, field):
    layers = [*NETWORKS["vgg16"], Layer("fc6", kernel)]
    assert layer_reaches(layers, 224)[-1].receptive_field == field


def test_a_list_ends_where_nothing_is_left():
    assert [row.name for row in layer_reaches(NETWORKS["vgg16"], 5)][-1] == "conv3_3"


def test_a_resize_sees_two_positions_between_and_one_on_them():
    coarse = Reach().window(kernel=1, stride=4)
    fine = coarse.resized(9, 33, aligned=True)
    assert fine.jump == 1
    assert [fine.seen(position) for position in range(8, 13)] == [(8, 8), *[(8, 12)] * 3, (12, 12)]
    assert fine.receptive_field == 5


@pytest.mark.parametrize(("side", "to"), [(64, 512), (31, 1021), (8, 512), (1, 33)])
@pytest.mark.parametrize("aligned", [True, False])
def test_sides_that_do_not_fit_stay_finite(side, to, aligned):
    reach = Reach().window(7, 2, 3).window(3, 8).resized(side, to, aligned=aligned)
    twice = reach.beside(Reach().window(3)).resized(to, to + 1, aligned=aligned)
    assert len(twice.spans) <= 1024
    assert 0 < twice.receptive_field < 80


@pytest.mark.parametrize(
    ("side", "rate", "padded"), [(33, 1, 33), (33, 2, 34), (33, 6, 36), (33, 36, 36), (65, 5, 65)]
)
def test_space_to_batch_rounds_up_to_the_rate(side, rate, padded):
    assert space_to_batch((side, 1), rate) == (padded, rate)
    assert (padded + 2 * rate) % rate == 0


# -- real networks -----------------------------------------------------------------------------


def made(make_backbone, make_head, output_stride, multi_grid=None, num_classes=21) -> Segmenter:
    return build_segmenter(
        make_backbone,
        make_head,
        num_classes=num_classes,
        output_stride=output_stride,
        multi_grid=multi_grid,
    )


def on_meta(make_backbone, make_head, output_stride, multi_grid=None, crop=513) -> Anatomy:
    with torch.device("meta"):
        net = made(make_backbone, make_head, output_stride, multi_grid)
    return anatomy_of(net, crop)


DEEP = ("r34", "r101", "r101_caffe", "r101_beta", "x65", "x71")


def named(anatomy: Anatomy, ending: str) -> int | None:
    (row,) = [unit for unit in anatomy.units if unit.name.endswith(ending)]
    return row.receptive_field


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
@pytest.mark.parametrize(
    ("name", "multi_grid", "field"),
    [("r50_beta", None, 487), ("r101_beta", None, 1031), ("r101_beta", (1, 2, 4), 1287)],
)
def test_the_field_of_block4_at_any_output_stride(name, multi_grid, field, output_stride):
    anatomy = on_meta(BACKBONES[name], DeepLabV3, output_stride, multi_grid)
    assert named(anatomy, "layer4.2") == field


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in DEEP else ())
        for n in BACKBONES
        if n != "r_tiny"
    ],
)
def test_no_field_depends_on_the_output_stride(name):
    """A check on all bookkeeping of strides and rates (facts §7.1)."""
    found = {
        output_stride: [
            (unit.name, unit.receptive_field)
            for unit in on_meta(BACKBONES[name], DeepLabV3, output_stride).units
        ]
        for output_stride in (8, 16, 32)
    }
    assert found[8] == found[16] == found[32]


FC6 = [(7, 4, 419, 435), (4, 8, 419, 435), (3, 12, 419, 435), (4, 4, 323, 339), (3, 6, 323, 339)]


@pytest.mark.parametrize(("kernel", "rate", "field", "averaged"), FC6)
@pytest.mark.parametrize("average_pool", [False, True])
def test_fields_of_v1(kernel, rate, field, averaged, average_pool):
    """Facts §7.1, VGG with 3×3 pools: without pool5a and with it."""
    head = partial(DeepLabV1, kernel=kernel, rate=rate)
    anatomy = on_meta(partial(vgg16, 3, average_pool), head, 8)
    assert named(anatomy, "layers.30") == 227
    expected = averaged if average_pool else field
    assert named(anatomy, "fc6") == anatomy.receptive_field == expected


def test_fields_of_v2s_branches():
    anatomy = on_meta(vgg16, DeepLabV2, 8)
    branches = [named(anatomy, f"branches.{n}.fc6") for n in range(4)]
    assert branches == [323, 419, 515, 611]
    assert anatomy.receptive_field == 611


def test_a_unit_that_runs_for_three_scales_is_listed_three_times():
    names = [u.name for u in on_meta(BACKBONES["r_tiny"], partial(DeepLabV2, msc=True), 8).units]
    scales = [name for name in names if name.startswith("backbone.conv1")]
    assert scales == ["backbone.conv1", "backbone.conv1#2", "backbone.conv1#3"]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("crop", [1, 2, 64])
def test_any_crop_can_be_counted(crop):
    anatomy = on_meta(BACKBONES["r_tiny"], partial(DeepLabV2, msc=True), 8, crop=crop)
    assert anatomy.macs > 0
    assert anatomy.receptive_field is not None


def test_image_pooling_sees_all_and_is_left_out_of_the_field():
    pooled, alone = (
        on_meta(BACKBONES["r18"], partial(DeepLabV3, image_pooling=on), 16) for on in (True, False)
    )
    assert (pooled.sees_all, alone.sees_all) == (True, False)
    assert pooled.receptive_field == alone.receptive_field
    assert named(pooled, "branches.0.0") is None


@pytest.mark.parametrize(
    ("output_stride", "rates"), [(8, [2, 2, 4, 8, 16]), (16, [1, 1, 2, 4, 8]), (32, [1] * 5)]
)
def test_rates_and_strides_of_units(output_stride, rates):
    grid = (1, 2, 4) if output_stride < 32 else (1, 1, 1)
    units = on_meta(BACKBONES["r50_beta"], DeepLabV3, output_stride, grid).units
    found = {unit.name.removeprefix("backbone."): unit for unit in units}
    last = [f"layer{block}" for block in ("3.0", "3.5", "4.0", "4.1", "4.2")]
    assert [found[name].rate for name in last] == rates
    assert [found[f"layer{n}"].stride for n in ("1.2", "2.3", "3.5")] == [
        2, 2 if output_stride > 8 else 1, 2 if output_stride > 16 else 1,
    ]  # fmt: skip
    assert found["layer4.2"].size == 512 // output_stride + 1
    assert found["layer4.2"].channels == 2048


@pytest.mark.slow
@pytest.mark.parametrize(("output_stride", "expected"), [(16, 928.52), (8, 3054.64)])
def test_six_scales_and_flip(output_stride, expected):
    """Facts §4.4, X65 with separable head; a scaled side is (513 − 1)·s + 1."""
    with torch.device("meta"):
        net = made(BACKBONES["x65"], partial(DeepLabV3Plus, separable=True), output_stride)
    crops = [257, 385, 513, 641, 769, 897]
    once = sum(anatomy_of(net, crop).macs_space_to_batch for crop in crops)
    assert 2 * once / 1e9 == pytest.approx(expected, abs=0.005)


# -- the gradient's support --------------------------------------------------------------------


WIDTH = 64 * 32 + 1


class Averages(TorchFunctionMode):
    """Max pools as averages: a maximum passes the gradient to one of the positions it sees."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.max_pool2d:
            return F.avg_pool2d(*args, stride=kwargs["stride"], padding=kwargs["padding"])
        return func(*args, **kwargs)


def make_positive(net: nn.Module) -> None:
    """Nothing can cancel: means instead of filters, no bias, norms that are the identity."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def columns_of_the_gradient(net: Segmenter, position: int) -> tuple[int, int]:
    # So small that no sum of shortcuts reaches the 6 of a ReLU6.
    image = torch.full((1, 3, 1, WIDTH), 1e-6, dtype=torch.float64, requires_grad=True)
    with Averages():
        net.scores(image)["out"][0, 0, 0, position].backward()
    columns = image.grad[0].abs().sum((0, 1)).nonzero()
    return columns.min().item(), columns.max().item()


V3 = partial(DeepLabV3, image_pooling=False, rates=(6,), channels=8)
V3_PLUS = partial(DeepLabV3Plus, image_pooling=False, rates=(6,), channels=8, refine_channels=8)
NETS = {
    "v3 r_tiny 8": (BACKBONES["r_tiny"], V3, 8, None),
    "v3 r50_caffe 8": (BACKBONES["r50_caffe"], V3, 8, (1, 2, 1)),
    "v3 r50_beta 16": (BACKBONES["r50_beta"], V3, 16, (1, 2, 4)),
    "cascade r50 64": (BACKBONES["r50"], partial(Cascade, blocks=5), 64, (1, 2, 1)),
    "v1 vgg 8": (vgg16, partial(DeepLabV1, channels=8), 8, None),
    "v1 vgg 2x2 16": (partial(vgg16, 2), partial(DeepLabV1, channels=8), 16, None),
    "v1 msc": (vgg16, partial(DeepLabV1, channels=8, rate=6, msc=True), 8, None),
    "v3 mnv2 16": (BACKBONES["mnv2"], V3, 16, None),
    "v3plus joins both 32": (
        BACKBONES["r_tiny"],
        partial(V3_PLUS, decoder="conv2_conv3", separable=True),
        32,
        None,
    ),
    "v3plus x41 16": (BACKBONES["x41"], V3_PLUS, 16, None),
}
SLOW = ("v3 r50_caffe 8", "v1 vgg 8", "v1 vgg 2x2 16", "v3plus x41 16")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETS],
)
def test_the_arithmetic_is_the_support_of_the_gradient(name):
    """First and last column, for a position of every phase, far from the borders."""
    with torch.device("meta"):
        ghost = made(*NETS[name], num_classes=2).eval()
        image = torch.empty(1, 3, 1, WIDTH)
    with torch.no_grad(), Watch(ghost, image) as watch:
        out = ghost.scores(image)["out"]
    reach = watch.reaches[out]
    net = made(*NETS[name], num_classes=2).double().eval()
    make_positive(net)
    middle = out.shape[-1] // 2
    for position in range(middle, middle + len(reach.spans)):
        low, high = reach.seen(position)
        assert 0 < low < high < WIDTH - 1
        assert columns_of_the_gradient(net, position) == (low, high)
