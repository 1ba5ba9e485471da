"""Inference over scales and flips, as the DeepLab papers evaluate.

v3 and v3+ average probabilities over scales and flips (v3 §4.2); v2 takes the maximum of the
scores at the stride of the unscaled image (v2 §4.1). Images are padded right and bottom with the
mean pixel: image pooling sees the padding, and the published weights were judged with it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from segkit.allocator import keep_freed_memory
from segkit.errors import ConfigError, DataError, NumericsError
from segkit.inference.bands import Bands, Block, Size, resize
from segkit.inference.memory import Memory
from segkit.inference.windows import Corner, Window, joined

Pad = int | Literal["fit"] | None
Result = TypeVar("Result")


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


class Blocks(Protocol):
    """How one image gives out its result: rows in order, with scores or probabilities of each."""

    def __call__(self, *, ranking: bool) -> Iterator[Block]: ...


class Predictor:
    """A network and a protocol: ``labels(images)``, or ``predictor(image)`` for probabilities.

    ``net.scores(x)["out"]`` must give logits [B, C, h, w] at any stride. The network is put in
    eval mode for a call and gets back every module's own mode afterwards. ``fusion`` says what is
    joined over scales and flips: the ``mean`` of probabilities (v3, v3+) or the ``max`` of scores
    (v2). With a ``window``, each is evaluated as an image of its own, with its own padding, scales
    and flips; their probabilities are joined. ``mean_pad`` is the value of the padding: 0 is the
    mean pixel after normalisation.

    Images are float32 [3, H, W], or uint8 where ``normalise`` (bytes [B, 3, H, W] on any device to
    float32) is given: then only what the network is about to see exists as floats. ``memory`` says
    how many go through the network together and what to do where memory runs short; two predictors
    may share one.

    Calls raise DataError for an image of the wrong shape or type, NumericsError for non-finite
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
        window: Window | None = None,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        mean_pad: float = 0.0,
        normalise: Callable[[Tensor], Tensor] | None = None,
        memory: Memory | None = None,
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
        self.window = window
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = precision
        self.mean_pad = mean_pad
        self.normalise = normalise
        self.memory = memory or Memory(self.device)
        self._sound: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """The probabilities of one image, float32 [C, H, W] at its own size."""
        (found,) = self._made([image], _probabilities)
        self.verify()
        return found

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """As a call for each image, one after another; the network sees several at once."""
        for found in self._made(images, _probabilities):
            self.verify()
            yield found

    @torch.inference_mode()
    def labels(self, images: Sequence[Tensor], *, verify: bool = True) -> list[Tensor]:
        """The likeliest class of every pixel, [H, W] for each image (uint8 up to 255 classes).

        Consecutive images of one padded size go through the network together. Probabilities exist
        for a band of rows at a time. Without ``verify`` a GPU is not waited for, and whoever asks
        must call ``verify`` before the labels are taken for anything.
        """
        found = list(self._made(images, _labels))
        if verify:
            self.verify()
        return found

    def verify(self) -> None:
        """Raise NumericsError if any score since the last call was not finite."""
        sound, self._sound = self._sound, None
        if sound is not None and not sound:
            raise NumericsError("SCORES", "network", "non-finite scores", "check the weights")

    # -- one image after another, as many at once as there is memory for ---------------------------

    def _made(
        self, images: Sequence[Tensor], make: Callable[[Blocks, Size], Tensor]
    ) -> Iterator[Tensor]:
        for image in images:
            self._check(image)
        at = 0
        while at < len(images):
            group = self._group(images, at)
            seen = self._attempt(partial(self._seen, group), group[0], len(group))
            if seen is None:
                continue
            at += len(group)
            for image, blocks in zip(group, seen, strict=True):
                work = partial(make, blocks, _size_of(image))
                while (result := self._attempt(work, image, self._windows_at_once(image))) is None:
                    pass
                yield result

    def _check(self, image: Tensor) -> None:
        kinds = [torch.float32, *([torch.uint8] if self.normalise else [])]
        if image.ndim != 3 or image.dtype not in kinds or 0 in image.shape:
            found = f"{image.dtype} of shape {list(image.shape)}"
            raise DataError("IMAGE-SHAPE", "image", found, "a normalised float32 [3, H, W]")

    def _group(self, images: Sequence[Tensor], at: int) -> list[Tensor]:
        """From ``at`` on, the images that go through the network together. Windows do of one."""
        if self.window:
            return [images[at]]
        group = [images[at]]
        for image in images[at + 1 : at + self.memory.batch]:
            if self._padded(image) != self._padded(group[0]) or image.dtype != group[0].dtype:
                break
            group.append(image)
        return group

    def _windows_at_once(self, image: Tensor) -> int:
        """Of a row of windows; 1 for whole images, whose scores are there by then."""
        return min(self.memory.batch, len(self.window.starts(image.shape[2]))) if self.window else 1

    def _padded(self, image: Tensor) -> Size:
        return resolve_pad(self.pad, _size_of(image), self.output_stride)

    def _attempt(self, work: Callable[[], Result], image: Tensor, used: int) -> Result | None:
        height, width = _size_of(image)
        size = min(self.window.size if self.window else 2 * 513, max(height, width))
        fix = f"type eval.window.size={max(1, size // 2)}"
        if self.scales != (1.0,):
            fix += ", or fewer or smaller tta.scales"
        if self.device.type != "cpu":
            fix += ", or device=cpu"
        about = f"an image of {width}x{height}"
        return self.memory.attempt(work, used=used, flips=self.flip, about=about, fix=fix)

    def _seen(self, group: list[Tensor]) -> list[Blocks]:
        if self.window:
            return [partial(self._in_windows, image, self.window) for image in group]
        return [partial(self._in_bands, bands) for bands in self._look(group)]

    def _in_bands(self, bands: Bands, *, ranking: bool) -> Iterator[Block]:
        if self.memory.on_host:
            bands = Bands([scores.cpu() for scores in bands.maps], bands.full, bands.size)
        make = bands.rankings if ranking else bands.blocks
        return make(self.memory.band_bytes)

    def _in_windows(self, image: Tensor, window: Window, *, ranking: bool) -> Iterator[Block]:  # noqa: ARG002
        side = window.size

        def look(corners: Sequence[Corner]) -> Iterator[Bands]:
            for at in range(0, len(corners), self.memory.batch):
                part = corners[at : at + self.memory.batch]
                yield from self._look(
                    [image[:, y : y + side, x : x + side] for y, x in part], (side, side)
                )

        return joined(window, _size_of(image), look, self.memory.band_bytes)

    # -- the network -------------------------------------------------------------------------------

    def _look(self, images: Sequence[Tensor], least: Size = (1, 1)) -> list[Bands]:
        """Images of one padded size through the network; ``least`` is the size of the results."""
        height, width = map(max, least, _size_of(images[0]))
        full = resolve_pad(self.pad, (height, width), self.output_stride)
        padded = self._input(images, full)
        fuse = self._mean if self.fusion == "mean" else self._max
        with _eval_mode(self.net):
            maps = fuse(padded)
        return [
            Bands([scores[i] for scores in maps], full, _larger(least, _size_of(image)))
            for i, image in enumerate(images)
        ]

    def _input(self, images: Sequence[Tensor], full: Size) -> Tensor:
        """What the network sees: normalised on the device, padded right and bottom."""
        made = torch.empty(
            (len(images), 3, *full), device=self.device, memory_format=torch.channels_last
        ).fill_(self.mean_pad)
        for i, image in enumerate(images):
            height, width = _size_of(image)
            there = self._sent(image)[None]
            if there.dtype == torch.uint8:
                assert self.normalise is not None
                there = self.normalise(there)
            made[i, :, :height, :width] = there[0]
        return made

    def _sent(self, image: Tensor) -> Tensor:
        """On the device. A GPU is not waited for: that takes memory that stays where it is."""
        if self.device.type == "cuda" and image.device.type == "cpu":
            image = image.pin_memory()
        return image.to(self.device, non_blocking=True)

    def _mean(self, padded: Tensor) -> list[Tensor]:
        """The score maps of every scale and mirror image: their probabilities are averaged."""
        return [kept for scale in self.scales for kept in self._views(padded, scale)]

    def _max(self, padded: Tensor) -> list[Tensor]:
        """The one maximum of scores, taken at the stride of the scale nearest 1."""
        fused: Tensor | None = None
        for scale in sorted(self.scales, key=lambda scale: abs(scale - 1)):
            for scores in self._views(padded, scale):
                fused = scores if fused is None else fused.maximum(resize(scores, _size_of(fused)))
        assert fused is not None
        return [fused]

    def _views(self, padded: Tensor, scale: float) -> Iterator[Tensor]:
        """Scores [B, C, h, w] at the head's stride, of the images and of their mirrors turned back.

        The mirror is turned back before any resizing: cheaper, and a network that commutes with
        the flip then gives the same bits twice.
        """
        size, count = scaled_size(_size_of(padded), scale), len(padded)
        if not self.flip:
            yield self._scores(resize(padded, size))
        elif self.memory.flip_apart:
            yield self._scores(resize(padded, size))
            yield self._scores(resize(padded, size).flip(-1)).flip(-1)
        else:
            # Filled in turn: concatenating would hold all of it twice.
            both = torch.empty(
                (2 * count, 3, *size), device=self.device, memory_format=torch.channels_last
            )
            both[:count] = resize(padded, size)
            both[count:] = both[:count].flip(-1)
            scores = self._scores(both)
            yield scores[:count]
            yield scores[count:].flip(-1)

    def _scores(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = self.net.scores(x)["out"].float()  # type: ignore[operator]
        sound = scores.isfinite().all()
        self._sound = sound if self._sound is None else self._sound & sound
        if sound.device.type == "cpu":
            self.verify()
        # Planes, as bands want them; the network's are often channels last.
        return scores.cpu().contiguous() if self.memory.on_host else scores.contiguous()


def _labels(blocks: Blocks, size: Size) -> Tensor:
    found: Tensor | None = None
    for rows, block in blocks(ranking=True):
        if found is None:
            kind = torch.uint8 if len(block) <= 255 else torch.int32
            found = torch.empty(size, dtype=kind, device=block.device)
        found[rows] = block.max(0).indices
    assert found is not None
    return found


def _probabilities(blocks: Blocks, size: Size) -> Tensor:
    found: Tensor | None = None
    for rows, block in blocks(ranking=False):
        if found is None:
            found = torch.empty(len(block), *size, device=block.device)
        found[:, rows] = block
    assert found is not None
    return found


def _size_of(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _larger(one: Size, other: Size) -> Size:
    return max(one[0], other[0]), max(one[1], other[1])


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
