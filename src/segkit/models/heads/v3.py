"""DeepLab v3 (arXiv 1706.05587): ASPP on the last map, one linear classifier."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from segkit.models.aspp import ASPP
from segkit.models.atrous import scale_rates
from segkit.models.contracts import Feature, Head, check_kernel, check_sizes
from segkit.models.initial import logits


class DeepLabV3(Head):
    """ASPP -> dropout -> 1×1 classifier with bias, at the backbone's output stride.

    ``rates`` as §3.3 gives them, for output stride 16: doubled at 8, halved at 32; as many branches
    as rates, none for the released MobileNetV2. ``batch_norm=False`` is an ASPP with biases
    instead, as v2's was; ``project_kernel=3`` ends it as mmsegmentation does. Dropout keeps 0.9 as
    the released code does; the paper mentions none. Raises ``ConfigError`` CFG-RATES and CFG-RANGE.
    """

    written_for = 16
    default_multi_grid = (1, 2, 4)  # §4.3, Table 5: best with ASPP

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        image_pooling: bool = True,
        batch_norm: bool = True,
        dropout: float = 0.1,
        project_kernel: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels)
        check_kernel("project_kernel", project_kernel)
        scaled = scale_rates(
            rates, written_for=self.written_for, output_stride=output_stride, where="model.rates"
        )
        self.aspp = ASPP(
            features["out"].channels,
            channels,
            scaled,
            image_pooling=image_pooling,
            batch_norm=batch_norm,
            project_kernel=project_kernel,
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = logits(channels, num_classes)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"out": self.classifier(self.dropout(self.aspp(maps["out"])))}
