"""Every backbone the room has; the family's tests run over this one table."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segkit.models.backbones.mobilenetv2 import mobilenetv2
from segkit.models.backbones.resnet import r_tiny, resnet
from segkit.models.backbones.xception import xception
from segkit.models.contracts import Backbone, Pixels

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
    "x41": partial(xception, 41),
    "x65": partial(xception, 65),
    "x71": partial(xception, 71),
    "mnv2": mobilenetv2,
}
BOTTLENECKS = [name for name in BACKBONES if name.startswith(("r50", "r101"))]
XCEPTIONS = [name for name in BACKBONES if name.startswith("x")]
WITHOUT_MULTI_GRID = [name for name in BACKBONES if name not in BOTTLENECKS + XCEPTIONS]


def on_meta(name: str, output_stride: int, multi_grid: tuple[int, ...] | None = None) -> Backbone:
    """Shapes and strides without a single value."""
    with torch.device("meta"):
        return BACKBONES[name](output_stride=output_stride, multi_grid=multi_grid)


def photo_or_noise(size: int, pixels: Pixels) -> Tensor:
    """A real photo of ``SEGKIT_DATA`` as a network sees it, or noise where there is none."""
    path = Path(os.environ.get("SEGKIT_DATA", "unset")) / "photos/bird.png"
    if not path.is_file():
        return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pixels.mean, pixels.std))
    return (x - mean) / std


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
    elif backbone.name in XCEPTIONS:
        blocks = list(backbone.blocks)
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
