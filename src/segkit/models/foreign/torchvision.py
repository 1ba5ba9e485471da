"""torchvision's DeepLabV3 on a ResNet (``torchvision/models/segmentation/deeplabv3.py``)."""

from segkit.models.foreign.source import (
    Names,
    Source,
    Tensors,
    has_prefix,
    renamed,
    resnet_override,
)

# Their pooling branch begins with a pooling layer, which has no tensors.
NAMES: Names = (
    ("classifier.0.convs.4.1.", "head.aspp.branches.4.0."),
    ("classifier.0.convs.4.2.", "head.aspp.branches.4.1."),
    ("classifier.0.convs.", "head.aspp.branches."),
    ("classifier.0.project.", "head.aspp.project."),
    ("classifier.1.", "head.refine.0."),
    ("classifier.2.", "head.refine.1."),
    ("classifier.4.", "head.classifier."),
    ("aux_classifier.0.", "head.auxiliary.0.0."),
    ("aux_classifier.1.", "head.auxiliary.0.1."),
    ("aux_classifier.4.", "head.auxiliary.2."),
)


def overrides(tensors: Tensors) -> list[str]:
    without = [] if has_prefix(tensors, "aux_classifier.") else ["model.auxiliary=false", "loss=ce"]
    return ["model=v3_torchvision", *resnet_override(tensors, "backbone."), *without]


def refuses(tensors: Tensors) -> str:
    if resnet_override(tensors, "backbone."):
        return ""
    return "of this project's backbones only ResNets (18, 34, 50, 101) are here; MobileNetV3 is not"


TORCHVISION = Source(
    name="torchvision",
    recognises=lambda tensors: has_prefix(tensors, "classifier.0.convs."),
    overrides=overrides,
    rename=lambda tensors: renamed(tensors, NAMES),
    refuses=refuses,
    optional=(("aux_classifier.", "head.auxiliary."),),
)
