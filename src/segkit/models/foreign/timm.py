"""timm's classifiers: ResNets (torchvision's names) and aligned Xceptions (the names used here)."""

from segkit.models.foreign.classifiers import backbone_override
from segkit.models.foreign.source import Source, Tensors, has_prefix, renamed


def recognises(tensors: Tensors) -> bool:
    return has_prefix(tensors, "blocks.0.stack.conv1.conv_dw.") or (
        {"conv1.weight", "layer1.0.conv1.weight"} <= tensors.keys()
    )


def refuses(tensors: Tensors) -> str:
    if backbone_override(tensors):
        return ""
    return (
        "of its ResNets and aligned Xceptions only r18, r34, r50, r101, x41, x65, x71 are here; "
        "any other is backbone=timm backbone.network=NAME pretrained=FILE of segkit train"
    )


TIMM = Source(
    name="timm",
    recognises=recognises,
    overrides=backbone_override,
    rename=lambda tensors: renamed(tensors, (("", "backbone."),)),
    refuses=refuses,
    unused=("fc.", "head."),
    backbone_only=True,
    assumed="where a ResNet strides: as timm and torchvision; Caffe's is backbone=r50_caffe",
)
