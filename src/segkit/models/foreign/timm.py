"""timm's classifiers: ResNets (torchvision's names) and aligned Xceptions (the names used here)."""

from segkit.models.foreign.source import (
    Source,
    Tensors,
    has_prefix,
    renamed,
    resnet_override,
    units,
)

_XCEPTIONS = {13: "x41", 21: "x65", 23: "x71"}  # by the number of blocks


def recognises(tensors: Tensors) -> bool:
    return has_prefix(tensors, "blocks.0.stack.conv1.conv_dw.") or (
        {"conv1.weight", "layer1.0.conv1.weight"} <= tensors.keys()
    )


def overrides(tensors: Tensors) -> list[str]:
    xception = _XCEPTIONS.get(units(tensors, "blocks."))
    if xception:
        return [f"backbone={xception}"]
    return resnet_override(tensors, "")


TIMM = Source(
    name="timm",
    recognises=recognises,
    overrides=overrides,
    rename=lambda tensors: renamed(tensors, (("", "backbone."),)),
    unused=("fc.", "head."),
    backbone_only=True,
    assumed="where a ResNet strides: as timm and torchvision; Caffe's is backbone=r50_caffe",
)
