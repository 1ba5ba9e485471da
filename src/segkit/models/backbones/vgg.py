"""VGG-16's 13 convolutions and five pools (v1 §3.1); ``layers.N`` is torchvision's ``features.N``.

Pools 1 to 3 stride; where pool4 and pool5 no longer do, the convolutions behind them get the rate
instead (2 in conv5 at output stride 8). fc6 to fc8 belong to the heads.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from segkit.models.atrous import plan_units
from segkit.models.contracts import Backbone, Feature
from segkit.models.initial import he_normal
from segkit.models.weights import ImageNetWeights, WeightFile, torchvision_file

# Simonyan and Zisserman 2015, Table 1, column D: channels and convolutions of each block.
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

# torchvision's file (VGG16_Weights.IMAGENET1K_V1) holds the whole classifier. The other one has no
# public torch file.
_IMAGENET = ImageNetWeights(
    (
        torchvision_file("vgg16-397923af.pth"),
        WeightFile(
            "vgg16_caffe_keras_conv_fp16.pth",
            licence="MIT-style",
            source="the authors' Caffe network by way of Keras and ONNX, convolutions only",
        ),
    ),
    unused=("classifier.",),
    # ``features`` is the contract's own word, for the maps a backbone gives.
    renamed=(("features.", "layers."),),
)


class Pool(nn.Module):
    """Maximum over k×k of a map that is not negative, to ``(side − 1) // stride + 1``.

    3×3 is centred on its pixel, as released. VGG's own 2×2 looks right and down; what is missing at
    the far border is 0 there, which changes no maximum behind a ReLU.
    """

    def __init__(self, kernel: Literal[2, 3], stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == 3:
            return F.max_pool2d(x, 3, self.stride, padding=1)
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, self.stride)

    def extra_repr(self) -> str:
        return f"{self.kernel}, stride={self.stride}"


class VGG16(Backbone):
    """Maps ``image``, ``pool1`` ... ``pool4``, and the usual names of the five stages.

    ``res2`` = ``low``, ``res3``, ``res4`` are what goes into pool3, pool4 and pool5; ``res5`` =
    ``out`` is what comes out of pool5 (and pool5a).
    """

    name = "vgg16"
    imagenet = _IMAGENET

    def __init__(
        self,
        *,
        output_stride: int,
        multi_grid: Sequence[int] | None,
        pool: Literal[2, 3],
        average_pool: bool,
    ) -> None:
        super().__init__()
        plan = plan_units(
            [[2], [2], [2]],  # pool3, pool4, pool5
            output_stride=output_stride,
            stem_stride=4,
            multi_grid=multi_grid,
            accepts_multi_grid=False,
            network=self.name,
        )
        strides = [2, 2, *(unit.stride for [unit] in plan)]
        # The convolutions of a block come behind the pool before it.
        rates = [1, 1, 1, *(unit.rate_after for [unit] in plan[:2])]
        # No holes in the pools: Caffe's have none, and facts §7.1 counts pool5 without (RF 227).
        # At output stride 8 pool5 so sees half of what it saw in the strided network.
        self.layers = nn.Sequential()
        self.features = {"image": Feature(3, 1)}
        self._taps: dict[int, str] = {}
        channels, reached = 3, 1
        for number, (width, convs) in enumerate(_BLOCKS, start=1):
            for _ in range(convs):
                self.layers.append(_conv3x3(channels, width, rates[number - 1]))
                self.layers.append(nn.ReLU(inplace=True))
                channels = width
            if number > 2:
                self._tap(f"res{number - 1}", Feature(width, reached))
            self.layers.append(Pool(pool, strides[number - 1]))
            reached *= strides[number - 1]
            if number < 5:
                self._tap(f"pool{number}", Feature(width, reached))
        self.features |= {"low": self.features["res2"]}
        self.features |= dict.fromkeys(("res5", "out"), Feature(channels, reached))
        # Caffe's average counts the zeros of its padding, too.
        self.pool5a = nn.AvgPool2d(3, stride=1, padding=1) if average_pool else None
        he_normal(self)

    def _tap(self, name: str, feature: Feature) -> None:
        self._taps[len(self.layers) - 1] = name
        self.features[name] = feature

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {"image": x}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if name := self._taps.get(index):
                maps[name] = x
        if self.pool5a is not None:
            x = self.pool5a(x)
        return {**maps, "low": maps["res2"], "res5": x, "out": x}


def _conv3x3(in_channels: int, channels: int, rate: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate)


def vgg16(
    pool: Literal[2, 3] = 3,
    average_pool: bool = False,
    *,
    output_stride: int,
    multi_grid: Sequence[int] | None = None,
) -> VGG16:
    """VGG-16 at output stride 4, 8, 16 or 32.

    ``pool``: 3×3 windows as in all released DeepLabs, or VGG's own 2×2. ``average_pool``: the 3×3
    average of the released LargeFOV behind pool5 (pool5a; facts §1.1).
    """
    return VGG16(
        output_stride=output_stride, multi_grid=multi_grid, pool=pool, average_pool=average_pool
    )
