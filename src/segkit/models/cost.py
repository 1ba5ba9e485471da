"""What one pass of a network computes, moves and holds, counted on the meta device.

Beside ``anatomy``, which also follows where every map looks: this one only counts, in the time that
the pass takes without a tensor, so that a table's networks at all their scales take seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.models.arithmetic import multiply_adds, space_to_batch
from segkit.models.segmenter import Segmenter

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Of one pass: ``macs`` are the multiply-adds of its convolutions.

    ``macs_space_to_batch`` has the padding of TensorFlow's atrous convolutions in it, as the
    papers' column (facts §4.4). ``moved`` are the bytes that all operators read and write, as if
    nothing stayed in a cache; ``largest`` the bytes of the largest map; ``kept`` those of the maps
    that a backward pass would need, each counted once and without the parameters.
    """

    macs: int = 0
    macs_space_to_batch: int = 0
    moved: int = 0
    largest: int = 0
    kept: int = 0


class Tally(TorchDispatchMode):
    """Counts while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.macs_space_to_batch = self.moved = self.largest = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [_bytes(part) for part in _tensors([result])]
            self.moved += sum(made) + sum(_bytes(part) for part in _tensors(args))
            self.largest = max(self.largest, *made, 0)
        if func is aten.convolution.default:
            self._convolution(args, result)
        return result

    def _convolution(self, args: Sequence[Any], out: Tensor) -> None:
        weight, rate = args[1], args[5]
        sides = (out.shape[2], out.shape[3])
        # A 1×1 has no rate, whatever it was given.
        padded = space_to_batch(sides, rate[-1]) if weight.shape[-1] > 1 else sides
        self.macs += len(out) * multiply_adds(weight.numel(), sides)
        self.macs_space_to_batch += len(out) * multiply_adds(weight.numel(), padded)


def inference_cost(net: Segmenter, size: tuple[int, int], images: int = 1) -> Cost:
    """Scores of ``images`` of ``size`` (height, width); ``net`` must be on the meta device.

    Raises RuntimeError for a size that a layer leaves nothing of.
    """
    net.eval()
    with torch.no_grad(), Tally() as tally:
        net.scores(torch.empty(images, 3, *size, device="meta"))
    return Cost(tally.macs, tally.macs_space_to_batch, tally.moved, tally.largest)


def training_cost(
    net: Segmenter,
    size: tuple[int, int],
    images: int,
    loss: Callable[[Mapping[str, Tensor], Tensor], Tensor],
) -> Cost:
    """The forward pass of ``images`` together in the modes that ``net`` is in, with ``loss``.

    ``loss(scores, labels)`` is given labels uint8 [images, *size]. Raises as ``inference_cost``.
    """
    kept: dict[int, Tensor] = {}

    def keep(part: Tensor) -> Tensor:
        kept[part.untyped_storage()._cdata] = part  # the tensor, so that no other gets the number
        return part

    image = torch.empty(images, 3, *size, device="meta")
    labels = torch.empty(images, *size, dtype=torch.uint8, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part), Tally() as tally:
        loss(net.scores(image), labels)
    mine = {part.untyped_storage()._cdata for part in _held(net)}
    held = sum(part.untyped_storage().nbytes() for at, part in kept.items() if at not in mine)
    return Cost(tally.macs, tally.macs_space_to_batch, tally.moved, tally.largest, held)


def _held(net: nn.Module) -> Iterator[Tensor]:
    yield from net.parameters()
    yield from net.buffers()


def _bytes(part: Tensor) -> int:
    return prod(part.shape) * part.itemsize


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
