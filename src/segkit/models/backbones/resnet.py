"""ResNet in four styles: where the stride sits, and what the image meets first.

``torchvision``: the stride sits in the 3×3 of a block's first unit; on conversion that unit keeps
the previous block's rate, so at OS 8 layer4 gets 2, 4, 4. ``caffe`` (MSRA, the one v2 trained): the
stride sits in the first 1×1 and its 3×3 comes after it, so every unit gets 4 as the papers print.
``beta`` (the one v3 and v3+ trained, by the released ``resnet_v1_beta``): three 3×3 for a stem, and
the stride in the 3×3 of the LAST unit of blocks 1 to 3, so that every unit of a block has one rate.
``v1c`` (ResNet-C of arXiv 1812.01187; mmsegmentation's): torchvision's with three 3×3 for a stem.
State-dict keys are torchvision's for all, so that its files load as they are; for a stem of three
3×3, which it has none of, they are timm's (conv1.0, conv1.3, conv1.6).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models import recompute
from segkit.models.atrous import Unit, plan_units
from segkit.models.contracts import Backbone, Feature
from segkit.models.initial import he_normal
from segkit.models.pixels import PIXELS, SYMMETRIC_PIXELS, PixelRange
from segkit.models.weights import ImageNetWeights, WeightFile, torchvision_file

Style = Literal["torchvision", "caffe", "beta", "v1c"]
# Channels of the first two of three 3×3 for a stem; the third has twice as many.
_DEEP_STEM = {"beta": 64, "v1c": 32}
# Which map at stride 4 a decoder sees, of the last unit there. ports: the unit's output, as every
# PyTorch code has it. released: its last batch norm, before the sum and the ReLU (v3+'s
# feature_extractor.py; "res2 before striding" in the paper's words).
Low = Literal["ports", "released"]
# What a unit that lost its stride does. kept: its 3×3 looks with the rate reached so far, which
# gives the strided network's values (atrous.py). raised: with the new one, as the units after it;
# segmentation_models_pytorch does so (its encoders/_utils.py), and what was trained that way needs
# it.
FirstRate = Literal["kept", "raised"]

# Addresses and hash prefixes are those torchvision's ResNet*_Weights.IMAGENET1K_V1 name.
_TORCHVISION = {
    18: ImageNetWeights((torchvision_file("resnet18-f37072fd.pth"),), unused=("fc.",)),
    34: ImageNetWeights((torchvision_file("resnet34-b627a593.pth"),), unused=("fc.",)),
    50: ImageNetWeights((torchvision_file("resnet50-0676ba61.pth"),), unused=("fc.",)),
    101: ImageNetWeights((torchvision_file("resnet101-63fe2227.pth"),), unused=("fc.",)),
}
_KERAS = WeightFile(
    "resnet50_msra_keras_fp16.pth",
    licence="MIT",
    source="Keras Applications' ResNet-50 (MSRA's) under torchvision's names",
)
# The names in a file that somebody makes of arrays, where nobody has a torch file.
_NAMES = (
    "a converted file has torchvision's key names (conv1.weight, bn1.*, layer1.0.conv1.weight ...)"
)
_DEEP_NAMES = (
    "a converted file has torchvision's key names (layer1.0.conv1.weight ...) behind the stem, "
    "whose convolutions are conv1.0, conv1.3, conv1.6 and batch norms conv1.1, conv1.4, bn1"
)
_CAFFE = {
    50: ImageNetWeights((_KERAS,), unused=("fc.",)),
    101: ImageNetWeights(
        (),
        unused=("fc.",),
        elsewhere=f"MSRA's ResNet-101-model.caffemodel; {_NAMES}, kernels as [out, in, h, w], "
        "conv1 from BGR to RGB: pretrained=FILE +backbone.pixels=caffe, which replaces ImageNet's "
        "pixels",
    ),
}
# The released code's model zoo (tensorflow/models, research/deeplab/g3doc/model_zoo.md).
_BETA = {
    depth: ImageNetWeights(
        (),
        unused=("fc.",),
        pixels=SYMMETRIC_PIXELS,
        elsewhere=f"the papers' own is TensorFlow's resnet_v1_{depth}_beta, http://download."
        f"tensorflow.org/models/resnet_v1_{depth}_2018_05_04.tar.gz; {_DEEP_NAMES}, kernels as "
        "[out, in, h, w]: pretrained=FILE",
    )
    for depth in (50, 101)
}
_V1C = ImageNetWeights(
    (),
    unused=("fc.",),
    elsewhere="mmcv's open-mmlab://resnet50_v1c and 101, with stem.0 to stem.7 for the stem; "
    f"{_DEEP_NAMES}: pretrained=FILE",
)


class ResidualUnit(nn.Module, ABC):
    """A branch, and a shortcut beside it."""

    expansion: int
    relu: nn.ReLU
    downsample: nn.Module | None

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """What is added to the shortcut: the last batch norm's output."""

    def join(self, branch: Tensor, x: Tensor) -> Tensor:
        """The unit's output from its branch, which stays as it is, and its input."""
        return self.relu(branch + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        # In place, for nobody else sees the branch, and batch norm keeps its own input.
        return self.relu(self.branch(x).add_(self.shortcut(x)))


class BasicUnit(ResidualUnit):
    """Two 3×3 convolutions with an identity beside them (ResNet paper, Fig. 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, unit: Unit, style: Style) -> None:
        del style  # one place for the stride, in all codebases: the first 3×3
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, unit.stride, unit.rate)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, unit.rate_after)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, width, unit)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(ResidualUnit):
    """1×1, 3×3, 1×1 with an identity beside them (ResNet paper, Fig. 5 right)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, unit: Unit, style: Style) -> None:
        super().__init__()
        channels = width * self.expansion
        if style == "caffe":
            first, middle, rate = unit.stride, 1, unit.rate_after
        else:
            first, middle, rate = 1, unit.stride, unit.rate
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, middle, rate)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, channels, unit)

    def branch(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))


