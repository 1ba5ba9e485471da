"""DeepLab v1 (arXiv 1412.7062): VGG's fc layers with holes, and multi-scale features."""

from collections.abc import Mapping

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.atrous import scale_rates
from segkit.models.contracts import Feature, Head
from segkit.models.fully_connected import FullyConnected
from segkit.models.initial import logits, normal

# §4.3: the input image and the first four pools.
TAPS = ("image", "pool1", "pool2", "pool3", "pool4")


class Tap(nn.Module):
    """3×3 with a stride, 128; 1×1, 128; ReLU and dropout behind both; its own score layer.

    Starts from N(0, 0.001), pool4's 1×1 from N(0, 0.005), the score layer from N(0, 0.01), biases
    0 (released prototxt, facts §1.4).
    """

    def __init__(
        self, feature: Feature, num_classes: int, *, stride: int, std_1x1: float, dropout: float
    ) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(feature.channels, 128, 3, stride=stride, padding=1)
        self.conv1x1 = nn.Conv2d(128, 128, 1)
        self.dropout = nn.Dropout(dropout)
        self.score = logits(128, num_classes)
        normal(self.conv3x3, 0.001)
        normal(self.conv1x1, std_1x1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.conv3x3(x).relu_())
        x = self.dropout(self.conv1x1(x).relu_())
        scores: Tensor = self.score(x)
        return scores


class DeepLabV1(Head):
    """fc6 -> fc7 -> fc8 on VGG's last map; ``kernel``, ``rate`` and ``channels`` as in Table 2.

    ``rate`` as the paper gives it, for output stride 8. ``msc``: the scores of five taps are added
    to those of fc8, which equals §4.3's concatenation and one linear classifier on it. Raises
    ``ConfigError`` CFG-BACKBONE for any network but VGG, CFG-RATES and CFG-RANGE.
    """

    written_for = 8
    classifier_prefixes = ("fc.fc8.",)

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        kernel: int = 3,
        rate: int = 12,
        channels: int = 1024,
        msc: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not features.keys() >= set(TAPS):
            raise ConfigError(
                "BACKBONE",
                "backbone",
                "DeepLab v1 continues VGG's fully connected layers",
                "vgg16 or vgg16_pool5a; on a ResNet model=v2 and its kin",
            )
        (scaled,) = scale_rates(
            [rate], written_for=self.written_for, output_stride=output_stride, where="model.rate"
        )
        self.fc = FullyConnected(
            features["out"].channels,
            num_classes,
            kernel=kernel,
            rate=scaled,
            channels=channels,
            dropout=dropout,
        )
        self.taps = nn.ModuleDict(
            {
                name: Tap(
                    features[name],
                    num_classes,
                    stride=output_stride // min(features[name].stride, output_stride),
                    std_1x1=0.005 if name == "pool4" else 0.001,
                    dropout=dropout,
                )
                for name in (TAPS if msc else ())
            }
        )

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = self.fc(maps["out"])
        for name, tap in self.taps.items():
            scores = scores + tap(maps[name])
        return {"out": scores}

    def from_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """fc6 and fc7; with taps fc8 is wanted, too, as nothing but they is trained (§4.3)."""
        found = {f"fc.{key}": value for key, value in self.fc.from_classifier(tensors).items()}
        if self.taps:
            found |= dict.fromkeys(("fc.fc8.weight", "fc.fc8.bias"))
        return found
