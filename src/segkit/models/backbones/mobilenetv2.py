"""MobileNetV2 1.0 without its classifier; ``layers.N`` is torchvision's ``features.N``.

DeepLab takes the 320-channel map (``layers.17``, the TF code's ``layer_18``) and leaves out the
1280-channel convolution behind it (MobileNetV2 §6.3; the 2.11M and 4.52M of its Table 7 count so).
"""

from collections.abc import Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models import recompute
from segkit.models.activations import ReLU6
from segkit.models.atrous import Unit, plan_units
from segkit.models.contracts import Backbone, Feature
from segkit.models.initial import he_normal
from segkit.models.pixels import PIXELS, PixelRange
from segkit.models.weights import ImageNetWeights, WeightFile, torchvision_file

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
# What a depthwise convolution sees beyond its map. zeros: zeros, as in TensorFlow and torchvision.
# expanded: what the 1×1 before it makes of zeros, and the first convolution of all goes over whole
# neighbourhoods only, which makes maps smaller by one (VainF's mobilenetv2.py).
Border = Literal["zeros", "expanded"]

# torchvision's file is the one MobileNet_V2_Weights.IMAGENET1K_V1 names. Nobody publishes the other
# one as a torch file, and its repository states no licence.
_IMAGENET = ImageNetWeights(
    (
        torchvision_file("mobilenet_v2-b0353104.pth"),
        WeightFile(
            "mobilenet_v2_tf2ptq_fp16.pth",
            source="google-coral/test_data 104342d, an 8-bit TensorFlow network read into floats",
        ),
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

    def __init__(
        self, in_channels: int, channels: int, expansion: int, unit: Unit, border: Border
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        # How much of the border is put around before the expansion.
        self.outside = unit.rate if border == "expanded" else 0
        depthwise = ConvNormReLU6(
            hidden, hidden, 3, unit.stride, unit.rate, groups=hidden, padded=not self.outside
        )
        project = nn.Conv2d(hidden, channels, 1, bias=False)
        expand = [ConvNormReLU6(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(channels))
        self.residual = in_channels == channels
        self.hidden = hidden

    def depthwise(self, x: Tensor) -> Tensor:
        """The expanded map, ``hidden`` channels, behind the depthwise convolution."""
        x = self.bordered(x)
        for layer in list(self.conv)[:-2]:
            x = layer(x)
        return x

    def project(self, expanded: Tensor, x: Tensor) -> Tensor:
        """The unit's output from its expanded map and its input."""
        y = self.conv[-1](self.conv[-2](expanded))
        return y.add_(x) if self.residual else y

    def bordered(self, x: Tensor) -> Tensor:
        return F.pad(x, [self.outside] * 4) if self.outside else x

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.bordered(x))
        return y.add_(x) if self.residual else y


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
        *,
        padded: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                channels,
                kernel,
                stride=stride,
                padding=rate * (kernel // 2) if padded else 0,
                dilation=rate,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(channels),
            ReLU6(),
        )


class MobileNetV2(Backbone):
    """Maps ``low``; ``res2``, ``res3``, ``res4``, ``res5`` = ``out``: 24, 32, 96, 320 channels."""

    name = "mnv2"
    stem_stride = 2

    def __init__(
        self,
        *,
        low: Low,
        border: Border,
        imagenet: ImageNetWeights,
        output_stride: int,
        multi_grid: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.low = low
        self.imagenet = imagenet
        plan = plan_units(
            [[stride] + [1] * (units - 1) for _, _, units, stride in _BLOCKS],
            output_stride=output_stride,
            stem_stride=self.stem_stride,
            multi_grid=multi_grid,
            accepts_multi_grid=self.accepts_multi_grid,
            network=self.name,
        )
        self.layers = nn.Sequential(
            ConvNormReLU6(3, _STEM_CHANNELS, 3, self.stem_stride, padded=border == "zeros")
        )
        self.features = {}
        channels, stride = _STEM_CHANNELS, self.stem_stride
        for (expansion, width, _, _), units in zip(_BLOCKS, plan, strict=True):
            for unit in units:
                self.layers.append(InvertedResidual(channels, width, expansion, unit, border))
                channels, stride = width, stride * unit.stride
                if tap := _TAPS.get(len(self.layers) - 1):
                    self.features[tap] = Feature(channels, stride)
        decoded = self.features["res2"]
        if low == "released":
            decoded = Feature(cast(InvertedResidual, self.layers[_LOW]).hidden, decoded.stride)
        self.features |= {"low": decoded, "out": self.features["res5"]}
        he_normal(self)

    @property
    def units(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for index, layer in enumerate(self.layers):
            if index == _LOW and self.low == "released":
                unit = cast(InvertedResidual, layer)
                maps["low"] = unit.depthwise(x)
                x = unit.project(maps["low"], x)
            else:
                x = recompute.run(layer, x)
            if tap := _TAPS.get(index):
                maps[tap] = x
        return {"low": maps["res2"], **maps, "out": maps["res5"]}


def mobilenetv2(
    *,
    low: Low = "released",
    border: Border = "zeros",
    pixels: PixelRange = "imagenet",
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> MobileNetV2:
    """MobileNetV2 at width 1.0; output strides 2, 4, 8, 16, 32; it cannot have a multi-grid.

    Raises ``ConfigError`` CFG-BACKBONE for a tap, a border or pixels there are none of.
    """
    for key, value, choices in (
        ("low", low, get_args(Low)),
        ("border", border, get_args(Border)),
        ("pixels", pixels, get_args(PixelRange)),
    ):
        if value not in choices:
            what = f"there is no {'tap' if key == 'low' else key} {value!r}"
            raise ConfigError("BACKBONE", f"backbone.{key}", what, f"one of {', '.join(choices)}")
    return MobileNetV2(
        low=low,
        border=border,
        imagenet=_IMAGENET.seeing(PIXELS[pixels]),
        output_stride=output_stride,
        multi_grid=multi_grid,
    )
