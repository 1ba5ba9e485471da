"""Modified aligned Xception: 41, 65 and 71 layers (v3+ §3.2, Fig. 4; released ``xception.py``).

Every max pool became a strided separable convolution, and every depthwise convolution has a batch
norm of its own. The paper's "extra ReLU" behind it is in the released code in the last block only.
TensorFlow's "SAME" padding equals the symmetric one here wherever a map's side is odd, as all sides
of a 16k + 1 image are; the released code pads its strided convolutions symmetrically anyway.
State-dict keys are timm's, so that its conversions of the TensorFlow weights load as they are.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models import recompute
from segkit.models.atrous import Unit, plan_units
from segkit.models.contracts import Backbone, Feature
from segkit.models.pixels import SYMMETRIC_PIXELS
from segkit.models.weights import ImageNetWeights, WeightFile

# Which map at stride 4 a decoder sees. released: the second of the three convolutions in the block
# that strides to 8, before ReLU (256 channels; feature_extractor.py). ports: the output of the
# block before it.
Low = Literal["released", "ports"]

_EPSILON = 1e-3  # of every batch norm here; the heads have 1e-5
_START = 0.09  # standard deviation, truncated at twice that

# The authors' ImageNet weights as timm converted them (its xception_aligned.py; Apache 2.0).
_RELEASE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
_IMAGENET = {
    layers: ImageNetWeights(
        (WeightFile(name, f"{_RELEASE}/{name}", "Apache-2.0", "the authors', converted by timm"),),
        unused=("head.",),
        pixels=SYMMETRIC_PIXELS,
    )
    for layers, name in (
        (41, "tf_xception_41-e6439c97.pth"),
        (65, "tf_xception_65-c9ae96e8.pth"),
        (71, "tf_xception_71-8eec7df1.pth"),
    )
}


@dataclass(frozen=True)
class Layout:
    """What one block is: channels of its three convolutions, stride of the last, its shortcut."""

    channels: tuple[int, int, int]
    stride: int
    shortcut: Literal["conv", "sum", "none"]


def entry(channels: int, stride: int) -> Layout:
    return Layout((channels,) * 3, stride, "conv")


MIDDLE = Layout((728, 728, 728), 1, "sum")
EXIT = (Layout((728, 1024, 1024), 2, "conv"), Layout((1536, 1536, 2048), 1, "none"))

_ENTRY_65 = (entry(128, 2), entry(256, 2), entry(728, 2))
_ENTRY_71 = (entry(128, 2), entry(256, 1), entry(256, 2), entry(728, 1), entry(728, 2))
_LAYOUTS = {
    41: (*_ENTRY_65, *[MIDDLE] * 8, *EXIT),
    65: (*_ENTRY_65, *[MIDDLE] * 16, *EXIT),
    71: (*_ENTRY_71, *[MIDDLE] * 16, *EXIT),
}


class SeparableConv(nn.Module):
    """3×3 per channel, then 1×1 across channels, batch norm behind both.

    ``pre_activation``: one ReLU, before it all; otherwise one behind each batch norm.
    ``keeps_input``: whether somebody else still needs what comes in.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        unit: Unit,
        *,
        pre_activation: bool,
        keeps_input: bool,
    ) -> None:
        super().__init__()
        self.pre_activation = pre_activation
        self.keeps_input = keeps_input
        self.conv_dw = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            stride=unit.stride,
            padding=unit.rate,
            dilation=unit.rate,
            groups=in_channels,
            bias=False,
        )
        self.bn_dw = nn.BatchNorm2d(in_channels, eps=_EPSILON)
        self.conv_pw = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn_pw = nn.BatchNorm2d(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_activation:
            x = F.relu(x, inplace=not self.keeps_input)
            return self.bn_pw(self.conv_pw(self.bn_dw(self.conv_dw(x))))
        x = F.relu(self.bn_dw(self.conv_dw(x)), inplace=True)
        return F.relu(self.bn_pw(self.conv_pw(x)), inplace=True)


class Block(nn.Module):
    """Three separable convolutions, the last one strided, and a shortcut with no ReLU behind it.

    ``tapped``: the map before the last convolution is somebody else's, too.
    """

    def __init__(
        self, in_channels: int, layout: Layout, units: Sequence[Unit], *, tapped: bool
    ) -> None:
        super().__init__()
        self.kind = layout.shortcut
        self.stack = nn.Sequential()
        channels = in_channels
        for index, (width, unit) in enumerate(zip(layout.channels, units, strict=True)):
            conv = SeparableConv(
                channels,
                width,
                unit,
                pre_activation=self.kind != "none",
                keeps_input=index == 0 or (tapped and index == 2),
            )
            self.stack.add_module(f"conv{index + 1}", conv)
            channels = width
        if self.kind == "conv":
            self.shortcut = conv_norm(in_channels, channels, 1, units[-1].stride)

    def before_stride(self, x: Tensor) -> Tensor:
        """The first two convolutions, before the ReLU that follows them."""
        for conv in list(self.stack)[:-1]:
            x = conv(x)
        return x

    def join(self, before: Tensor, x: Tensor) -> Tensor:
        """The block's output from the map before its stride and its input."""
        y = self.stack[2](before)
        if self.kind == "none":
            return y
        return y + (self.shortcut(x) if self.kind == "conv" else x)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.before_stride(x), x)


