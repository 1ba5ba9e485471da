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


def normal(conv: nn.Conv2d, std: float) -> nn.Conv2d:
    """``conv`` with weights from N(0, std) and bias 0, as Caffe's "gaussian" filler starts it."""
    if _has_values(conv):
        nn.init.normal_(conv.weight, std=std)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def logits(channels: int, num_classes: int, *, kernel: int = 1, rate: int = 1) -> nn.Conv2d:
    """The classifier a DeepLab ends in: N(0, 0.01), bias 0 (released code of v1 to v3+).

    1×1, but for v2's branches on a ResNet (§4.1.2). ``kernel`` is odd; the size is kept.
    """
    padding = rate * (kernel // 2)
    conv = nn.Conv2d(channels, num_classes, kernel, padding=padding, dilation=rate)
    return normal(conv, 0.01)


def _has_values(conv: nn.Conv2d) -> bool:
    # normal_ on the meta device does nothing, after four seconds of imports (seen: torch 2.15).
    return not conv.weight.is_meta
