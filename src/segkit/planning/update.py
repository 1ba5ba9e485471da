"""One update of a stage: the engine's own ``Update`` at any size, on any device or on none."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkit import instantiate, parts
from segkit.data.normalise import Normalise
from segkit.engine.average import Average
from segkit.engine.loop import Settings, StagePlan, Update
from segkit.losses import banded
from segkit.models.segmenter import Segmenter
from segkit.optim import set_learning_rate
from segkit.planning.live import Live, half_convolutions
from segkit.train import optimizer_of

# What a CUDA allocator gives out is a multiple of this.
CUDA_BLOCK = 512
# A CPU's resident set beyond the live bytes, as measured on CPUs with AVX512 (docs/performance.md):
# the kernels that oneDNN writes; the weights in the order that it wants, and their gradients; what
# malloc holds back between maps of many sizes.
KERNELS, WEIGHTS_AGAIN, SLACK = 40 * 2**20, 1.1, 0.12


@dataclass(frozen=True)
class Size:
    """Of one process's update: ``accumulate`` parts of ``images`` crops of ``crop`` x ``crop``."""

    images: int
    accumulate: int
    crop: int


@dataclass(frozen=True)
class Batch:
    images: Tensor
    labels: Tensor
    ids: tuple[str, ...] = ()
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Peak bytes of one update: ``live`` of tensors, ``weights`` of them the network's own.

    ``peak`` is the device's; on the CPU the process's beyond what it has before the network.
    """

    live: int
    weights: int
    peak: int


def network_of(
    values: Mapping[str, Any], stage: Mapping[str, Any], classes: int, device: torch.device
) -> Segmenter:
    """As a stage trains it, with random weights."""
    with device, torch.random.fork_rng(devices=[]):
        net = parts.network_of(values, classes, stage["os"])
    net.train()
    net.set_batch_norm(stage["bn"])
    net.recompute(values["recompute"])
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def update_of(
    kind: type[Update],
    net: Segmenter,
    values: Mapping[str, Any],
    stage: Mapping[str, Any],
    size: Size,
    device: torch.device,
    precision: Any,
) -> Update:
    """``kind`` of update on ``device``; no random number of the caller's is drawn."""
    plan = StagePlan(
        name=stage["name"],
        output_stride=stage["os"],
        steps=stage["steps"],
        batch=size.images * size.accumulate,
        accumulate=size.accumulate,
        bn=stage["bn"],
        bn_momentum=None,
        make_model=lambda: net,
        make_optimizer=optimizer_of(values, stage["lr"]),
        learning_rate=lambda _: 0.0,
        set_learning_rate=set_learning_rate,
        loss=instantiate.partial(values["loss"], "loss")(ignore_label=255),
        batches=lambda _: iter(()),
        normalise=Normalise(net.pixels.mean, net.pixels.std),
    )
    settings = Settings(seed=values["seed"], device=device, precision=precision)
    ema = values["schedule"]["ema"]
    average = Average(net, ema) if ema is not None else None
    return kind(net, plan.make_optimizer(net), plan, settings, average=average)


def batch_of(size: Size, device: torch.device) -> Batch:
    """Noise without a meaning, of class 0."""
    count, side = size.images * size.accumulate, size.crop
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.zeros(count, side, side, dtype=torch.uint8, device=device))


class Counted(Update):
    """An update on the meta device, where no value can be looked at."""

    def _backward(self, batch: Any) -> tuple[Tensor, Tensor]:
        # Around both passes, for the second may compute maps of the first again.
        with half_convolutions() if self.settings.precision == "bf16" else nullcontext():
            return super()._backward(batch)

    def _forward(self, images: Tensor) -> dict[str, Tensor]:
        return self._scores(images.float().contiguous(memory_format=torch.channels_last))

    def _apply(self, finite: Tensor) -> bool:  # noqa: ARG002
        self.optimizer.step()
        return True


def simulated(
    values: Mapping[str, Any],
    stage: Mapping[str, Any],
    size: Size,
    classes: int,
    *,
    device: str,
    precision: Any,
) -> Step:
    """The peak of a stage's second update (from then on the momentum is there), without memory.

    ``device`` is cpu or cuda; no such card is needed.
    """
    meta = torch.device("meta")
    net = network_of(values, stage, classes, meta)
    with _exact(values["deterministic"]), _bands_of(device), torch.random.fork_rng(devices=[]):
        live = Live(CUDA_BLOCK if device == "cuda" else 1)
        live.hold(net.parameters())
        live.hold(net.buffers())
        weights = live.now
        with live:
            update = update_of(Counted, net, values, stage, size, meta, precision)
            batch = batch_of(size, meta)
            for number in range(2):
                update(batch, 0, number)
    return Step(live.peak, weights, live.peak + beyond(live.peak, weights, device))


def beyond(live: int, weights: int, device: str) -> int:
    """Bytes that a device takes beyond the live ones."""
    if device == "cuda":
        return 0
    maps = max(0, live - 3 * weights)
    return int(KERNELS + WEIGHTS_AGAIN * weights + SLACK * maps)


@contextmanager
def _exact(wanted: bool) -> Iterator[None]:
    """What ``deterministic=true`` would run: its loss has full-size scores."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _bands_of(device: str) -> Iterator[None]:
    """The loss works in bands of the size that ``device`` likes."""
    banded.BAND_BYTES["meta"] = banded.BAND_BYTES[device]
    try:
        yield
    finally:
        del banded.BAND_BYTES["meta"]


def answered(
    values: Mapping[str, Any],
    output_stride: int,
    shape: tuple[int, int, int],
    classes: int,
    *,
    device: str,
    half: bool,
) -> Step:
    """The peak of asking the network about ``shape`` (images, height, width) at once."""
    meta = torch.device("meta")
    net = network_of(values, {"os": output_stride, "bn": "train"}, classes, meta).eval()
    live = Live(CUDA_BLOCK if device == "cuda" else 1)
    live.hold(net.parameters())
    live.hold(net.buffers())
    weights = live.now
    images = torch.empty(shape[0], 3, *shape[1:], device=meta)
    with torch.no_grad(), live, half_convolutions() if half else nullcontext():
        live.hold([images])
        net.scores(images)
    return Step(live.peak, weights, live.peak + beyond(live.peak, weights, device))