def conv_norm(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution and batch norm."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels, eps=_EPSILON)))


class Xception(Backbone):
    """Maps ``low``, ``res2``, ``res3``, ``res4``, ``res5`` = ``out`` (2048 channels).

    Its multi-grid, three numbers for the three convolutions of the last block, is the released
    code's; the papers use none with Xception, and ``auto`` means none.
    """

    accepts_multi_grid = True
    stem_stride = 2

    def __init__(
        self,
        name: str,
        layouts: Sequence[Layout],
        *,
        low: Low,
        output_stride: int,
        multi_grid: Sequence[int] | None,
        imagenet: ImageNetWeights,
    ) -> None:
        super().__init__()
        self.name = name
        self.imagenet = imagenet
        plan = plan_units(
            [[1, 1, layout.stride] for layout in layouts],
            output_stride=output_stride,
            stem_stride=self.stem_stride,
            multi_grid=multi_grid,
            accepts_multi_grid=self.accepts_multi_grid,
            network=name,
        )
        self._ends, striding = _taps(layouts, self.stem_stride)
        self._tapped = striding if low == "released" else None
        self.stem = nn.Sequential(
            conv_norm(3, 32, 3, self.stem_stride).append(nn.ReLU(inplace=True)),
            conv_norm(32, 64, 3, 1).append(nn.ReLU(inplace=True)),
        )
        self.blocks = nn.Sequential()
        self.features = {}
        channels, stride = 64, self.stem_stride
        for index, (layout, units) in enumerate(zip(layouts, plan, strict=True)):
            if tapped := index == self._tapped:
                self.features["low"] = Feature(layout.channels[1], stride)
            self.blocks.append(Block(channels, layout, units, tapped=tapped))
            channels, stride = layout.channels[-1], stride * units[-1].stride
            if index in self._ends:
                self.features[self._ends[index]] = Feature(channels, stride)
        self.features.setdefault("low", self.features["res2"])
        self.features["out"] = self.features["res5"]
        released_start(self)

    @property
    def units(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        maps = {}
        for index, block in enumerate(cast(Iterable[Block], self.blocks)):
            if index == self._tapped:
                maps["low"] = block.before_stride(x)
                x = block.join(maps["low"], x)
            else:
                x = recompute.run(block, x)
            if end := self._ends.get(index):
                maps[end] = x
        return {"low": maps["res2"], **maps, "out": maps["res5"]}


def _taps(layouts: Sequence[Layout], stem_stride: int) -> tuple[dict[int, str], int]:
    """Which block's output is which map, and the block that strides from 4 to 8.

    Counted before any stride is traded for a rate.
    """
    strides = list(accumulate((layout.stride for layout in layouts), mul, initial=stem_stride))[1:]
    last = {stride: index for index, stride in enumerate(strides)}
    ends = {last[stride]: f"res{number}" for number, stride in enumerate((4, 8, 16, 32), start=2)}
    return ends, strides.index(8)


def xception(
    layers: int,
    *,
    low: Low = "released",
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> Xception:
    """Xception-41, -65 or -71 at output stride 2, 4, 8, 16 or 32.

    Raises ``ConfigError`` CFG-BACKBONE for a depth or a tap there is none of.
    """
    if layers not in _LAYOUTS:
        raise _no_such("layers", layers, "one of 41, 65, 71")
    if low not in get_args(Low):
        raise _no_such("low", low, f"one of {', '.join(get_args(Low))}")
    return Xception(
        f"x{layers}",
        _LAYOUTS[layers],
        low=low,
        output_stride=output_stride,
        multi_grid=multi_grid,
        imagenet=_IMAGENET[layers],
    )


def _no_such(key: str, value: object, choices: str) -> ConfigError:
    what = f"there is no Xception with {value!r}"
    return ConfigError("BACKBONE", f"backbone.{key}", what, choices)


def released_start(module: nn.Module) -> None:
    """Every convolution: truncated normal of standard deviation 0.09, depthwise ones included."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
            nn.init.trunc_normal_(part.weight, std=_START, a=-2 * _START, b=2 * _START)
