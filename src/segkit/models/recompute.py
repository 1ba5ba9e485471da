"""Units of a backbone whose inner maps are not kept for the backward pass but computed again there.

A bottleneck unit keeps twelve maps of its narrow width for each that goes in; recomputed it keeps
what goes in, four. Batch statistics are computed from the same numbers again, so gradients are
those of a unit that keeps all; running averages move once.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from segkit.errors import ConfigError


def mark(units: Sequence[nn.Module], share: float, where: str) -> None:
    """From now on the first ``share`` (0..1) of ``units`` are recomputed, the others not.

    The first ones, for the maps of early units are the largest for what they compute. Raises
    ConfigError CFG-RECOMPUTE where a share is asked of no units, or of more than all.
    """
    if not 0 <= share <= 1:
        raise ConfigError("RECOMPUTE", "recompute", f"found {share}", "0 (keep all) to 1")
    if share and not units:
        fix = "recompute=0, or more schedule.accumulate"
        raise ConfigError("RECOMPUTE", "recompute", f"{where} has no units to recompute", fix)
    count = math.ceil(share * len(units))
    for number, unit in enumerate(units):
        unit.recomputed = number < count  # type: ignore[assignment]


def run(unit: nn.Module, x: Tensor) -> Tensor:
    """``unit(x)``; its maps are forgotten if it is marked."""
    if not (getattr(unit, "recomputed", False) and torch.is_grad_enabled()):
        found: Tensor = unit(x)
        return found
    again: Tensor = checkpoint(
        unit,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing random is in a unit
        context_fn=partial(_contexts, unit),
    )
    return again


def _contexts(unit: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _seen_once(unit)


@contextmanager
def _seen_once(unit: nn.Module) -> Iterator[None]:
    """Batch statistics as before, without counting the batch a second time."""
    norms = [part for part in unit.modules() if isinstance(part, _BatchNorm) and part.training]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum = 0.0  # the running averages are then written as they are
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
