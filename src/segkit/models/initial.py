"""How a convolution starts where no weights are loaded."""

from torch import nn


def he_normal(module: nn.Module) -> None:
    """Every convolution of ``module``: normal, variance 2 / fan-out, bias 0 (He et al. 2015, §2.2).

    What torchvision's classifiers start from. The papers leave the ASPP's start open (the released
    code names a standard deviation for separable branches and logits only), so it takes this too.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and _has_values(part):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def logits(channels: int, num_classes: int) -> nn.Conv2d:
    """The 1×1 classifier a DeepLab ends in: N(0, 0.01), bias 0 (released code of v1 to v3+)."""
    conv = nn.Conv2d(channels, num_classes, 1)
    if _has_values(conv):
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _has_values(conv: nn.Conv2d) -> bool:
    # normal_ on the meta device does nothing, after four seconds of imports (seen: torch 2.15).
    return not conv.weight.is_meta
