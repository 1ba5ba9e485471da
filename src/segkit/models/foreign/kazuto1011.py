"""kazuto1011's deeplab-pytorch: v2 on ResNet-101, as converted from the released Caffe files.

From its ``libs/models/deeplabv2.py``, ``resnet.py`` and ``msc.py`` (commit 4219467); the network is
``conf/model/v2_kazuto1011.yaml``. The image is 0 to 255 minus the mean, blue first: ``pixels:
caffe`` and a turned first kernel are exactly that. Two things are not as there: the three input
scales are made and joined with aligned corners, as v2's own were, and pool1 rounds down, which
tells where a side is no 4k + 1.
"""

import re

from torch import Tensor

from segkit.models.foreign.source import Source, Tensors, renamed

_STEM = "layer1.conv1.conv.weight"
_PLACES = {
    "reduce.conv": "conv1",
    "reduce.bn": "bn1",
    "conv3x3.conv": "conv2",
    "conv3x3.bn": "bn2",
    "increase.conv": "conv3",
    "increase.bn": "bn3",
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
}
_UNIT = re.compile(r"layer([2-5])\.block([1-9][0-9]?)\.([a-z0-9]+\.[a-z]+)\.(\w+)")


def is_msc(tensors: Tensors) -> bool:
    return f"base.{_STEM}" in tensors


def bare(tensors: Tensors) -> dict[str, Tensor]:
    """Without the prefix of the wrapper that asks at three scales."""
    return {key.removeprefix("base."): tensor for key, tensor in tensors.items()}


def rename(tensors: Tensors) -> dict[str, Tensor]:
    ours = {}
    for key, tensor in bare(tensors).items():
        unit = _UNIT.fullmatch(key)
        if unit and unit[3] in _PLACES:
            layer, index = int(unit[1]) - 1, int(unit[2]) - 1
            ours[f"backbone.layer{layer}.{index}.{_PLACES[unit[3]]}.{unit[4]}"] = tensor
        elif key == _STEM:
            ours["backbone.conv1.weight"] = tensor.flip(1) if tensor.ndim == 4 else tensor
        elif key.startswith("aspp.c") and key.count(".") == 2:
            _, branch, kind = key.split(".")
            ours[f"head.branches.{branch.removeprefix('c')}.fc8.{kind}"] = tensor
        else:
            ours |= renamed({key: tensor}, (("layer1.conv1.bn.", "backbone.bn1."),))
    return ours


def refuses(tensors: Tensors) -> str:
    return "" if "aspp.c0.weight" in bare(tensors) else "of this project's models only v2 is here"


KAZUTO1011 = Source(
    name="kazuto1011",
    recognises=lambda tensors: _STEM in bare(tensors),
    overrides=lambda t: ["model=v2_kazuto1011", f"model.msc={str(is_msc(t)).lower()}"],
    rename=rename,
    refuses=refuses,
    classifier="head.branches.0.fc8.weight",
    assumed="rates: ASPP-L's 6, 12, 18, 24; its ASPP-S is model.rates=[3,6,9,12]",
)
