"""Atrous spatial pyramid pooling with batch norm and image features (v3 §3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.models.initial import he_normal


class ConvNormReLU(nn.Sequential):
    """k×k convolution at a rate, size kept; batch norm (eps 1e-5, as released); ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, rate: int = 1) -> None:
        padding = rate * (kernel // 2)
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=rate, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )


class ImagePooling(ConvNormReLU):
    """The mean over the whole map, 1×1 convolution, and back to the map's size (v3 §3.3).

    Its batch norm sees one value per channel and image, so training it needs two images or more.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = super().forward(x.mean(dim=(2, 3), keepdim=True))
        # Resizing a single value bilinearly gives that value everywhere.
        return pooled.expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """``[B, in_channels, h, w]`` -> ``[B, channels, h, w]``.

    Branches in the released code's order: image pooling, 1×1, one 3×3 per rate; concatenated, then
    a 1×1 back to ``channels``. ``rates`` are those of this very map and may be empty (the released
    MobileNetV2 has no atrous branch).
    """

    def __init__(
        self, in_channels: int, channels: int, rates: Sequence[int], *, image_pooling: bool
    ) -> None:
        super().__init__()
        pooling = [ImagePooling(in_channels, channels)] if image_pooling else []
        atrous = [ConvNormReLU(in_channels, channels, 3, rate) for rate in rates]
        self.branches = nn.ModuleList([*pooling, ConvNormReLU(in_channels, channels, 1), *atrous])
        self.project = ConvNormReLU(len(self.branches) * channels, channels, 1)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
