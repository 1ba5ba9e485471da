"""The published DeepLabv3-MobileNetV2 for VOC, read back out of its 8-bit TensorFlow file.

The backbone has torchvision's names; in the ASPP batch norm is folded into biases. A folded
convolution is one whose batch norm does nothing but add the bias.
"""

import torch
from torch import Tensor

from segkit.models.foreign.source import Names, Source, Tensors, renamed

BACKBONE: Names = (("features.", "backbone.layers."), ("classifier.", "head.classifier."))
FOLDED = {
    "aspp.pool": "head.aspp.branches.0",
    "aspp.b0": "head.aspp.branches.1",
    "aspp.project": "head.aspp.project",
}
_EPSILON = 1e-5  # of the batch norms in aspp.py


def rename(tensors: Tensors) -> dict[str, Tensor]:
    folded = {key for key in tensors if key.rpartition(".")[0] in FOLDED}
    ours = renamed({k: v for k, v in tensors.items() if k not in folded}, BACKBONE)
    for key in sorted(folded):
        name, _, kind = key.rpartition(".")
        if kind == "bias":
            ours |= norm_of(FOLDED[name], tensors[key].float())
        else:
            ours[f"{FOLDED[name]}.0.{kind}"] = tensors[key]
    return ours


def norm_of(place: str, bias: Tensor) -> dict[str, Tensor]:
    """The batch norm that adds ``bias``: γ is 1, and so is the variance with its ε."""
    return {
        f"{place}.1.weight": torch.ones_like(bias),
        f"{place}.1.bias": bias,
        f"{place}.1.running_mean": torch.zeros_like(bias),
        f"{place}.1.running_var": torch.full_like(bias, 1 - _EPSILON),
    }


MNV2_VOC = Source(
    name="mnv2-voc",
    recognises=lambda tensors: {"features.0.0.weight", "aspp.b0.weight"} <= tensors.keys(),
    overrides=lambda _: ["model=v3_mnv2"],
    rename=rename,
)
