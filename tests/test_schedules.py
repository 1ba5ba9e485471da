"""Golden values of the schedules."""

import pytest

from segkit.errors import ConfigError
from segkit.schedules import Policy, batch_norm_momentum, learning_rate, poly, staircase


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.007),
        (1, 0.00699979),
        (15_000, 0.00375120712),
        (29_999, 6.541674e-07),
        (30_000, 0.0),
        (33_000, 0.0),
        (10**9, 0.0),
    ],
)
def test_poly_of_v3(step: int, rate: float) -> None:
    found = poly(0.007, step, 30_000)
    assert isinstance(found, float)
    assert found == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("power", "half"), [(0.9, 0.53588673), (1.0, 0.5), (2.0, 0.25)])
def test_poly_takes_power_and_end(power: float, half: float) -> None:
    assert poly(1.0, 5, 10, power) == pytest.approx(half)
    assert poly(1.0, 5, 10, power, end=0.1) == pytest.approx(0.1 + 0.9 * half)
    assert poly(1.0, 11, 10, power, end=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1e-3), (1999, 1e-3), (2000, 1e-4), (3999, 1e-4), (5999, 1e-5)]
)
def test_staircase_of_v1(step: int, rate: float) -> None:
    assert staircase(1e-3, step, 2000) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("policy", "rates"),
    [
        (Policy("constant"), [1, 1, 1, 1, 1]),
        (Policy("constant", warmup=4), [0.25, 0.5, 0.75, 1, 1]),
        (Policy("constant", warmup=2, warmup_rate=0.5), [0.75, 1, 1, 1, 1]),
        (Policy("step", every=2, factor=0.5), [1, 1, 0.5, 0.5, 0.25]),
        (Policy("step", every=2, factor=0.5, warmup=1), [1, 1, 0.5, 0.5, 0.25]),
        (Policy("poly", power=1.0), [1, 0.8, 0.6, 0.4, 0.2]),
        (Policy("poly", power=1.0, end=0.5), [1, 0.9, 0.8, 0.7, 0.6]),
        (Policy("poly", power=1.0, warmup=2), [0.5, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_the_rate_of_each_step(policy: Policy, rates: list[float]) -> None:
    assert [learning_rate(policy, 1.0, step, 5) for step in range(5)] == pytest.approx(rates)


def test_an_unknown_policy_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'cosine'.*poly, step, constant"):
        learning_rate(Policy("cosine"), 1.0, 0, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "momentum"),
    [(90_000, 3e-4), (30_000, 3e-4), (29_999, 3.00010e-4), (3000, 2.995953e-3), (300, 0.029559),
     (85, 0.1), (1, 0.1)],
)  # fmt: skip
def test_batch_norm_momentum(steps: int, momentum: float) -> None:
    assert batch_norm_momentum(steps) == pytest.approx(momentum, rel=1e-4)
