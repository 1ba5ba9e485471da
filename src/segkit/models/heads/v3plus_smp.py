"""DeepLabV3+ as segmentation_models_pytorch has it: its weights fit, but it is not the paper's."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models.aspp import ASPP, ConvNormReLU
from segkit.models.atrous import scale_rates
from segkit.models.contracts import Feature, Head, check_sizes
from segkit.models.initial import he_normal, logits
from segkit.models.separable import depthwise3x3


class SmpV3Plus(Head):
    """ASPP -> dropout -> separable 3×3 -> joined with ``low``, one separable 3×3 -> classifier.

    What differs from v3+ (smp's ``decoders/deeplabv3/decoder.py``): rates 12, 24, 36 at output
    stride 16, image pooling as the last branch, dropout 0.5, a separable 3×3 behind the ASPP, one
    refinement instead of two, and no batch norm within its separable convolutions.

    Raises ``ConfigError`` CFG-RATES, CFG-RANGE, and CFG-FEATURE for a backbone without ``low``.
    """

    written_for = 16

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        rates: Sequence[int] = (12, 24, 36),
        channels: int = 256,
        low_channels: int = 48,
        separable: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels, low_channels=low_channels)
        if "low" not in features:
            raise ConfigError(
                "FEATURE",
                "model",
                f"v3plus_smp needs a map low; the backbone has {', '.join(features)}",
                "another backbone (r50, r101)",
            )
        scaled = scale_rates(
            rates, written_for=self.written_for, output_stride=output_stride, where="model.rates"
        )
        in_channels = features["out"].channels
        self.aspp = ASPP(in_channels, channels, scaled, image_pooling=True, pooling_last=True)
        if separable:
            for place, rate in enumerate(scaled, start=1):
                self.aspp.branches[place] = BareSeparable(in_channels, channels, rate)
        self.dropout = nn.Dropout(dropout)
        self.smooth = BareSeparable(channels, channels)
        self.reduce = ConvNormReLU(features["low"].channels, low_channels, kernel=1)
        self.refine = BareSeparable(channels + low_channels, channels)
        he_normal(self)
        self.classifier = logits(channels, num_classes)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = self.smooth(self.dropout(self.aspp(maps["out"])))
        x = F.interpolate(x, maps["low"].shape[2:], mode="bilinear", align_corners=True)
        x = self.refine(torch.cat([x, self.reduce(maps["low"])], dim=1))
        return {"out": self.classifier(x)}


class BareSeparable(nn.Sequential):
    """3×3 per channel at a rate, 1×1 across channels, and only then batch norm and ReLU."""

    def __init__(self, in_channels: int, channels: int, rate: int = 1) -> None:
        depthwise = depthwise3x3(in_channels, rate)
        pointwise = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        convs = nn.Sequential(depthwise, pointwise)
        super().__init__(convs, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
