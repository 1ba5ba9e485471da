"""VainF's DeepLabV3Plus-Pytorch: v3 and v3+ on ResNet-50, ResNet-101 and MobileNetV2.

From its ``network/modeling.py``, ``_deeplab.py`` and ``backbone/mobilenetv2.py`` (commit 4e1087d);
the networks are ``conf/model/v3_vainf.yaml`` and ``v3plus_vainf.yaml``.
"""

from torch import Tensor

from segkit.models.foreign import torchvision
from segkit.models.foreign.source import (
    Names,
    Source,
    Tensors,
    has_prefix,
    pooling_first,
    renamed,
    resnet_override,
)

# A MobileNetV2 is cut in two at the decoder's map; both parts go on counting.
_BACKBONE: Names = (
    ("backbone.low_level_features.", "backbone.layers."),
    ("backbone.high_level_features.", "backbone.layers."),
)
V3_NAMES: Names = (
    *_BACKBONE,
    *((f"classifier.{theirs}", here) for theirs, here in torchvision.NAMES),
)
V3PLUS_NAMES: Names = (
    *_BACKBONE,
    ("classifier.project.", "head.joins.low.reduce."),
    ("classifier.aspp.convs.4.1.", "head.aspp.branches.0.0."),
    ("classifier.aspp.convs.4.2.", "head.aspp.branches.0.1."),
    *((f"classifier.aspp.convs.{n}.", f"head.aspp.branches.{n + 1}.") for n in range(4)),
    ("classifier.aspp.project.", "head.aspp.project."),
    ("classifier.classifier.0.", "head.joins.low.refine.0.0."),
    ("classifier.classifier.1.", "head.joins.low.refine.0.1."),
    ("classifier.classifier.3.", "head.classifier."),
)
_PROJECT = "head.aspp.project.0.weight"
_REDUCE, _REFINE = "head.joins.low.reduce.0.weight", "head.joins.low.refine.0.0.weight"


def is_v3plus(tensors: Tensors) -> bool:
    return has_prefix(tensors, "classifier.aspp.")


def backbone_override(tensors: Tensors) -> list[str]:
    if has_prefix(tensors, "backbone.low_level_features."):
        return ["backbone=mnv2_vainf"]
    return resnet_override(tensors, "backbone.")


def overrides(tensors: Tensors) -> list[str]:
    model = "v3plus_vainf" if is_v3plus(tensors) else "v3_vainf"
    return [f"model={model}", *backbone_override(tensors)]


def refuses(tensors: Tensors) -> str:
    if not backbone_override(tensors):
        return "of this project's backbones only ResNets and MobileNetV2 are here"
    if any(key.startswith("classifier.") and ".body." in key for key in tensors):
        return "was trained with --separable_conv, which no head here has in this form"
    return ""


def rename(tensors: Tensors) -> dict[str, Tensor]:
    if not is_v3plus(tensors):
        return renamed(tensors, V3_NAMES)
    ours = renamed(tensors, V3PLUS_NAMES)
    if _PROJECT in ours:
        ours[_PROJECT] = pooling_first(ours[_PROJECT])
    if _REFINE in ours and _REDUCE in ours and ours[_REFINE].ndim == 4:
        # Theirs concatenates [low, encoder], v3+ has them the other way round.
        ours[_REFINE] = ours[_REFINE].roll(-len(ours[_REDUCE]), 1)
    return ours


VAINF = Source(
    name="vainf",
    recognises=lambda tensors: has_prefix(tensors, "classifier.classifier."),
    overrides=overrides,
    rename=rename,
    refuses=refuses,
    assumed="output stride: its default, 16, unless os=8 is typed",
)
