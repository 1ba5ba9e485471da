"""What the page draws by itself: numbers -> places in a drawing, and colours that can be read.

The template writes the elements, so that every name goes through its escaping.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 14, 50

Rgb = tuple[int, int, int]

SHADES = 21  # of the confusion matrix: 0, 5, ... 100 %
# Paper and ink of the light and the dark page.
LIGHT: tuple[Rgb, Rgb] = ((255, 255, 255), (0, 74, 124))
DARK: tuple[Rgb, Rgb] = ((27, 31, 36), (150, 208, 255))


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in the drawing and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart: ``path`` as SVG's polyline takes it, and its points (x, y, value)."""

    name: str
    path: str
    points: Sequence[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A line chart in a drawing of ``WIDTH`` x ``HEIGHT``."""

    curves: Sequence[Curve]
    across: Sequence[Tick]
    up: Sequence[Tick]
    label_across: str
    label_up: str
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], label_across: str, label_up: str
) -> Chart | None:
    """A chart of ``series`` of (x, percent); None where there are not two points to join.

    The upward axis has round ends around what is there: a curve of mIoU seldom begins at 0.
    """
    points = [point for line in series.values() for point in line]
    if len({x for x, _ in points}) < 2:
        return None
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    ticks = round_ticks(min(y for _, y in points), max(y for _, y in points))
    low_y, high_y = ticks[0], ticks[-1]

    def across(x: float) -> float:
        return round(_LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - _LEFT - _RIGHT), 1)

    def up(y: float) -> float:
        return round(_TOP + (high_y - y) / (high_y - low_y) * (HEIGHT - _TOP - _BOTTOM), 1)

    curves = []
    for name, line in series.items():
        placed = [(across(x), up(y), f"{x:g}: {y:.2f}") for x, y in sorted(line)]
        curves.append(Curve(name, " ".join(f"{x},{y}" for x, y, _ in placed), placed))
    marks = [x for x in round_ticks(low_x, high_x, most=9) if low_x <= x <= high_x]
    return Chart(
        curves,
        [Tick(across(x), f"{x:g}") for x in marks],
        [Tick(up(y), f"{y:g}") for y in ticks],
        label_across,
        label_up,
    )


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` round numbers, the first at or below ``low``, the last at or above."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    magnitude = 10 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 50):
        step = factor * magnitude
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [round(step * n, 10) for n in range(first, last + 1)]


# -- colours -------------------------------------------------------------------------------------


def shade(share: float, theme: tuple[Rgb, Rgb]) -> tuple[Rgb, Rgb]:
    """Ground and text of a cell that holds ``share`` (0..1): the text has a contrast of 4.5."""
    paper, ink = theme
    mixed = [round(p + (i - p) * share) for p, i in zip(paper, ink, strict=True)]
    ground = (mixed[0], mixed[1], mixed[2])
    text = max(((0, 0, 0), (255, 255, 255)), key=lambda colour: contrast(colour, ground))
    return ground, text


def contrast(one: Rgb, other: Rgb) -> float:
    """WCAG 2's ratio of luminances, 1..21."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: Rgb) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def shade_of(share: float) -> int:
    """Which of ``SHADES`` a share has; any confusion at all is more than none."""
    return 0 if share <= 0 else max(1, round(share * (SHADES - 1)))


def hexadecimal(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
