"""jfzhang95's pytorch-deeplab-xception: v3+ on ResNet-101.

From its ``modeling/deeplab.py``, ``aspp.py``, ``decoder.py`` and ``backbone/resnet.py`` (commit
9135e10); the network is ``conf/model/v3plus_jfzhang95.yaml``. Its Xception ends the entry flow with
a ReLU and has no batch norm behind its pointwise convolutions inside, its MobileNetV2 counts rates
otherwise, and DRN is none of the papers'.
"""

from torch import Tensor

from segkit.models.foreign.source import (
    Names,
    Source,
    Tensors,
    pooling_first,
    renamed,
    resnet_override,
)

NAMES: Names = (
    ("aspp.global_avg_pool.1.", "head.aspp.branches.0.0."),
    ("aspp.global_avg_pool.2.", "head.aspp.branches.0.1."),
    *((f"aspp.aspp{n}.atrous_conv.", f"head.aspp.branches.{n}.0.") for n in (1, 2, 3, 4)),
    *((f"aspp.aspp{n}.bn.", f"head.aspp.branches.{n}.1.") for n in (1, 2, 3, 4)),
    ("aspp.conv1.", "head.aspp.project.0."),
    ("aspp.bn1.", "head.aspp.project.1."),
    ("decoder.conv1.", "head.joins.low.reduce.0."),
    ("decoder.bn1.", "head.joins.low.reduce.1."),
    ("decoder.last_conv.0.", "head.joins.low.refine.0.0."),
    ("decoder.last_conv.1.", "head.joins.low.refine.0.1."),
    ("decoder.last_conv.4.", "head.joins.low.refine.1.0."),
    ("decoder.last_conv.5.", "head.joins.low.refine.1.1."),
    ("decoder.last_conv.8.", "head.classifier."),
)
_PROJECT = "head.aspp.project.0.weight"


def rename(tensors: Tensors) -> dict[str, Tensor]:
    ours = renamed(tensors, NAMES)
    if _PROJECT in ours:
        ours[_PROJECT] = pooling_first(ours[_PROJECT])
    return ours


def refuses(tensors: Tensors) -> str:
    found = resnet_override(tensors, "backbone.")
    if found == ["backbone=r101"]:
        return ""
    return "of this project's backbones only ResNet-101 is here; Xception, MobileNetV2, DRN differ"


JFZHANG95 = Source(
    name="jfzhang95",
    recognises=lambda tensors: "aspp.aspp1.atrous_conv.weight" in tensors,
    overrides=lambda _: ["model=v3plus_jfzhang95"],
    rename=rename,
    refuses=refuses,
    assumed="output stride: its default, 16, unless os=8 is typed",
)