def conv3x3(in_channels: int, channels: int, stride: int, rate: int) -> nn.Conv2d:
    """Padded by its rate: at stride 1 the map keeps its size."""
    return nn.Conv2d(
        in_channels, channels, 3, stride=stride, padding=rate, dilation=rate, bias=False
    )


def shortcut(in_channels: int, channels: int, unit: Unit) -> nn.Module | None:
    """What stands beside a unit's branch; None where the identity fits.

    A projection where the channels change, whatever is left of the stride: the parameters must be
    the same at every output stride. Elsewhere a stride (beta's, in a block's last unit) leaves out
    positions of the identity, by a 1×1 max pool as in the released ``resnet_utils``.
    """
    if in_channels == channels:
        return nn.MaxPool2d(1, stride=unit.stride) if unit.stride > 1 else None
    conv = nn.Conv2d(in_channels, channels, 1, stride=unit.stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def deep_stem(width: int) -> nn.Sequential:
    """Three 3×3 for the 7×7, the last one twice as wide; its norm is the network's."""
    convs = [conv3x3(3, width, 2, 1), conv3x3(width, width, 1, 1), conv3x3(width, 2 * width, 1, 1)]
    norms = [(nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for _ in convs[:-1]]
    return nn.Sequential(convs[0], *norms[0], convs[1], *norms[1], convs[2])


class ResNet(Backbone):
    """Stem and four blocks; maps ``low``, ``res2``, ``res3``, ``res4``, ``res5`` = ``out``.

    ``res2`` to ``res4`` are the last maps before the next stride: block outputs, except in beta,
    whose blocks stride at their end, the outputs of the last units but one.
    """

    stem_stride = 4

    def __init__(
        self,
        name: str,
        block: type[BasicUnit] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        style: Style,
        low: Low,
        first_rate: FirstRate = "kept",
        output_stride: int,
        multi_grid: Sequence[int] | None,
        imagenet: ImageNetWeights | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.imagenet = imagenet
        self.accepts_multi_grid = self.has_bottlenecks = block is Bottleneck
        self.low = low
        plan = plan_units(
            _strides_at_ends(depths) if style == "beta" else _strides_at_starts(depths),
            output_stride=output_stride,
            stem_stride=self.stem_stride,
            multi_grid=multi_grid,
            accepts_multi_grid=self.accepts_multi_grid,
            network=name,
        )
        if first_rate == "raised":
            plan = [[replace(unit, rate=unit.rate_after) for unit in units] for units in plan]
        deep = _DEEP_STEM.get(style)
        channels, stride = 2 * deep if deep else widths[0], self.stem_stride
        self.conv1 = (
            deep_stem(deep) if deep else nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        self.features = {}
        self._tapped: list[int] = []  # for each block, its last unit before the next stride
        for number, (width, units) in enumerate(zip(widths, plan, strict=True), start=1):
            at_end = style == "beta" and number < len(plan)
            self._tapped.append(len(units) - 2 if at_end else len(units) - 1)
            layer = nn.Sequential()
            for index, unit in enumerate(units):
                layer.append(block(channels, width, unit, style))
                channels, stride = width * block.expansion, stride * unit.stride
                if index == self._tapped[-1]:
                    self.features[f"res{number + 1}"] = Feature(channels, stride)
            setattr(self, f"layer{number}", layer)
        self.features |= {"low": self.features["res2"], "out": self.features["res5"]}
        he_normal(self)

    @property
    def units(self) -> list[nn.Module]:
        return [u for number in range(1, 1 + len(self._tapped)) for u in self.block(number)]

    def block(self, number: int) -> Iterable[ResidualUnit]:
        return cast(Iterable[ResidualUnit], self.get_submodule(f"layer{number}"))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {}
        for number, tapped in enumerate(self._tapped, start=1):
            for index, unit in enumerate(self.block(number)):
                if number == 1 and index == tapped and self.low == "released":
                    maps["low"] = unit.branch(x)
                    x = unit.join(maps["low"], x)
                else:
                    x = recompute.run(unit, x)
                if index == tapped:
                    maps[f"res{number + 1}"] = x
        return {"low": maps["res2"], **maps, "out": maps["res5"]}


def _strides_at_starts(depths: Sequence[int]) -> list[list[int]]:
    return [[1 if i == 0 else 2] + [1] * (depth - 1) for i, depth in enumerate(depths)]


def _strides_at_ends(depths: Sequence[int]) -> list[list[int]]:
    ends = [2] * (len(depths) - 1) + [1]
    return [[1] * (depth - 1) + [end] for depth, end in zip(depths, ends, strict=True)]


def resnet(
    depth: int,
    style: Style = "torchvision",
    *,
    low: Low = "ports",
    first_rate: FirstRate = "kept",
    pixels: PixelRange | None = None,
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> ResNet:
    """ResNet-18, 34, 50 or 101 at output stride 4, 8, 16 or 32.

    ``pixels``: what it is given, if not what its style's public weights expect. Raises
    ``ConfigError`` CFG-BACKBONE for a depth, style, tap, first rate or pixels there are none of.
    """
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
    if depth not in depths:
        raise _no_such("depth", depth, "one of 18, 34, 50, 101")
    block = Bottleneck if depth >= 50 else BasicUnit
    if style not in get_args(Style):
        raise _no_such("style", style, f"one of {', '.join(get_args(Style))}")
    if style != "torchvision" and block is BasicUnit:
        raise _no_such("style", style, "only r50 and r101 have it; torchvision")
    if low not in get_args(Low):
        raise _no_such("low", low, f"one of {', '.join(get_args(Low))}")
    if first_rate not in get_args(FirstRate):
        raise _no_such("first_rate", first_rate, f"one of {', '.join(get_args(FirstRate))}")
    if pixels is not None and pixels not in PIXELS:
        raise _no_such("pixels", pixels, f"one of {', '.join(PIXELS)}")
    tables: dict[Style, dict[int, ImageNetWeights]] = {
        "torchvision": _TORCHVISION,
        "caffe": _CAFFE,
        "beta": _BETA,
        "v1c": {50: _V1C, 101: _V1C},
    }
    imagenet = tables[style][depth]
    return ResNet(
        f"r{depth}" if style == "torchvision" else f"r{depth}_{style}",
        block,
        depths[depth],
        (64, 128, 256, 512),
        style=style,
        low=low,
        first_rate=first_rate,
        output_stride=output_stride,
        multi_grid=multi_grid,
        imagenet=imagenet if pixels is None else imagenet.seeing(PIXELS[pixels]),
    )


def r_tiny(*, output_stride: int, multi_grid: Sequence[int] | None = None) -> ResNet:
    """ResNet-18 at a quarter of its width (0.7M parameters): trains from nothing on a laptop."""
    return ResNet(
        "r_tiny",
        BasicUnit,
        (2, 2, 2, 2),
        (16, 32, 64, 128),
        style="torchvision",
        low="ports",
        output_stride=output_stride,
        multi_grid=multi_grid,
        imagenet=None,
    )


def _no_such(key: str, value: object, choices: str) -> ConfigError:
    return ConfigError("BACKBONE", f"backbone.{key}", f"there is no ResNet with {value!r}", choices)
