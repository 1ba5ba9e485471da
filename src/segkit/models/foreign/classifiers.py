"""Files of classifiers: no segmentation network to import, but what a training starts from."""

from segkit.models.foreign.source import Tensors, resnet_override, units

XCEPTIONS = {13: "x41", 21: "x65", 23: "x71"}  # by the number of blocks
# What the last layer is called: torchvision, timm, its transformers, torchvision's with dropout.
_LAST = ("fc.weight", "head.fc.weight", "head.weight", "classifier.weight", "classifier.1.weight")


def train_words(tensors: Tensors) -> str:
    """``backbone=`` and its kin that a training takes the file with; nothing if it is no such."""
    if {"features.0.weight", "features.28.weight"} <= tensors.keys():
        return "model=v1 backbone=vgg16"  # whose thirteenth convolution has this number
    if {"features.0.0.weight", "features.18.0.weight"} <= tensors.keys():
        return "backbone=mnv2"
    if known := backbone_override(tensors):
        return known[0]
    # Nothing in a file names the network it is of.
    is_other = any(key in tensors for key in _LAST)
    return "backbone=timm backbone.network=NAME" if is_other else ""


def backbone_override(tensors: Tensors) -> list[str]:
    """``backbone=`` of a plain ResNet or an aligned Xception; none if it is neither."""
    xception = XCEPTIONS.get(units(tensors, "blocks."))
    if xception and "blocks.0.stack.conv1.conv_dw.weight" in tensors:
        return [f"backbone={xception}"]
    # Where the stem is three 3×3, other things differ, too.
    return resnet_override(tensors, "") if "conv1.weight" in tensors else []
