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
from segkit.errors import ConfigError, DataError
from segkit.models.segmenter import Segmenter
from segkit.models.weights import load_backbone
from segkit.rules import check_device
from segkit.schema import CHOICES


@dataclass(frozen=True)
class Preprocess:
    """An image file or RGB array (uint8 [H, W, 3]) -> normalised float32 [1, 3, H, W]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: str | Path | np.ndarray) -> Tensor:
        rgb = read_image(image) if isinstance(image, str | Path) else checked_image(image)
        normalised = normalise(rgb, self.mean, self.std).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(normalised))[None]


def checked_image(image: np.ndarray) -> np.ndarray:
    """``image``, if it is an RGB array; what else it is, if not."""
    if not isinstance(image, np.ndarray):
        raise DataError("IMAGE", "image", f"is a {type(image).__name__}", "a path or an array")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} of shape {list(image.shape)}"
        raise DataError("IMAGE", "image", found, "RGB as uint8 [H, W, 3]")
    return image


def check_stride(value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError("RANGE", "os", f"{value!r}", "a power of two from 4 to 256")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError("CHOICE", key, f"{value!r}", f"choices: {', '.join(choices)}")


def load(
    run: str | Path,
    *,
    os: int | None = None,
    kind: str = "last",
    weights: str | None = None,
    device: str = "cpu",
    config_dir: str | None = None,
) -> Segmenter:
    """The network of a run or checkpoint folder, in eval mode, at output stride ``os``.

    Maps a normalised batch ``[B, 3, H, W]`` to logits ``[B, C, H, W]``; ``net.labels`` are its
    classes, ``net.preprocess`` turns images into such batches. ``weights`` as ``eval.weights``:
    the ``average`` of the weights, the ``raw`` ones, or ``auto``, the average where there is one
    (None: the run's own word). Raises ``CheckpointError``, and ``ConfigError`` for an argument that
    cannot be.
    """
    if os is not None:
        check_stride(os)
    check_choice("kind", kind, CHOICES["ckpt_kind"])
    if weights is not None:
        check_choice("weights", weights, CHOICES["eval.weights"])
    for error in check_device(device):
        raise error
    path = restored.find(str(run), "runs", kind)
    target = parts.device_of({"device": device})
    trained = restored.load(path, os=os, device=target, config_dir=config_dir, weights=weights)
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
    check_stride(os)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ConfigError("RANGE", "num_classes", f"{num_classes!r}", "2 or more")
    if isinstance(overrides, str):
        fix = f"a tuple: overrides=({overrides!r},)"
        raise ConfigError("TYPE", "overrides", "is one text", fix)
    typed = [f"backbone={backbone}", f"os={os}", f"multi_grid={multi_grid}", f"model={model}"]
    values = compose("train", [*typed, *overrides], config_dir).values
    net = parts.network_of(values, num_classes, os)
    load_backbone(net.backbone, pretrained, source=net.backbone.imagenet, head=net.head)
    return dressed(net, None)


def dressed(net: Segmenter, labels: Any) -> Segmenter:
    """The network with its labels and preprocessing beside it."""
    net.labels = labels
    net.preprocess = Preprocess(net.pixels.mean, net.pixels.std)  # type: ignore[assignment]
    return net
