"""The bytes that live at each moment of some work, counted on the meta device."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segkit.models.watching import Watching, tensors_in

aten = torch.ops.aten


class Live(Watching):
    """``now`` and ``peak`` bytes of all storages made while it is entered, or given to ``hold``.

    Each is a multiple of ``block``: what the device's allocator gives out.
    """

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._block = block
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._add(tensor)

    def ran(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = _shapes(func, args) if args and _is_meta(args[0]) else None
        if result is None:
            result = func(*args, **kwargs)
        if not func.is_view:
            self.hold(tensors_in([result]))
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // self._block) * self._block
        self._seen[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _shapes(func: Any, args: Sequence[Any]) -> tuple[Tensor | None, ...] | None:
    """Results of batch norm by their shapes alone: torch's own way there takes most of the time."""
    if func is aten.native_batch_norm.default:
        channels = args[0].new_empty(args[0].shape[1], dtype=torch.float32)
        return torch.empty_like(args[0]), channels, torch.empty_like(channels)
    if func is aten.native_batch_norm_backward.default:
        _, x, weight = args[:3]
        wanted = args[9]
        by_weight, by_bias = (
            torch.empty_like(weight) if asked and weight is not None else None
            for asked in wanted[1:]
        )
        return torch.empty_like(x) if wanted[0] else None, by_weight, by_bias
    return None


@contextmanager
def half_convolutions() -> Iterator[None]:
    """bf16 where autocast has it: convolutions. There is no autocast on the meta device.

    Also those that a backward pass computes again, which no TorchFunctionMode is shown.
    """
    before: Any = functional.conv2d

    def conv2d(*args: Any, **kwargs: Any) -> Tensor:
        cast = [a.to(torch.bfloat16) if isinstance(a, Tensor) else a for a in args]
        found: Tensor = before(*cast, **kwargs)
        return found

    functional.conv2d = conv2d
    try:
        yield
    finally:
        functional.conv2d = before
