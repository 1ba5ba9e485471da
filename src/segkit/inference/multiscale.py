"""Whole-image inference over scales and flips, as the DeepLab papers evaluate.

v3 and v3+ average probabilities over scales and flips (v3 §4.2); v2 takes the maximum of the
scores at the stride of the unscaled image (v2 §4.1). Images are padded right and bottom with the
mean pixel: image pooling sees the padding, and the published weights were judged with it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError, DataError, EnvironmentFault, NumericsError

Pad = int | Literal["fit"] | None
Size = tuple[int, int]


def resolve_pad(rule: Pad, size: Size, output_stride: int) -> Size:
    """The size an image of ``size`` (height, width) is padded to.

    ``None`` leaves it; ``"fit"`` takes each side to the next output_stride·k + 1, the sizes at
    which aligned corners meet pixels; a number is the side of a square (513 for VOC, as the
    original code), and a side longer than it falls back to ``"fit"``.
    """
    if rule is None:
        return size
    if rule == "fit":
        height, width = (_fit(side, output_stride) for side in size)
        return height, width
    if isinstance(rule, bool) or not isinstance(rule, int) or rule < 1:
        raise ConfigError("EVAL-PAD", "eval.pad", f"{rule!r}", "a side in pixels, fit or null")
    height, width = (rule if side <= rule else _fit(side, output_stride) for side in size)
    return height, width


def _fit(side: int, output_stride: int) -> int:
    return math.ceil((side - 1) / output_stride) * output_stride + 1


def scaled_size(size: Size, scale: float) -> Size:
    """(side − 1)·scale + 1, truncated: 513 becomes 257, 385, 641, 769, 897 (the original code)."""
    height, width = (int((side - 1) * scale + 1) for side in size)
    return height, width


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear with aligned corners, the convention of Caffe's Interp and of the TF code."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class Predictor:
    """``predictor(image)`` gives the probabilities of one whole image at its own size.

    ``net.scores(x)["out"]`` must give logits [B, C, h, w] at any stride. The network is put in
    eval mode for the call and gets back every module's own mode afterwards. ``mean_pad`` is the
    value of the padding: 0 is the mean pixel after normalisation. ``fusion`` says what is joined
    over scales and flips: the ``mean`` of probabilities (v3, v3+) or the ``max`` of scores (v2).

    The call raises DataError for an image of the wrong shape or type, NumericsError for non-finite
    scores and EnvironmentFault when the device's memory is too small.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        output_stride: int,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fusion: Literal["mean", "max"] = "mean",
        pad: Pad = None,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        mean_pad: float = 0.0,
    ) -> None:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ConfigError("TTA-SCALES", "tta.scales", f"{list(scales)}", "positive numbers")
        if fusion not in ("mean", "max"):
            raise ConfigError("TTA-FUSION", "tta.fusion", f"{fusion!r}", "mean or max")
        if precision not in ("fp32", "bf16"):
            raise ConfigError("PRECISION", "precision", f"{precision!r}", "fp32 or bf16")
        resolve_pad(pad, (1, 1), output_stride)
        self.net = net
        self.output_stride = output_stride
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip
        self.fusion = fusion
        self.pad = pad
        self.device = torch.device(device)
        self.precision = precision
        self.mean_pad = mean_pad

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """Normalised float32 [3, H, W] on any device -> float32 [C, H, W] on the predictor's."""
        if image.ndim != 3 or image.dtype != torch.float32 or 0 in image.shape:
            found = f"{image.dtype} of shape {list(image.shape)}"
            raise DataError("IMAGE-SHAPE", "image", found, "a normalised float32 [3, H, W]")
        size = (image.shape[1], image.shape[2])
        padded = self._pad(image.to(self.device))
        fuse = self._mean if self.fusion == "mean" else self._max
        with _eval_mode(self.net), _memory_named(padded):
            probabilities = fuse(padded, size)
        # One number for all: a NaN of any pixel, scale or flip survives the fusion and the sum.
        if not probabilities.sum().isfinite():
            raise NumericsError("SCORES", "network", "non-finite scores", "check the weights")
        return probabilities

    def _pad(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        full = resolve_pad(self.pad, (height, width), self.output_stride)
        border = (0, full[1] - width, 0, full[0] - height)
        return F.pad(image[None], border, value=self.mean_pad)

    def _mean(self, padded: Tensor, size: Size) -> Tensor:
        """Mean over views of the softmax of the full-size logits."""
        full, views, total = _size_of(padded), 0, None
        for scale in self.scales:
            for scores in self._views(padded, scale):
                probabilities = _softmax_at(scores, full, size)
                # Freshly cut out, so that the padded map is freed before the next view's is made.
                total = probabilities.clone() if total is None else total.add_(probabilities)
                views += 1
                del probabilities
        assert total is not None
        return total.div_(views)

    def _max(self, padded: Tensor, size: Size) -> Tensor:
        """Softmax of the resized maximum of scores, taken at the stride of the scale nearest 1."""
        fused: Tensor | None = None
        for scale in sorted(self.scales, key=lambda scale: abs(scale - 1)):
            for scores in self._views(padded, scale):
                fused = scores if fused is None else fused.maximum(resize(scores, _size_of(fused)))
        assert fused is not None
        return _softmax_at(fused, _size_of(padded), size).clone()

    def _views(self, padded: Tensor, scale: float) -> Iterator[Tensor]:
        """Scores [1, C, h, w] at the head's stride, of the image and of its mirror turned back.

        The mirror is turned back before any resizing: cheaper, and a network that commutes with
        the flip then gives the same bits twice.
        """
        x = resize(padded, scaled_size(_size_of(padded), scale))
        if self.flip:
            x = torch.cat([x, x.flip(-1)])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = self._scores(x)["out"].float()
        del x  # at the largest scale it weighs as much as a map
        yield scores[:1]
        if self.flip:
            yield scores[1:].flip(-1)

    @property
    def _scores(self) -> Callable[[Tensor], dict[str, Tensor]]:
        return self.net.scores  # type: ignore[return-value]


def _size_of(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _softmax_at(scores: Tensor, full: Size, size: Size) -> Tensor:
    """Scores [1, C, h, w] -> probabilities [C, H, W]: resized once to ``full``, cut to ``size``.

    The softmax works in place: beside the sum over views only one full-size map is alive.
    """
    logits = scores.clone() if _size_of(scores) == full else resize(scores, full)
    logits = logits[0, :, : size[0], : size[1]]
    logits.sub_(logits.amax(0)).exp_()
    return logits.div_(logits.sum(0))


@contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module's own mode (a frozen batch norm keeps its own)."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _memory_named(padded: Tensor) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as fault:
        height, width = _size_of(padded)
        raise EnvironmentFault(
            "MEMORY",
            str(padded.device),
            f"out of memory on an image of {width}x{height} (padded)",
            "fewer or smaller tta.scales, flip=false, or device=cpu",
        ) from fault
