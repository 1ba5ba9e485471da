"""DeepLab v3 as torchvision has it: its published weights fit, but it is not the paper's v3."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.aspp import ASPP, ConvNormReLU
from segkit.models.atrous import scale_rates
from segkit.models.contracts import Feature, Head, check_sizes
from segkit.models.initial import he_normal, logits


class TorchvisionV3(Head):
    """ASPP -> dropout -> 3×3 -> 1×1 classifier; beside it a small FCN on ``res4`` in training.

    What differs from v3 (``torchvision/models/segmentation/deeplabv3.py``): rates 12, 24, 36
    written for output stride 8, image pooling as the last branch, dropout 0.5, the 3×3 behind it,
    no multi-grid, and the auxiliary score, which its training script weighs 0.5. torchvision
    resizes scores without aligned corners; here the segmenter does, as for every head.

    Raises ``ConfigError`` CFG-RATES, CFG-RANGE, and CFG-FEATURE where ``auxiliary`` lacks its map.
    """

    written_for = 8
    classifier_prefixes = ("classifier.", "auxiliary.")

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        rates: Sequence[int] = (12, 24, 36),
        channels: int = 256,
        dropout: float = 0.5,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels)
        if auxiliary and "res4" not in features:
            raise ConfigError(
                "FEATURE",
                "model.auxiliary",
                f"needs a map res4; the backbone has {', '.join(features)}",
                "model.auxiliary=false with loss.aux_weight=0",
            )
        scaled = scale_rates(
            rates, written_for=self.written_for, output_stride=output_stride, where="model.rates"
        )
        self.aspp = ASPP(
            features["out"].channels, channels, scaled, image_pooling=True, pooling_last=True
        )
        self.dropout = nn.Dropout(dropout)
        self.refine = ConvNormReLU(channels, channels, kernel=3)
        he_normal(self.refine)
        self.classifier = logits(channels, num_classes)
        self.gives_aux = auxiliary
        if auxiliary:
            self.auxiliary = FCN(features["res4"].channels, num_classes)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = {"out": self.classifier(self.refine(self.dropout(self.aspp(maps["out"]))))}
        if self.gives_aux and self.training:
            scores["aux"] = self.auxiliary(maps["res4"])
        return scores


class FCN(nn.Sequential):
    """3×3 to a quarter of the channels, dropout 0.1, 1×1 classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        width = in_channels // 4
        conv = ConvNormReLU(in_channels, width, kernel=3)
        he_normal(conv)
        super().__init__(conv, nn.Dropout(0.1), logits(width, num_classes))
