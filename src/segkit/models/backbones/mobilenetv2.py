"""MobileNetV2 1.0 without its classifier; ``layers.N`` is torchvision's ``features.N``.

DeepLab takes the 320-channel map (``layers.17``, the TF code's ``layer_18``) and leaves out the
1280-channel convolution behind it (MobileNetV2 §6.3; the 2.11M and 4.52M of its Table 7 count so).
"""

from collections.abc import Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.atrous import Unit, plan_units
from segkit.models.contracts import Backbone, Feature
from segkit.models.initial import he_normal
from segkit.models.weights import ImageNetWeights, WeightFile

# MobileNetV2 Table 2: expansion, channels, units, stride of the first unit.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM_CHANNELS = 32

# The index of the last unit before each stride: where the maps are tapped.
_TAPS = {3: "res2", 6: "res3", 13: "res4", 17: "res5"}

# Which map at stride 4 a decoder sees, of the last unit there (layers.3). released: 144 channels
# behind the depthwise convolution (the TF code's layer_4/depthwise_output); ports: its 24.
Low = Literal["released", "ports"]
_LOW = 3

# torchvision's file is the one MobileNet_V2_Weights.IMAGENET1K_V1 names; the other one is an 8-bit
# TensorFlow network read back into floats, which has no public torch file.
_IMAGENET = ImageNetWeights(
    (
        WeightFile(
            "mobilenet_v2-b0353104.pth",
            "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        ),
        WeightFile("mobilenet_v2_tf2ptq_fp16.pth"),
    ),
    unused=("classifier.", "features.18."),
    # ``features`` is the contract's own word, for the maps a backbone gives.
    renamed=(("features.", "layers."),),
)


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise 3×3, linear 1×1, and the identity where the channels allow it.

    Every unit with a stride (MobileNetV2 Table 2) has other channels behind it than before, so one
    whose stride was traded for a rate grows no residual its weights have never seen.
    """

    def __init__(self, in_channels: int, channels: int, expansion: int, unit: Unit) -> None:
        super().__init__()
        hidden = in_channels * expansion
        depthwise = ConvNormReLU6(hidden, hidden, 3, unit.stride, unit.rate, groups=hidden)
        project = nn.Conv2d(hidden, channels, 1, bias=False)
        expand = [ConvNormReLU6(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(channels))
        self.residual = in_channels == channels
        self.hidden = hidden

    def depthwise(self, x: Tensor) -> Tensor:
        """The expanded map, ``hidden`` channels, behind the depthwise convolution."""
        for layer in list(self.conv)[:-2]:
            x = layer(x)
        return x

    def project(self, expanded: Tensor, x: Tensor) -> Tensor:
        """The unit's output from its expanded map and its input."""
        y = self.conv[-1](self.conv[-2](expanded))
        return x + y if self.residual else y

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class ConvNormReLU6(nn.Sequential):
    """Convolution, batch norm, ReLU clipped at 6."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int = 1,
        rate: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                channels,
                kernel,
                stride=stride,
                padding=rate * (kernel // 2),
                dilation=rate,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU6(inplace=True),
        )


class MobileNetV2(Backbone):
    """Maps ``low``; ``res2``, ``res3``, ``res4``, ``res5`` = ``out``: 24, 32, 96, 320 channels."""

    name = "mnv2"
    imagenet = _IMAGENET
    stem_stride = 2

    def __init__(self, *, low: Low, output_stride: int, multi_grid: Sequence[int] | None) -> None:
        super().__init__()
        self.low = low
        plan = plan_units(
            [[stride] + [1] * (units - 1) for _, _, units, stride in _BLOCKS],
            output_stride=output_stride,
            stem_stride=self.stem_stride,
            multi_grid=multi_grid,
            accepts_multi_grid=self.accepts_multi_grid,
            network=self.name,
        )
        self.layers = nn.Sequential(ConvNormReLU6(3, _STEM_CHANNELS, 3, self.stem_stride))
        self.features = {}
        channels, stride = _STEM_CHANNELS, self.stem_stride
        for (expansion, width, _, _), units in zip(_BLOCKS, plan, strict=True):
            for unit in units:
                self.layers.append(InvertedResidual(channels, width, expansion, unit))
                channels, stride = width, stride * unit.stride
                if tap := _TAPS.get(len(self.layers) - 1):
                    self.features[tap] = Feature(channels, stride)
        decoded = self.features["res2"]
        if low == "released":
            decoded = Feature(cast(InvertedResidual, self.layers[_LOW]).hidden, decoded.stride)
        self.features |= {"low": decoded, "out": self.features["res5"]}
        he_normal(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for index, layer in enumerate(self.layers):
            if index == _LOW and self.low == "released":
                unit = cast(InvertedResidual, layer)
                maps["low"] = unit.depthwise(x)
                x = unit.project(maps["low"], x)
            else:
                x = layer(x)
            if tap := _TAPS.get(index):
                maps[tap] = x
        return {"low": maps["res2"], **maps, "out": maps["res5"]}


def mobilenetv2(
    *, low: Low = "released", output_stride: int, multi_grid: Sequence[int] | None = None
) -> MobileNetV2:
    """MobileNetV2 at width 1.0; output strides 2, 4, 8, 16, 32; it cannot have a multi-grid.

    Raises ``ConfigError`` CFG-BACKBONE for a tap there is none of.
    """
    if low not in get_args(Low):
        choices = f"one of {', '.join(get_args(Low))}"
        raise ConfigError("BACKBONE", "backbone.low", f"there is no tap {low!r}", choices)
    return MobileNetV2(low=low, output_stride=output_stride, multi_grid=multi_grid)
