"""The training curve: loss, learning rate and validation mIoU over optimiser steps."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkit.report.drawing import GREY, NAMED, encoded
from segkit.whole_files import write_whole

if TYPE_CHECKING:  # matplotlib takes half a second to import; only a drawn curve needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _GREEN, _ORANGE = "#0072B2", "#009E73", "#D55E00"  # Okabe and Ito (2008)


def write_curve(path: Path, lines: Iterable[Mapping[str, Any]], title: str = "") -> None:
    """Draw the lines of ``metrics.jsonl`` into ``path``, a .png or .svg.

    Lines with ``loss`` and ``lr`` (and a ``stage``) and lines with ``validation: {miou: 0..1}`` are
    used, by their ``step``; other lines are ignored. The same lines give the same bytes.
    """
    write_whole(path, draw_curve(lines, title, path.suffix.lstrip(".").lower()))


def draw_curve(lines: Iterable[Mapping[str, Any]], title: str, kind: str) -> bytes:
    """The picture's bytes; ``kind`` is ``png`` or ``svg``."""
    import matplotlib
    from matplotlib.figure import Figure

    lines = [{**line, "miou": (line.get("validation") or {}).get("miou")} for line in lines]
    with matplotlib.rc_context(NAMED):
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        _draw(figure, lines, title)
        return encoded(figure, kind)


def _draw(figure: "Figure", lines: list[Mapping[str, Any]], title: str) -> None:
    train = [line for line in lines if _finite(line, "loss")]
    val = [line for line in lines if _finite(line, "miou")]
    heights = [3, 2, 1] if val else [3, 1]
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    _loss(axes[0], train)
    if val:
        _miou(axes[1], val)
    _rate(axes[-1], train)
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        _stage_borders(axis, train)
    _name_stages(axes[0], train)
    axes[-1].set_xlabel("optimiser step")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.align_ylabels(axes)


def _loss(axis: "Axes", train: list[Mapping[str, Any]]) -> None:
    steps, loss = _series(train, "loss")
    axis.set_ylabel("training loss")
    if not len(steps):
        return
    axis.plot(steps, loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    window = len(loss) // 40 | 1  # odd, so that it has a middle
    axis.plot(steps, _smooth(loss, window), color=_BLUE, linewidth=1.5)
    note = f"bold: mean of {window} neighbouring lines" if window > 1 else ""
    axis.text(0.99, 0.95, note, transform=axis.transAxes, ha="right", va="top", color="#5f6368")
    # A few wild first steps must not flatten the rest.
    axis.set_ylim(0, 1.1 * float(np.quantile(loss, 0.99)) or 1.0)


def _miou(axis: "Axes", val: list[Mapping[str, Any]]) -> None:
    steps, miou = _series(val, "miou")
    percent = 100 * miou
    axis.plot(steps, percent, color=_GREEN, marker="o", markersize=3.5, linewidth=1.3)
    best = int(percent.argmax())
    axis.annotate(
        f"best {percent[best]:.2f} at step {steps[best]}",
        (float(steps[best]), float(percent[best])),
        (0, -14),
        textcoords="offset points",
        ha="right" if steps[best] > steps.mean() else "left",
        color=_GREEN,
    )
    axis.set_ylim(0, None)
    axis.set_ylabel("val mIoU (%)")


def _rate(axis: "Axes", train: list[Mapping[str, Any]]) -> None:
    borders = [*(step for step, _ in _stage_starts(train)), np.inf]
    for start, end in pairwise(borders):  # the jump between stages is not a slope
        stage = [line for line in train if start <= line["step"] < end and _finite(line, "lr")]
        axis.plot(*_series(stage, "lr"), color=_ORANGE, linewidth=1.3)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axis.set_ylim(0, None)
    axis.set_ylabel("learning rate")


def _stage_starts(train: list[Mapping[str, Any]]) -> list[tuple[int, str]]:
    starts: list[tuple[int, str]] = []
    for line in train:
        stage = str(line.get("stage", ""))
        if not starts or starts[-1][1] != stage:
            starts.append((int(line["step"]), stage))
    return starts


def _stage_borders(axis: "Axes", train: list[Mapping[str, Any]]) -> None:
    for step, _ in _stage_starts(train)[1:]:
        axis.axvline(step, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))


def _name_stages(axis: "Axes", train: list[Mapping[str, Any]]) -> None:
    starts = _stage_starts(train)
    for step, stage in starts if len(starts) > 1 else []:
        axis.annotate(
            stage, (step, 1.0), (3, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", color="#5f6368",
        )  # fmt: skip


def _finite(line: Mapping[str, Any], key: str) -> bool:
    value = line.get(key)
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _series(lines: list[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([int(line["step"]) for line in lines], np.int64)
    return steps, np.array([line[key] for line in lines], np.float64)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean that narrows at both ends instead of inventing values beyond them."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low = np.maximum(centre - window // 2, 0)
    high = np.minimum(centre + window // 2 + 1, len(values))
    return (total[high] - total[low]) / (high - low)
