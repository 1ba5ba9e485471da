"""ReLU6 that keeps one map for its backward pass instead of two."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class ReLU6(nn.ReLU6):
    """In place; its gradient is read off its result.

    torch's own needs the input for that and so, in place, copies it first. The result tells as
    much: it is strictly between 0 and 6 exactly where the input is. It has no second derivative,
    and torch.func does not go through it.
    """

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
            clipped: Tensor = _Clip.apply(x)
            return clipped
        return super().forward(x)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        F.relu6(x, inplace=True)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (clipped,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, clipped, 0.0, 6.0)
