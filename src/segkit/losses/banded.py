"""Cross entropy at the labels' size without scores of that size.

Scores at a stride are enlarged, compared and forgotten a band of rows at a time, and the gradient
by the small scores is made in the same pass: the full-size logits, their softmax and the gradients
by both, four tensors of 4·C·H·W bytes an image, never exist.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of full-size scores at a time. A processor's band stays in its cache (1 to 8 MiB were equally
# fast); a GPU wants few large kernels.
BAND_BYTES = {"cpu": 2**22, "cuda": 2**27}


def banded_cross_entropy(
    scores: Tensor, labels: Tensor, weights: Tensor | None, ignore_label: int
) -> Tensor:
    """The sum over pixels of the (weighted) cross entropy, an fp32 scalar.

    ``scores`` [B, C, h, w] fp32 are enlarged to ``labels`` [B, H, W], integers below C or
    ``ignore_label``, bilinearly with aligned corners; ``weights`` [C] weigh a pixel by its class.
    Differentiable once, by the scores. One score that is not finite may make the loss so though
    no pixel's true class has it: matrix products carry it along its row.
    """
    loss: Tensor = _Banded.apply(scores, labels, weights, ignore_label)
    return loss


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, labels: Tensor, weights: Tensor | None, ignore_label: int
    ) -> Tensor:
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        total = scores.new_zeros(())
        with _no_autocast(scores.device), exact_products(scores.device):
            for images in _groups(scores, labels):
                own = None if gradient is None else gradient[images]
                total += _group_sum(scores[images], labels[images], weights, ignore_label, own)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * given, None, None, None


def _groups(scores: Tensor, labels: Tensor) -> Iterator[slice]:
    """As many whole images as fit a band; at least one."""
    image = 4 * scores.shape[1] * labels.shape[1] * labels.shape[2]
    step = max(1, _band_bytes(scores) // image)
    for first in range(0, len(scores), step):
        yield slice(first, first + step)


def _group_sum(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    ignore_label: int,
    gradient: Tensor | None,
) -> Tensor:
    """The loss of some images; fills ``gradient`` [G, C, h, w]."""
    group, classes, small, across = scores.shape
    height, width = labels.shape[1:]
    where = str(scores.device)
    rows_of, columns_of = _taps(small, height, where), _taps(across, width, where)
    wide = scores.contiguous() @ columns_of.T
    by_wide = None if gradient is None else torch.zeros_like(wide)
    total = scores.new_zeros(())
    step = max(1, _band_bytes(scores) // (4 * group * classes * width))
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        near = _near(small, height, rows)
        taps = rows_of[rows, near]
        losses, by_band = _pixels(taps @ wide[:, :, near], labels[:, rows], weights, ignore_label)
        total += losses
        if by_wide is not None:
            by_wide[:, :, near] += taps.T @ by_band
    if gradient is not None and by_wide is not None:
        gradient.copy_(by_wide @ columns_of)
    return total


def _pixels(
    scores: Tensor, labels: Tensor, weights: Tensor | None, ignore_label: int
) -> tuple[Tensor, Tensor]:
    """The loss of ``scores`` [G, C, r, W] and its gradient by them."""
    truth = labels.long()[:, None]
    share = (truth != ignore_label).float()
    truth = truth.masked_fill(truth == ignore_label, 0)
    if weights is not None:
        share *= weights[truth]
    logs = scores.log_softmax(1)
    total = -(logs.gather(1, truth) * share).sum()
    # Softmax minus one at the truth, weighed.
    gradient = logs.exp_().mul_(share)
    gradient.scatter_add_(1, truth, -share)
    return total, gradient


def _band_bytes(scores: Tensor) -> int:
    return BAND_BYTES.get(scores.device.type, BAND_BYTES["cuda"])


@lru_cache(maxsize=64)
def _taps(small: int, large: int, device: str) -> Tensor:
    """[large, small]: what each of ``small`` rows gives to each of ``large`` ones."""
    places = _places(small, large)
    return (1 - (places[:, None] - torch.arange(small, device="cpu")).abs()).clamp_min(0).to(device)


def _near(small: int, large: int, rows: slice) -> slice:
    """The small rows between which ``rows`` of the large ones lie."""
    places = _places(small, large)
    return slice(int(places[rows.start]), min(int(places[rows.stop - 1]) + 2, small))


@lru_cache(maxsize=64)
def _places(small: int, large: int) -> Tensor:
    # In float32, as F.interpolate reckons.
    scale = torch.tensor((small - 1) / max(large - 1, 1), dtype=torch.float32, device="cpu")
    steps = torch.arange(large, dtype=torch.float32, device="cpu")
    return (scale * steps).clamp_max(small - 1)


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The meta device, on which a step is counted, has none that could be turned off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Matrix products of fp32 in fp32: TF32 would leave scores 10 bits."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
