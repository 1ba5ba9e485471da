"""How many taps of an atrous 3×3 fall on the map, against the rate (v3 §3.3, Fig. 4).

At a large rate the filter degenerates to a 1×1: only its middle still sees something. That is why
v3 puts image pooling beside the atrous branches.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from segkit.report.drawing import STYLE, encoded
from segkit.whole_files import write_whole

COUNTS = (9, 6, 4, 2, 1)

# The figure draws 9, 4 and 1; hues of Okabe and Ito (2008).
_CURVES = {9: "#0072B2", 4: "#009E73", 1: "#D55E00", 6: "#9AA0A6", 2: "#C4C7CC"}
_POINTS = 400

# Where facts on v3's rates are usually asked for: those of its tables, their doubles, and around
# half the side, where the last position with nine valid taps is lost.
_RATES = (1, 2, 4, 6, 8, 12, 16, 18, 20, 24, 28, 32, 33, 36, 40, 48, 56, 64)


def shares(size: int, rate: int) -> dict[int, Fraction]:
    """Share of the positions of a ``size``×``size`` map with 9, 6, 4, 2 and 1 valid taps.

    Along a side a position has three taps on the map, or two, or its own alone; the counts of the
    two sides multiply.
    """
    three = max(0, size - 2 * rate)
    one = min(size, max(0, 2 * rate - size))
    two = size - three - one
    pairs = {9: three**2, 6: 2 * three * two, 4: two**2, 2: 2 * two * one, 1: one**2}
    # A side with three-tap positions has none with a single one, so three never comes of both.
    return {count: Fraction(pairs[count], size**2) for count in COUNTS}


def mean_share(size: int, rate: int) -> Fraction:
    """The share of the nine taps that is valid, on average over the map."""
    return sum((count * share for count, share in shares(size, rate).items()), Fraction(0)) / 9


def usual_rates(size: int) -> list[int]:
    """The rates of the table: below ``size``, and ``size``, from where on nothing changes."""
    return [*(rate for rate in _RATES if rate < size), size]


def table(size: int, rates: Sequence[int]) -> str:
    """Percent of the positions for each count of valid taps, one line a rate."""
    lines = ["rate " + "".join(f"{count:>8}" for count in COUNTS) + "    mean share of 9"]
    for rate in rates:
        found = shares(size, rate)
        cells = "".join(f"{100 * float(found[count]):8.2f}" for count in COUNTS)
        lines.append(f"{rate:>4} {cells}{100 * float(mean_share(size, rate)):19.2f}")
    return "\n".join(lines)


def write_picture(path: Path, size: int) -> None:
    """Draw the curves into ``path``, a .png or .svg; the same size gives the same bytes."""
    write_whole(path, picture(size, path.suffix.lstrip(".").lower()))


def picture(size: int, kind: str) -> bytes:
    """The picture's bytes; ``kind`` is ``png`` or ``svg``."""
    import matplotlib
    from matplotlib.figure import Figure

    rates = sorted({max(1, n * size // _POINTS) for n in range(1, _POINTS + 1)})
    points = {rate: shares(size, rate) for rate in rates}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis = figure.subplots()
        for count, colour in _CURVES.items():
            axis.plot(
                rates,
                [float(points[rate][count]) for rate in rates],
                color=colour,
                linewidth=2.0 if count in (1, 4, 9) else 1.2,
                linestyle="-" if count in (1, 4, 9) else "--",
                label=f"{count} valid {'weight' if count == 1 else 'weights'}",
            )
        axis.set_xlim(0, size)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("atrous rate")
        axis.set_ylabel("share of positions")
        axis.set_title(f"valid taps of a 3×3 on a {size}×{size} map", fontsize=10, loc="left")
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return encoded(figure, kind)
