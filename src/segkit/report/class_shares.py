"""How often each class of a data set is seen, as bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.errors import one_line
from segkit.report.drawing import NAMED, encoded
from segkit.whole_files import write_whole

_MOST = 120  # a longer picture is read by nobody
_FLOOR = 1e-7  # where the logarithmic axis begins at the latest
_WIDE = 0.3  # of all pixels; the text of such a bar is written in it
_PLATE = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
_EDGE = "#3c4043"  # so that a bright class colour is seen on white

Row = tuple[str, float, float, tuple[int, int, int]]
"""Name, share of pixels, share of images (0..1), RGB."""


def write_class_shares(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw the bars into ``path``, a .png or .svg; the same rows give the same bytes."""
    write_whole(path, class_shares(rows, title, path.suffix.lstrip(".").lower()))


def class_shares(rows: Sequence[Row], title: str, kind: str) -> bytes:
    """The picture's bytes; ``kind`` is ``png`` or ``svg``."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = list(rows[:_MOST])
    if len(rows) > len(shown):
        title += f" (the first {len(shown)} of {len(rows)} classes)"
    with matplotlib.rc_context(NAMED):
        figure = Figure(figsize=(8.0, 1.3 + 0.22 * len(shown)), layout="constrained")
        pixels, images = figure.subplots(1, 2, sharey=True)
        names = [one_line(name)[:40] for name, *_ in shown]
        places = range(len(shown))
        colours = [tuple(channel / 255 for channel in colour) for *_, colour in shown]
        bar: Any = {"color": colours, "edgecolor": _EDGE, "linewidth": 0.5, "height": 0.72}
        _pixel_bars(pixels, [share for _, share, _, _ in shown], places, bar)
        pixels.set_yticks(places, names)
        pixels.set_ylim(len(shown) - 0.4, -0.6)
        images.barh(places, [100 * share for _, _, share, _ in shown], **bar)
        images.set_xlim(0, 100)
        images.set_xlabel("% of the images show it")
        for axes in (pixels, images):
            axes.grid(axis="x", alpha=0.25, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
        figure.suptitle(one_line(title), x=0.01, ha="left", fontsize=10)
        return encoded(figure, kind)


def _pixel_bars(axes: Any, shares: Sequence[float], places: range, bar: Any) -> None:
    """On a logarithmic axis: rare classes are what the picture is for."""
    least = min((share for share in shares if share), default=1.0)
    axes.barh(places, [100 * share for share in shares], **bar)
    axes.set_xscale("log")
    axes.set_xlim(100 * max(_FLOOR, least / 3), 100)
    axes.xaxis.set_major_formatter(lambda percent, _: f"{percent:g}")  # the own one is math text
    axes.xaxis.set_minor_formatter(lambda *_: "")
    for place, share in zip(places, shares, strict=True):
        text = f"{100 * share:.2g} %" if share else "no pixel"
        start = 100 * max(share, _FLOOR, least / 3)
        room: Any = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
        if share > _WIDE:  # no room behind it
            room |= {"xytext": (-3, 0), "ha": "right", "bbox": _PLATE}
        axes.annotate(text, (start, place), **room)
    axes.set_xlabel("% of the pixels that are not void")
