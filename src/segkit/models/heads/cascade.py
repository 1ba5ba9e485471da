"""DeepLab v3's other design (arXiv 1706.05587, section 3.2): more blocks in cascade, no ASPP."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.atrous import Unit, plan_units
from segkit.models.backbones.resnet import Bottleneck
from segkit.models.contracts import Feature, Head
from segkit.models.initial import he_normal, logits

FIRST, LAST = 4, 7
UNITS = 3


class Cascade(Head):
    """Block4 of a ResNet -> its copies block5 ... -> 1×1 classifier with bias.

    ``blocks`` is the number of the last one, 4 (the backbone alone) to 7. A copy has block4's three
    units, but no shortcut convolution (2048 -> 2048), and the same multi-grid. Every block but the
    last strides at its end, in its last unit's 3×3, until the output stride is reached; from there
    on each stride not taken doubles the rates of all blocks behind it. Raises ``ConfigError``
    CFG-RANGE, and CFG-OUTPUT-STRIDE for more than the blocks can stride (7 reach 256).
    """

    written_for = 16
    default_multi_grid = (1, 2, 1)  # §4.2, Table 3: best with block7
    max_backbone_stride = 32
    repeats_last_block = True

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
        blocks: int = LAST,
    ) -> None:
        super().__init__()
        if not FIRST <= blocks <= LAST:
            raise ConfigError("RANGE", "model.blocks", f"found {blocks}", f"{FIRST} to {LAST}")
        channels = features["out"].channels
        block4, *added = block_plan(blocks, output_stride, multi_grid)
        self.first_stride = block4[-1].stride
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(Bottleneck(channels, channels // Bottleneck.expansion, u, "beta") for u in units)
            )
            for units in added
        )
        he_normal(self.blocks)
        self.classifier = logits(channels, num_classes)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # All that follows block4's last 3×3 inside its unit is pointwise, so striding that
        # convolution, which is the backbone's, is to leave out positions of the unit's output.
        x = maps["out"][:, :, :: self.first_stride, :: self.first_stride]
        for block in self.blocks:
            x = block(x)
        return {"out": self.classifier(x)}


def block_plan(
    blocks: int, output_stride: int, multi_grid: Sequence[int] | None
) -> list[list[Unit]]:
    """Strides and rates of the units of block4 and of every block added to it.

    Counted through from block1, all with the stride in the last unit, as Fig. 3 has it: whichever
    unit of a backbone's own blocks strides, block4 is reached at 32 or at the output stride.
    """
    strided, last = (*(1,) * (UNITS - 1), 2), (1,) * UNITS
    plan = plan_units(
        [*[strided] * (blocks - 1), last],
        output_stride=output_stride,
        stem_stride=4,
        multi_grid=None,
        accepts_multi_grid=True,
        network=f"a cascade up to block{blocks}",
    )
    grid = (1,) * UNITS if multi_grid is None else tuple(multi_grid)
    return [
        [
            Unit(unit.stride, unit.rate * times, unit.rate_after * times)
            for unit, times in zip(units, grid, strict=True)
        ]
        for units in plan[FIRST - 1 :]
    ]
