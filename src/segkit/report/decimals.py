"""Numbers as a paper prints them: rounded once, half up, from the exact value."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import isqrt


def rounded(value: Fraction, digits: int) -> Decimal:
    """``value`` to ``digits`` decimals; a tie goes away from zero (0.125 -> 0.13)."""
    whole = (abs(value) * 10**digits + Fraction(1, 2)).__floor__()
    return Decimal(whole if value >= 0 else -whole).scaleb(-digits)


def mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def variance(values: Sequence[Fraction]) -> Fraction:
    """The sample variance of two values or more."""
    middle = mean(values)
    return sum(((v - middle) ** 2 for v in values), Fraction(0)) / (len(values) - 1)


def root(square: Fraction, digits: int) -> Decimal:
    """The square root of ``square`` as ``rounded`` would have it, without a float between."""
    doubled = isqrt((square * 4 * 10 ** (2 * digits)).__floor__())
    return Decimal((doubled + 1) // 2).scaleb(-digits)


def shown(number: float | None, digits: int, *, signed: bool = False) -> str:
    """A number that was rounded to ``digits`` before, with its zeros; empty for None."""
    if number is None:
        return ""
    text = f"{Decimal(repr(number)).quantize(Decimal(1).scaleb(-digits)):f}"
    return f"+{text}" if signed and number > 0 else text
