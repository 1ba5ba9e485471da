"""Every backbone the room has; the family's tests run over this one table."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from segkit.models.backbones.mobilenetv2 import mobilenetv2
from segkit.models.backbones.resnet import r_tiny, resnet
from segkit.models.contracts import Backbone

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "r_tiny": r_tiny,
    "r18": partial(resnet, 18),
    "r34": partial(resnet, 34),
    "r50": partial(resnet, 50),
    "r101": partial(resnet, 101),
    "r50_caffe": partial(resnet, 50, "caffe"),
    "r101_caffe": partial(resnet, 101, "caffe"),
    "r50_beta": partial(resnet, 50, "beta", low="released"),
    "r101_beta": partial(resnet, 101, "beta", low="released"),
    "mnv2": mobilenetv2,
}
BOTTLENECKS = [name for name in BACKBONES if name.startswith(("r50", "r101"))]
WITHOUT_MULTI_GRID = [name for name in BACKBONES if name not in BOTTLENECKS]


def on_meta(name: str, output_stride: int, multi_grid: tuple[int, ...] | None = None) -> Backbone:
    """Shapes and strides without a single value."""
    with torch.device("meta"):
        return BACKBONES[name](output_stride=output_stride, multi_grid=multi_grid)


def random_norms(module: nn.Module, seed: int = 0) -> None:
    """Batch norms that are no identity, so that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            n = part.num_features
            part.weight.data = torch.rand(n, generator=generator) * 0.5 + 0.5
            part.bias.data = torch.randn(n, generator=generator) * 0.1
            part.running_mean = torch.randn(n, generator=generator) * 0.1
            part.running_var = torch.rand(n, generator=generator) + 0.5


def rates(backbone: Backbone) -> list[list[int]]:
    """The rates of the 3×3 convolutions, block by block (basic units have two each)."""
    if backbone.name == "mnv2":
        layers = backbone.layers
        blocks = [layers[a:b] for a, b in ((1, 2), (2, 4), (4, 7), (7, 11), (11, 14), (14, 18))]
    else:
        blocks = [getattr(backbone, f"layer{n}") for n in (1, 2, 3, 4)]
    return [
        [
            part.dilation[0]
            for part in block.modules()
            if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)
        ]
        for block in blocks
    ]
