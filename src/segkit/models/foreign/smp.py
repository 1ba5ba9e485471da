"""segmentation_models_pytorch's DeepLabV3 and DeepLabV3Plus on a ResNet.

From ``decoders/deeplabv3/decoder.py`` and ``encoders/_base.py`` of smp 0.5 and 0.6; the networks
are ``conf/model/v3_smp.yaml`` and ``v3plus_smp.yaml``.
"""

from segkit.models.foreign.source import (
    Names,
    Source,
    Tensors,
    has_prefix,
    renamed,
    resnet_override,
)

V3_NAMES: Names = (
    ("encoder.", "backbone."),
    ("decoder.aspp.convs.4.1.", "head.aspp.branches.4.0."),
    ("decoder.aspp.convs.4.2.", "head.aspp.branches.4.1."),
    ("decoder.aspp.convs.", "head.aspp.branches."),
    ("decoder.aspp.project.", "head.aspp.project."),
    ("decoder.conv.", "head.refine.0."),
    ("decoder.bn.", "head.refine.1."),
    ("segmentation_head.0.", "head.classifier."),
)
V3PLUS_NAMES: Names = (
    ("encoder.", "backbone."),
    ("decoder.aspp.0.convs.4.1.", "head.aspp.branches.4.0."),
    ("decoder.aspp.0.convs.4.2.", "head.aspp.branches.4.1."),
    ("decoder.aspp.0.convs.", "head.aspp.branches."),
    ("decoder.aspp.0.project.", "head.aspp.project."),
    ("decoder.aspp.1.", "head.smooth.0."),
    ("decoder.aspp.2.", "head.smooth.1."),
    ("decoder.block1.", "head.reduce."),
    ("decoder.block2.", "head.refine."),
    ("segmentation_head.0.", "head.classifier."),
)


def is_v3plus(tensors: Tensors) -> bool:
    return has_prefix(tensors, "decoder.aspp.0.convs.")


def overrides(tensors: Tensors) -> list[str]:
    backbone = resnet_override(tensors, "encoder.")
    if not is_v3plus(tensors):
        return ["model=v3_smp", *backbone, *width(tensors, "decoder.aspp.project.0.weight")]
    separable = "decoder.aspp.0.convs.1.0.0.weight" in tensors
    channels = width(tensors, "decoder.aspp.0.project.0.weight")
    return [
        "model=v3plus_smp",
        *backbone,
        *channels,
        f"model.separable={str(separable).lower()}",
    ]


def refuses(tensors: Tensors) -> str:
    if resnet_override(tensors, "encoder."):
        return ""
    return "of this project's encoders only resnet18, resnet34, resnet50, resnet101 are here"


def width(tensors: Tensors, key: str) -> list[str]:
    """smp's ``decoder_channels``."""
    return [f"model.channels={len(tensors[key])}"] if key in tensors and tensors[key].ndim else []


SMP = Source(
    name="smp",
    recognises=lambda tensors: has_prefix(tensors, "decoder.aspp."),
    overrides=overrides,
    rename=lambda tensors: renamed(tensors, V3PLUS_NAMES if is_v3plus(tensors) else V3_NAMES),
    refuses=refuses,
    unused=("encoder.fc.",),
    assumed="output stride and rates: smp's defaults unless os= and model.rates= are typed",
)
