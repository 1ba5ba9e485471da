"""What the key lists of other projects do not tell: rates, dropout, multi-grid and resizing.

The numbers are theirs, read in their source at the commits that ``segkit/models/foreign`` names:
mmsegmentation's ``configs/_base_/models/deeplabv3*_r50-d8.py`` (and a ``-d16`` of them) with
``contract_dilation``; jfzhang95's ``modeling/aspp.py``, ``decoder.py`` and ``backbone/resnet.py``;
VainF's ``network/modeling.py``, ``_deeplab.py`` and ``backbone/mobilenetv2.py``; kazuto1011's
``libs/models/deeplabv2.py``, which is fixed at output stride 8: at 16 it is half the rates, which
see the same of the image.
"""

import pytest
import torch
from network_zoo import rates
from torch import nn

from segkit.config import compose
from segkit.models.segmenter import Segmenter
from segkit.parts import network_of

# Of blocks 3 and 4, unit by unit, at output strides 16 and 8.
KEPT = {16: [[1] * 6, [1, 2, 2]], 8: [[1, 2, 2, 2, 2, 2], [2, 4, 4]]}  # torchvision, contract
JFZHANG95 = {16: [[1] * 23, [2, 4, 8]], 8: [[2] * 23, [4, 8, 16]]}
CAFFE = {16: [[1] * 23, [2] * 3], 8: [[2] * 23, [4] * 3]}
ASPP = {16: [6, 12, 18], 8: [12, 24, 36]}
ASPP_L = {16: [3, 6, 9, 12], 8: [6, 12, 18, 24]}

# The model; units' rates; ASPP's; its dropout; multi-grid; the projection's kernel.
OPTIONS = [
    ("v3_mmseg", KEPT, ASPP, [0.1], None, 3),
    ("v3plus_mmseg", KEPT, ASPP, [0.1], None, 3),
    ("v3plus_jfzhang95", JFZHANG95, ASPP, [0.5], (1, 2, 4), 1),
    ("v3_vainf", KEPT, ASPP, [0.1], None, 1),
    ("v3plus_vainf", KEPT, ASPP, [0.1], None, 1),
    ("v2_kazuto1011", CAFFE, ASPP_L, [], None, None),
]
# Where the decoder's map is resized to; a head without one leaves the resizing to the segmenter.
ALIGNED = {"v3plus_mmseg": False, "v3plus_jfzhang95": True, "v3plus_vainf": False}


def network(model: str, output_stride: int, *typed: str) -> Segmenter:
    values = compose("train", [f"model={model}", f"os={output_stride}", *typed]).values
    with torch.device("meta"):
        return network_of(values, 21, output_stride)


def atrous(head: nn.Module) -> list[int]:
    """The rates of its 3×3 convolutions that have one, in order."""
    convs = (part for part in head.modules() if isinstance(part, nn.Conv2d))
    return [conv.dilation[0] for conv in convs if conv.dilation[0] > 1]


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize(("model", "units", "aspp", "dropout", "grid", "kernel"), OPTIONS)
def test_as_their_source_has_it(model, units, aspp, dropout, grid, kernel, output_stride) -> None:
    net = network(model, output_stride)
    head = net.head
    expected = units[output_stride]
    found = rates(net.backbone)
    assert {rate for block in found[:2] for rate in block} == {1}
    assert found[2:] == expected
    assert atrous(head) == aspp[output_stride]
    assert [part.p for part in head.modules() if isinstance(part, nn.Dropout)] == dropout
    assert net.multi_grid == grid
    assert (head.aspp.project[0].kernel_size[0] if kernel else None) == kernel
    joins = [join.align_corners for join in head.joins.values()] if model in ALIGNED else []
    assert joins == ([ALIGNED[model]] if model in ALIGNED else [])
    assert net.output_stride == output_stride


@pytest.mark.parametrize(
    ("output_stride", "last"), [(16, [[1] * 3, [1, 2, 2, 2]]), (8, [[2] * 3, [2, 4, 4, 4]])]
)
def test_vainfs_mobilenet(output_stride: int, last: list[list[int]]) -> None:
    """Its 320 channels share a block with the 160 before them; each unit keeps the rate before."""
    net = network("v3plus_vainf", output_stride, "backbone=mnv2_vainf")
    assert rates(net.backbone)[4:] == last


def test_the_strides_they_come_at() -> None:
    """mmsegmentation's names end in -d8, kazuto1011's is fixed; the others' default is 16."""
    stride = {model: 8 if "mmseg" in model or "kazuto" in model else 16 for model, *_ in OPTIONS}
    assert {m: compose("train", [f"model={m}"]).values["os"] for m in stride} == stride


def test_three_scales_of_kazuto1011() -> None:
    """``MSC(base, scales=[0.5, 0.75])``; ``model.msc=false`` is its base alone."""
    assert network("v2_kazuto1011", 8).head.input_scales == (1.0, 0.75, 0.5)
    assert network("v2_kazuto1011", 8, "model.msc=false").head.input_scales == (1.0,)
