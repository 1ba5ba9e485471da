"""What one pass of a network computes, moves and holds, counted on the meta device.

Beside ``anatomy``, which also follows where every map looks: this one only counts, in the time that
the pass takes without a tensor, so that a table's networks at all their scales take seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from segkit.models.arithmetic import multiply_adds, space_to_batch
from segkit.models.segmenter import Segmenter
from segkit.models.watching import Watching, tensors_in

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Of some work: ``macs`` are the multiply-adds of its convolutions.

    ``macs_space_to_batch`` has the padding of TensorFlow's atrous convolutions in it, as the
    papers' column (facts §4.4). ``moved`` are the bytes that all operators read and write, as if
    nothing stayed in a cache; ``largest`` those of the largest result; ``kept`` those that a
    backward pass would need, each counted once and without the network's own tensors.
    """

    macs: int = 0
    macs_space_to_batch: int = 0
    moved: int = 0
    largest: int = 0
    kept: int = 0


class Tally(Watching):
    """Counts while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.macs_space_to_batch = self.moved = self.largest = 0

    def ran(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = self._result(func, args, kwargs)
        if not func.is_view:
            made = [part.nbytes for part in tensors_in([result])]
            self.moved += sum(made) + sum(part.nbytes for part in tensors_in(args))
            self.largest = max(self.largest, *made, 0)
        if func is aten.convolution.default:
            self._convolution(args, result)
        return result

    def _result(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is aten.native_batch_norm.default and args[0].is_meta:
            # Shapes alone, as on the meta device; torch's own way to them takes most of a pass.
            channels = args[0].new_empty(args[0].shape[1])
            return torch.empty_like(args[0]), channels, torch.empty_like(channels)
        return func(*args, **kwargs)

    def _convolution(self, args: Sequence[Any], out: Tensor) -> None:
        weight, rate = args[1], args[5]
        sides = (out.shape[2], out.shape[3])
        # A 1×1 has no rate, whatever it was given.
        padded = space_to_batch(sides, rate[-1]) if weight.shape[-1] > 1 else sides
        self.macs += len(out) * multiply_adds(weight.numel(), sides)
        self.macs_space_to_batch += len(out) * multiply_adds(weight.numel(), padded)


def counted(work: Callable[[], object], module: nn.Module) -> Cost:
    """What ``work`` costs, whose parameters and buffers are those of ``module``."""
    kept: dict[int, Tensor] = {}

    def keep(part: Tensor) -> Tensor:
        kept[part.untyped_storage()._cdata] = part  # held, so that no other gets its number
        return part

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part), Tally() as tally:
        work()
    own = chain(module.parameters(), module.buffers())
    for part in own:
        kept.pop(part.untyped_storage()._cdata, None)
    return Cost(
        macs=tally.macs,
        macs_space_to_batch=tally.macs_space_to_batch,
        moved=tally.moved,
        largest=tally.largest,
        kept=sum(part.untyped_storage().nbytes() for part in kept.values()),
    )


def inference_cost(net: Segmenter, size: tuple[int, int]) -> Cost:
    """The scores of one image of ``size`` (height, width); ``net`` must be on the meta device.

    Raises RuntimeError for a size that a layer leaves nothing of.
    """
    net.eval()
    image = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad():
        return counted(lambda: net.scores(image), net)
