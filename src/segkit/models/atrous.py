"""Output stride, said once: which unit still strides, and with which rate it looks instead.

The rule (v1 §3.1, v2 §3.1, v3 §3): strides are taken until the requested output stride is reached;
from there on every stride that is not taken multiplies the rate of all that comes AFTER it, while
the convolution that lost its stride keeps the rate reached so far. The atrous network then computes
the strided one's values, only more densely: at any output stride the same weights, the same
receptive field, and the same value at every position the strided network has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from segkit.errors import ConfigError


@dataclass(frozen=True)
class Unit:
    """What is left of one unit's stride, and the rates on both sides of it.

    ``rate`` is for the unit's convolutions up to and including the one that carries the stride,
    ``rate_after`` for those behind it. Where the stride sits is the unit's own affair: a bottleneck
    of torchvision has it in the 3×3 (which takes ``rate``), a Caffe one in the 1×1 before it (the
    3×3 takes ``rate_after``); the two agree in every unit without a stride.
    """

    stride: int
    rate: int
    rate_after: int


def plan_units(
    blocks: Sequence[Sequence[int]],
    *,
    output_stride: int,
    stem_stride: int,
    multi_grid: Sequence[int] | None,
    accepts_multi_grid: bool,
    network: str,
) -> list[list[Unit]]:
    """Stride and rates of every unit of a network.

    ``blocks`` holds the stride of each unit, block by block; ``stem_stride`` is what was taken
    before the first of them; ``network`` names it in error lines. ``multi_grid`` multiplies the
    rates of the last block's units, one number each (v3 §3.2.1).

    Raises ``ConfigError`` CFG-OUTPUT-STRIDE and CFG-MULTI-GRID, naming the valid choices.
    """
    total = stem_stride * prod(stride for block in blocks for stride in block)
    _check_output_stride(output_stride, stem_stride, total, network)
    grid = _checked_grid(multi_grid, accepts_multi_grid, len(blocks[-1]), network)

    reached, rate = stem_stride, 1
    plan: list[list[Unit]] = []
    for block in blocks:
        units = []
        for stride in block:
            taken = stride if reached < output_stride else 1
            units.append(Unit(taken, rate, rate * stride // taken))
            reached, rate = reached * taken, rate * stride // taken
        plan.append(units)
    plan[-1] = [
        Unit(unit.stride, unit.rate * times, unit.rate_after * times)
        for unit, times in zip(plan[-1], grid, strict=True)
    ]
    return plan


def scale_rates(
    rates: Sequence[int], *, written_for: int, output_stride: int, where: str
) -> tuple[int, ...]:
    """A head's rates at another output stride than they are written for (v3 §3.3: doubled at 8).

    ``where`` is the config key of the rates. Raises ``ConfigError`` CFG-RATES for a rate that is
    not positive or would not be a whole number.
    """
    scaled = [rate * written_for / output_stride for rate in rates]
    if any(rate < 1 or rate != int(rate) for rate in scaled):
        raise ConfigError(
            "RATES",
            where,
            f"{list(rates)} for output stride {written_for} become "
            f"{', '.join(f'{rate:g}' for rate in scaled)} at os={output_stride}",
            "every rate must stay a whole number of at least 1; choose other rates or a smaller os",
        )
    return tuple(int(rate) for rate in scaled)


def _check_output_stride(wanted: int, stem_stride: int, total: int, network: str) -> None:
    choices = [stem_stride]
    while choices[-1] < total:
        choices.append(choices[-1] * 2)
    if wanted not in choices:
        raise ConfigError(
            "OUTPUT-STRIDE",
            "os",
            f"{network} cannot have output stride {wanted}",
            f"one of {', '.join(map(str, choices))}",
        )


def _checked_grid(
    multi_grid: Sequence[int] | None, accepted: bool, units: int, network: str
) -> tuple[int, ...]:
    if multi_grid is None:
        return (1,) * units
    grid = tuple(multi_grid)
    if not accepted:
        raise ConfigError(
            "MULTI-GRID",
            "multi_grid",
            f"{network} cannot have a multi-grid, found {list(grid)}",
            "multi_grid=none, or a ResNet of bottleneck units (r50, r101) or an Xception",
        )
    if len(grid) != units or any(not isinstance(n, int) or n < 1 for n in grid):
        raise ConfigError(
            "MULTI-GRID",
            "multi_grid",
            f"{list(grid)} does not fit the last block of {network}",
            f"{units} whole numbers of at least 1, or none",
        )
    return grid
