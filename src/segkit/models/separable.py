"""Depthwise separable convolution as v3+'s heads have it (arXiv 1802.02611, section 3.1)."""

from torch import nn


def depthwise3x3(channels: int, rate: int) -> nn.Conv2d:
    """A 3×3 of its own for every channel; the map keeps its size."""
    return nn.Conv2d(
        channels,
        channels,
        kernel_size=3,
        padding=rate,
        dilation=rate,
        groups=channels,
        bias=False,
    )


class SeparableConvNormReLU(nn.Sequential):
    """3×3 per channel at a rate, then 1×1 across channels; the map keeps its size.

    Batch norm (eps 1e-5) and ReLU stand behind both, as in the released heads; most of the
    Xception backbone has no ReLU in between.
    """

    def __init__(self, in_channels: int, channels: int, rate: int = 1) -> None:
        super().__init__(
            depthwise3x3(in_channels, rate),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )


def released_start(module: nn.Module) -> None:
    """Every separable convolution of ``module`` as the released code starts it (``model.py``).

    Truncated normal of standard deviation 0.33 depthwise and 0.06 pointwise.
    """
    for part in module.modules():
        if isinstance(part, SeparableConvNormReLU):
            _truncated_normal(part[0], std=0.33)
            _truncated_normal(part[3], std=0.06)


def _truncated_normal(conv: nn.Module, std: float) -> None:
    assert isinstance(conv, nn.Conv2d)
    if not conv.weight.is_meta:
        # TensorFlow cuts off at twice the standard deviation.
        nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
