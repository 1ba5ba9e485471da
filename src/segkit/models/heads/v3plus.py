"""DeepLab v3+ (arXiv 1802.02611): v3's ASPP, and a decoder that looks at a map of stride 4."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models.aspp import ASPP, ConvNormReLU
from segkit.models.atrous import scale_rates
from segkit.models.contracts import Feature, Head, check_kernel, check_sizes
from segkit.models.initial import he_normal, logits
from segkit.models.separable import SeparableConvNormReLU, released_start

Decoder = Literal["none", "conv2", "conv2_conv3"]
# The maps each decoder joins, in order, and the stride it needs them at (§4.1: Conv2, Conv3).
JOINED: dict[str, dict[str, int]] = {
    "none": {},
    "conv2": {"low": 4},
    "conv2_conv3": {"res3": 8, "low": 4},
}


class DeepLabV3Plus(Head):
    """ASPP -> dropout -> decoder -> 1×1 classifier with bias, at stride 4.

    ``decoder``: ``conv2`` joins the backbone's ``low``; ``conv2_conv3`` joins ``res3`` before it,
    each join with its own refinement (Table 2, last row); ``none`` leaves the scores at the output
    stride, as v3 does. A refinement is ``refine_layers`` times [k×k, ``refine_channels``], k being
    ``refine_kernel`` (Table 2). ``separable`` replaces every 3×3 of ASPP and decoder (§3.2).
    ``rates`` are for output stride 16, as v3's. ``align_corners=False`` resizes as most
    ports do, ``project_kernel=3`` ends the ASPP as mmsegmentation does.

    Raises ``ConfigError`` CFG-RATES, CFG-RANGE, and CFG-FEATURE for a backbone without the map.
    """

    written_for = 16
    default_multi_grid = (1, 2, 4)  # §4: v3's best

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        image_pooling: bool = True,
        separable: bool = False,
        dropout: float = 0.1,
        decoder: Decoder = "conv2",
        low_channels: int = 48,
        refine_layers: int = 2,
        refine_kernel: int = 3,
        refine_channels: int = 256,
        align_corners: bool = True,
        project_kernel: int = 1,
    ) -> None:
        super().__init__()
        counts = {
            "channels": channels,
            "low_channels": low_channels,
            "refine_layers": refine_layers,
            "refine_channels": refine_channels,
        }
        _check(counts, dropout, decoder)
        check_kernel("refine_kernel", refine_kernel)
        check_kernel("project_kernel", project_kernel)
        scaled = scale_rates(
            rates, written_for=self.written_for, output_stride=output_stride, where="model.rates"
        )
        self.aspp = ASPP(
            features["out"].channels,
            channels,
            scaled,
            image_pooling=image_pooling,
            separable=separable,
            project_kernel=project_kernel,
        )
        self.dropout = nn.Dropout(dropout)
        self.joins = nn.ModuleDict()
        for name, stride in JOINED[decoder].items():
            self.joins[name] = Join(
                channels,
                _joined(features, name, stride, decoder).channels,
                low_channels,
                [refine_channels] * refine_layers,
                kernel=refine_kernel,
                separable=separable,
                align_corners=align_corners,
            )
            channels = refine_channels
        self.classifier = logits(channels, num_classes)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = self.dropout(self.aspp(maps["out"]))
        for name, join in self.joins.items():
            x = join(x, maps[name])
        return {"out": self.classifier(x)}


class Join(nn.Module):
    """``[B, in_channels, h, w]`` and a finer map of any size -> ``[B, widths[-1], that size]``.

    The finer map is reduced by a 1×1 so that it does not outweigh the other (§3.1), the other one
    resized to it (with aligned corners, as released); [encoder, low] are concatenated and refined.
    """

    def __init__(
        self,
        in_channels: int,
        low_in_channels: int,
        low_channels: int,
        widths: Sequence[int],
        *,
        kernel: int,
        separable: bool,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = ConvNormReLU(low_in_channels, low_channels, kernel=1)
        self.refine = nn.Sequential()
        channels = in_channels + low_channels
        for width in widths:
            self.refine.append(
                SeparableConvNormReLU(channels, width)
                if separable and kernel == 3
                else ConvNormReLU(channels, width, kernel)
            )
            channels = width
        he_normal(self)
        released_start(self)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        x = F.interpolate(x, low.shape[2:], mode="bilinear", align_corners=self.align_corners)
        refined: Tensor = self.refine(torch.cat([x, self.reduce(low)], dim=1))
        return refined


def _joined(features: Mapping[str, Feature], name: str, stride: int, decoder: str) -> Feature:
    found = features.get(name)
    if found is None or found.stride != stride:
        has = ", ".join(f"{key} at {feature.stride}" for key, feature in features.items())
        raise ConfigError(
            "FEATURE",
            "model.decoder",
            f"{decoder} needs a map {name} at stride {stride}; the backbone has {has}",
            "another backbone (r50, r101, mnv2), a larger os, or model.decoder=none",
        )
    return found


def _check(counts: Mapping[str, int], dropout: float, decoder: str) -> None:
    check_sizes(dropout, **counts)
    if decoder not in JOINED:
        choices = ", ".join(get_args(Decoder))
        raise ConfigError("RANGE", "model.decoder", f"found {decoder!r}", f"one of {choices}")
