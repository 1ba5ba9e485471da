"""The Python side: a trained or a new network in one line.

net = segkit.load("runs/NAME", os=8)
logits = net(net.preprocess(rgb))          # [1, 3, H, W] -> [1, C, H, W]
net.labels.names[int(logits[0, :, 5, 7].argmax())]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit import parts, restored
from segkit.config import compose
from segkit.data.images import read_image
from segkit.data.normalise import normalise
from segkit.models.segmenter import Segmenter
from segkit.models.weights import load_backbone


@dataclass(frozen=True)
class Preprocess:
    """An image file or RGB array (uint8 [H, W, 3]) -> normalised float32 [1, 3, H, W]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: str | Path | np.ndarray) -> Tensor:
        rgb = read_image(image) if isinstance(image, str | Path) else np.asarray(image)
        normalised = normalise(rgb, self.mean, self.std).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(normalised))[None]


def load(
    run: str | Path,
    *,
    os: int | None = None,
    kind: str = "last",
    device: str = "cpu",
    config_dir: str | None = None,
) -> Segmenter:
    """The network of a run or checkpoint folder, in eval mode, at output stride ``os``.

    Maps a normalised batch ``[B, 3, H, W]`` to logits ``[B, C, H, W]``; ``net.labels`` are its
    classes, ``net.preprocess`` turns images into such batches. Raises ``CheckpointError``.
    """
    path = restored.find(str(run), "runs", kind)
    target = parts.device_of({"device": device})
    trained = restored.load(path, os=os, device=target, config_dir=config_dir)
    return dressed(trained.net, trained.labels)


def build(
    model: str = "v3",
    backbone: str = "r101",
    *,
    os: int = 16,
    num_classes: int = 21,
    multi_grid: str = "auto",
    pretrained: str = "none",
    overrides: tuple[str, ...] = (),
    config_dir: str | None = None,
) -> Segmenter:
    """A new network from the shipped configs, without a command line.

    ``overrides`` are typed as on the command line (``"model.dropout=0.2"``); ``pretrained`` as
    there: ``imagenet`` (never downloaded here), ``none`` or a path. Raises ``ConfigError``.
    """
    typed = [f"backbone={backbone}", f"os={os}", f"multi_grid={multi_grid}", f"model={model}"]
    values = compose("train", [*typed, *overrides], config_dir).values
    net = parts.network_of(values, num_classes, os)
    load_backbone(net.backbone, pretrained, source=net.backbone.imagenet)
    return dressed(net, None)


def dressed(net: Segmenter, labels: Any) -> Segmenter:
    """The network with its labels and preprocessing beside it."""
    net.labels = labels
    net.preprocess = Preprocess(net.pixels.mean, net.pixels.std)  # type: ignore[assignment]
    return net
