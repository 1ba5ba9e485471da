"""mmsegmentation's DeepLabV3 and DeepLabV3Plus on ResNet-50 and ResNet-101.

From its ``decode_heads/aspp_head.py``, ``sep_aspp_head.py``, ``backbones/resnet.py`` and
``configs/_base_/models/deeplabv3*_r50-d8.py`` (v0.18.0, commit 8d49dd3); the networks are
``conf/model/v3_mmseg.yaml`` and ``v3plus_mmseg.yaml``.
"""

from segkit.models.foreign.source import (
    Names,
    Source,
    Tensors,
    has_prefix,
    renamed,
    resnet_override,
)

_HEAD = "decode_head."
_SEPARABLE = (
    ("depthwise_conv.conv.", "0."),
    ("depthwise_conv.bn.", "1."),
    ("pointwise_conv.conv.", "3."),
    ("pointwise_conv.bn.", "4."),
)
_DENSE = (("conv.", "0."), ("bn.", "1."))
# The last norm of a deep stem is the network's own here.
NAMES: Names = (
    ("backbone.stem.7.", "backbone.bn1."),
    ("backbone.stem.", "backbone.conv1."),
    *(
        (f"{_HEAD}{theirs}{inside}", f"head.{here}{place}")
        for theirs, here in (
            ("image_pool.1.", "aspp.branches.0."),
            *((f"aspp_modules.{n}.", f"aspp.branches.{n + 1}.") for n in range(4)),
            ("bottleneck.", "aspp.project."),
            ("c1_bottleneck.", "joins.low.reduce."),
            *((f"sep_bottleneck.{n}.", f"joins.low.refine.{n}.") for n in (0, 1)),
        )
        for inside, place in (*_SEPARABLE, *_DENSE)
    ),
    (f"{_HEAD}conv_seg.", "head.classifier."),
)


def backbone_override(tensors: Tensors) -> list[str]:
    """The plain ResNet where the stem is a 7×7 (its r50b), else the one with three 3×3."""
    deep = "_v1c" if has_prefix(tensors, "backbone.stem.") else ""
    return [o + deep for o in resnet_override(tensors, "backbone.") if o.endswith(("50", "101"))]


def refuses(tensors: Tensors) -> str:
    if not backbone_override(tensors) or has_prefix(tensors, "backbone.layer1.0.downsample.2."):
        return "of this project's backbones only ResNet-50, ResNet-101 (v1c, v1b) are here"
    return ""


def overrides(tensors: Tensors) -> list[str]:
    plus = has_prefix(tensors, f"{_HEAD}sep_bottleneck.")
    return [f"model={'v3plus' if plus else 'v3'}_mmseg", *backbone_override(tensors)]


MMSEGMENTATION = Source(
    name="mmsegmentation",
    recognises=lambda tensors: has_prefix(tensors, f"{_HEAD}aspp_modules."),
    overrides=overrides,
    rename=lambda tensors: renamed(tensors, NAMES),
    refuses=refuses,
    unused=("auxiliary_head.",),
    assumed="output stride: 8, as -d8 in its names; for v3+, whether corners are aligned: no",
)
