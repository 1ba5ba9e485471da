"""ResNet in the two stride placements public ImageNet weights exist for.

``torchvision``: the stride sits in the 3×3 of a block's first unit; on conversion that unit keeps
the previous block's rate, so at OS 8 layer4 gets 2, 4, 4. ``caffe`` (MSRA, the one v2 trained): the
stride sits in the first 1×1 and its 3×3 comes after it, so every unit gets 4 as the papers print.
State-dict keys are torchvision's for both, so that its files load as they are.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.atrous import Unit, plan_units
from segkit.models.contracts import Backbone, Feature
from segkit.models.initial import he_normal
from segkit.models.weights import ImageNetWeights, WeightFile

Style = Literal["torchvision", "caffe"]

# Addresses and hash prefixes are those torchvision's ResNet*_Weights.IMAGENET1K_V1 name.
_TORCHVISION = {
    18: WeightFile(
        "resnet18-f37072fd.pth", "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    ),
    34: WeightFile(
        "resnet34-b627a593.pth", "https://download.pytorch.org/models/resnet34-b627a593.pth"
    ),
    50: WeightFile(
        "resnet50-0676ba61.pth", "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    ),
    101: WeightFile(
        "resnet101-63fe2227.pth", "https://download.pytorch.org/models/resnet101-63fe2227.pth"
    ),
}
# The MSRA weights of Keras Applications under torchvision's key names; no public torch file.
_CAFFE = {50: WeightFile("resnet50_msra_keras_fp16.pth")}


class BasicUnit(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def conv3x3(in_channels: int, channels: int, stride: int, rate: int) -> nn.Conv2d:
    """Padded by its rate: at stride 1 the map keeps its size."""
    return nn.Conv2d(
        in_channels, channels, 3, stride=stride, padding=rate, dilation=rate, bias=False
    )


def shortcut(in_channels: int, channels: int, unit: Unit) -> nn.Sequential | None:
    """The projection beside a block's first unit; None where the identity fits.

    Decided by channels alone, not by what is left of the stride: the parameters must be the same
    at every output stride (in a ResNet the stride only sits where the channels change, too).
    """
    if in_channels == channels:
        return None
    conv = nn.Conv2d(in_channels, channels, 1, stride=unit.stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class ResNet(Backbone):
    """Stem and four blocks; maps ``res2`` = ``low``, ``res3``, ``res4``, ``res5`` = ``out``."""

    stem_stride = 4

    def __init__(
        self,
        name: str,
        block: type[BasicUnit] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        style: Style,
        output_stride: int,
        multi_grid: Sequence[int] | None,
        imagenet: ImageNetWeights | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.imagenet = imagenet
        self.accepts_multi_grid = block is Bottleneck
        plan = plan_units(
            [[1 if i == 0 else 2] + [1] * (depth - 1) for i, depth in enumerate(depths)],
            output_stride=output_stride,
            stem_stride=self.stem_stride,
            multi_grid=multi_grid,
            accepts_multi_grid=self.accepts_multi_grid,
            network=name,
        )
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        self.features = {}
        channels, stride = widths[0], self.stem_stride
        for number, (width, units) in enumerate(zip(widths, plan, strict=True), start=1):
            layer = nn.Sequential()
            for unit in units:
                layer.append(block(channels, width, unit, style))
                channels, stride = width * block.expansion, stride * unit.stride
            setattr(self, f"layer{number}", layer)
            self.features[f"res{number + 1}"] = Feature(channels, stride)
        self.features |= {"low": self.features["res2"], "out": self.features["res5"]}
        he_normal(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {}
        for number in (1, 2, 3, 4):
            x = maps[f"res{number + 1}"] = getattr(self, f"layer{number}")(x)
        return {**maps, "low": maps["res2"], "out": maps["res5"]}


def resnet(
    depth: int,
    style: Style = "torchvision",
    *,
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> ResNet:
    """ResNet-18, 34, 50 or 101 at output stride 4, 8, 16 or 32.

    Raises ``ConfigError`` CFG-BACKBONE for a depth or style there is none of.
    """
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
    if depth not in depths:
        raise _no_such("depth", depth, "one of 18, 34, 50, 101")
    block = Bottleneck if depth >= 50 else BasicUnit
    if style not in ("torchvision", "caffe"):
        raise _no_such("style", style, "torchvision or caffe")
    if style == "caffe" and block is BasicUnit:
        raise _no_such("style", style, "only r50 and r101 have it; torchvision")
    file = _CAFFE.get(depth) if style == "caffe" else _TORCHVISION[depth]
    return ResNet(
        f"r{depth}_caffe" if style == "caffe" else f"r{depth}",
        block,
        depths[depth],
        (64, 128, 256, 512),
        style=style,
        output_stride=output_stride,
        multi_grid=multi_grid,
        imagenet=ImageNetWeights((file,), unused=("fc.",)) if file else None,
    )


def r_tiny(*, output_stride: int, multi_grid: Sequence[int] | None = None) -> ResNet:
    """ResNet-18 at a quarter of its width (0.7M parameters): trains from nothing on a laptop."""
    return ResNet(
        "r_tiny",
        BasicUnit,
        (2, 2, 2, 2),
        (16, 32, 64, 128),
        style="torchvision",
        output_stride=output_stride,
        multi_grid=multi_grid,
        imagenet=None,
    )


def _no_such(key: str, value: object, choices: str) -> ConfigError:
    return ConfigError("BACKBONE", f"backbone.{key}", f"there is no ResNet with {value!r}", choices)
