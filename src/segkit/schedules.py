"""Learning rate and batch-norm momentum as pure functions of the step.

Nothing here counts: the loop says what time it is, so a resumed run has nothing to restore.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from segkit.errors import ConfigError

PolicyName = Literal["poly", "step", "constant"]


@dataclass(frozen=True)
class Policy:
    """How the learning rate moves over a stage.

    ``power`` and ``end`` belong to poly (v2 §3.4 takes 0.9 and 0), ``every`` and ``factor`` to
    step (v1 §5: ×0.1 every 2000 steps). The first ``warmup`` steps rise linearly from
    ``warmup_rate``.
    """

    name: PolicyName = "poly"
    power: float = 0.9
    end: float = 0.0
    every: int = 2000
    factor: float = 0.1
    warmup: int = 0
    warmup_rate: float = 0.0


def poly(base: float, step: int, steps: int, power: float = 0.9, end: float = 0.0) -> float:
    """``end + (base - end) · (1 - step/steps)^power`` (v2 §3.4), and ``end`` past the end.

    The clamp matters: Python's ``(1 - 1.1) ** 0.9`` is a complex number.
    """
    left = max(0.0, 1.0 - step / steps)
    return float(end + (base - end) * left**power)


def staircase(base: float, step: int, every: int, factor: float = 0.1) -> float:
    """``base · factor^(step // every)`` (v1 §5)."""
    return float(base * factor ** (step // every))


def warmed_up(rate: float, step: int, warmup: int, start: float = 0.0) -> float:
    """``rate``, approached linearly from ``start`` and reached at step ``warmup - 1``.

    Step 0 is one stride above ``start``: an update at rate 0 would be wasted.
    """
    return start + (rate - start) * (step + 1) / warmup if step < warmup else rate


def learning_rate(policy: Policy, base: float, step: int, steps: int) -> float:
    """The base rate of update number ``step`` (0-based) of a stage of ``steps`` updates.

    Past the end the last step's rule holds. Raises ConfigError for an unknown policy.
    """
    if policy.name == "poly":
        rate = poly(base, step, steps, policy.power, policy.end)
    elif policy.name == "step":
        rate = staircase(base, step, policy.every, policy.factor)
    elif policy.name == "constant":
        rate = base
    else:
        allowed = ", ".join(get_args(PolicyName))
        raise ConfigError("VALUE", "schedule.policy.name", repr(policy.name), f"one of {allowed}")
    return warmed_up(rate, step, policy.warmup, policy.warmup_rate)


# v3 §4.1 averages batch-norm statistics with decay 0.9997, which PyTorch calls momentum 3e-4,
# over 30K steps.
PAPER_MOMENTUM = 3e-4
PAPER_STEPS = 30_000


def batch_norm_momentum(steps: int) -> float:
    """Momentum of the running statistics in a stage of ``steps`` updates.

    The papers' own from their 30K steps on. A shorter run would keep mostly the initial
    statistics (with 3e-4 a 300-step run evaluates at a tenth of its true score), so it forgets
    them as thoroughly as 30K steps do, and no faster than PyTorch's default of 0.1. That is a
    deviation from v3 §4.1.
    """
    if steps >= PAPER_STEPS:
        return PAPER_MOMENTUM
    return min(0.1, 1 - (1 - PAPER_MOMENTUM) ** (PAPER_STEPS / steps))
