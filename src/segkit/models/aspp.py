"""Atrous spatial pyramid pooling with batch norm and image features (v3 §3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.models.initial import he_normal
from segkit.models.separable import SeparableConvNormReLU, released_start


class ConvNormReLU(nn.Sequential):
    """k×k convolution at a rate, size kept; batch norm (eps 1e-5, as released); ReLU.

    Without batch norm the convolution has the bias instead.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        rate: int = 1,
        *,
        batch_norm: bool = True,
    ) -> None:
        conv = nn.Conv2d(
            in_channels,
            channels,
            kernel,
            padding=rate * (kernel // 2),
            dilation=rate,
            bias=not batch_norm,
        )
        norm = [nn.BatchNorm2d(channels)] if batch_norm else []
        super().__init__(conv, *norm, nn.ReLU(inplace=True))


class ImagePooling(ConvNormReLU):
    """The mean over the whole map, 1×1 convolution, and back to the map's size (v3 §3.3).

    Its batch norm sees one value per channel and image, so training it needs two images or more.
    """

    def __init__(self, in_channels: int, channels: int, *, batch_norm: bool = True) -> None:
        super().__init__(in_channels, channels, kernel=1, batch_norm=batch_norm)
        self.min_train_batch = 2 if batch_norm else 1

    def forward(self, x: Tensor) -> Tensor:
        pooled = super().forward(x.mean(dim=(2, 3), keepdim=True))
        # Resizing a single value bilinearly gives that value everywhere.
        pooled = pooled.expand(-1, -1, *x.shape[2:])
        # Beside maps with channels last it must be one: else all of the pyramid is joined as planes
        # and turned for the projection. A traced network has no layout.
        if not torch.compiler.is_exporting() and x.is_contiguous(memory_format=torch.channels_last):
            return pooled.contiguous(memory_format=torch.channels_last)
        return pooled


class ASPP(nn.Module):
    """``[B, in_channels, h, w]`` -> ``[B, channels, h, w]``.

    Branches in the released code's order: image pooling, 1×1, one 3×3 per rate; concatenated, then
    a 1×1 back to ``channels``. ``rates`` are those of this very map and may be empty (the released
    MobileNetV2 has no atrous branch). ``separable`` replaces the 3×3 (v3+ §3.2), which then always
    have batch norm; ``batch_norm=False`` takes it from every other convolution. Other codebases:
    ``pooling_last`` is torchvision's order, which only permutes the projection's input;
    ``project_kernel=3`` is mmsegmentation's projection.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        *,
        image_pooling: bool,
        batch_norm: bool = True,
        separable: bool = False,
        pooling_last: bool = False,
        project_kernel: int = 1,
    ) -> None:
        super().__init__()
        pooling: list[nn.Module] = (
            [ImagePooling(in_channels, channels, batch_norm=batch_norm)] if image_pooling else []
        )
        first: list[nn.Module] = [ConvNormReLU(in_channels, channels, 1, batch_norm=batch_norm)]
        atrous: list[nn.Module] = [
            SeparableConvNormReLU(in_channels, channels, rate)
            if separable
            else ConvNormReLU(in_channels, channels, 3, rate, batch_norm=batch_norm)
            for rate in rates
        ]
        branches = [*first, *atrous, *pooling] if pooling_last else [*pooling, *first, *atrous]
        self.branches = nn.ModuleList(branches)
        self.project = ConvNormReLU(
            len(branches) * channels, channels, kernel=project_kernel, batch_norm=batch_norm
        )
        he_normal(self)
        released_start(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
