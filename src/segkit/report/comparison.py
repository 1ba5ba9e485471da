"""Scores side by side, and whether they differ: a paired bootstrap over images.

The data set's mIoU is computed anew from the summed counts of images drawn with replacement, the
same images for every side; the 2.5th and the 97.5th percentile of the differences are the interval
(Efron and Tibshirani 1993, chapter 13). It answers whether other images would tell the two apart,
not whether another training would: for that, several seeds are given as one side.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import one_line
from segkit.report.signature import percent

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 1 << 22  # image counts that are drawn at once

# What two scores may differ in and still be compared: it says which network, and what computed it.
# Every other field of a signature, those of later versions too, is a part of the protocol.
_NETWORK = {
    *("model", "backbone", "train_os", "multi_grid", "weights", "checkpoint", "step", "scored"),
    *("seed", "config", "precision", "device", "deterministic", "segkit", "torch"),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Per image (rows, named by ``ids``) and class: pixels that are right, and of the union."""

    ids: tuple[str, ...]
    right: Floats
    union: Floats


@dataclass(frozen=True)
class Scored:
    """One ``score.json``: ``miou`` and ``iou`` in 0..1 (None: no number); ``path`` says which."""

    path: str
    signature: Mapping[str, Any]
    miou: float | None
    iou: Mapping[str, float | None]
    counts: Counts | None = None

    def protocol(self) -> dict[str, str]:
        """What must be equal in scores that are compared, by the signature's names."""
        # What is off, none or 0 is left out: older scores do not have it.
        fields = {
            k: v
            for k, v in self.signature.items()
            if k not in _NETWORK and v not in (None, False, 0)
        }
        scales = fields.get("scales")
        if isinstance(scales, list) and all(isinstance(scale, int | float) for scale in scales):
            fields["scales"] = [float(scale) for scale in scales]
            if len(scales) == 1 and "flip" not in fields and "fusion" in fields:
                fields["fusion"] = "mean"  # of one view it is what every other fusion is
        return {**_plain(fields), "classes": ", ".join(self.iou)}

    def network(self) -> dict[str, str]:
        """What may differ."""
        return _plain({k: v for k, v in self.signature.items() if k in _NETWORK})


@dataclass(frozen=True)
class Side:
    """One or several scores (of several seeds) that stand for one method."""

    letter: str
    scores: Sequence[Scored]

    @property
    def miou(self) -> float | None:
        """The mean over the scores; None if one of them has no number."""
        return _mean(score.miou for score in self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation (n - 1) over the scores; None for a single one."""
        values = [score.miou for score in self.scores]
        known = [value for value in values if value is not None]
        return statistics.stdev(known) if len(known) == len(values) > 1 else None

    def iou(self, name: str) -> float | None:
        """A class's mean over the scores."""
        return _mean(score.iou.get(name) for score in self.scores)


@dataclass(frozen=True)
class Difference:
    """``side`` minus ``base`` in mIoU (0..1), with its interval where images are known."""

    base: Side
    side: Side
    value: float | None
    interval: tuple[float, float] | None

    def verdict(self, why_none: str = "") -> str:
        """One line."""
        a, b = self.base.letter, self.side.letter
        if self.value is None:
            return f"no difference can be told: {a} or {b} has no mIoU"
        if self.interval is None:
            return f"{b} - {a} = {signed(self.value)}; no interval: {why_none}"
        low, high = self.interval
        how = f"({100 * LEVEL:.0f} %, images resampled)"
        if low <= 0 <= high:
            between = _between(low, high)
            return f"no difference shown: {b} - {a} = {signed(self.value)} {between} {how}"
        if low > 0:
            return f"{b} is {_points(self.value):.2f} {_between(low, high)} over {a} {how}"
        # Turned: a minus beside "under" would take it back.
        return f"{b} is {_points(-self.value):.2f} {_between(-high, -low)} under {a} {how}"


def signed(value: float | None) -> str:
    """0.0123 -> ``+1.23``."""
    return "n/a" if value is None else f"{_points(value):+.2f}"


def _between(low: float, high: float) -> str:
    return f"[{_points(low):.2f}, {_points(high):.2f}]"


def _points(value: float) -> float:
    """In percent, rounded; what rounds to nothing has no sign."""
    return round(100 * value, 2) + 0.0


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if found and len(known) == len(found) else None


# -- what must agree -------------------------------------------------------------------------------


def differing(
    sides: Sequence[Side], of: Callable[[Scored], Mapping[str, str]]
) -> dict[str, list[str]]:
    """Fields that are not the same in all scores of all sides: a text for each side."""
    found = [[of(score) for score in side.scores] for side in sides]
    names = dict.fromkeys(name for side in found for fields in side for name in fields)
    told = {
        name: [", ".join(dict.fromkeys(f.get(name, "none") for f in side)) for side in found]
        for name in names
    }
    everything = [fields for side in found for fields in side]
    return {
        name: texts
        for name, texts in told.items()
        if len({fields.get(name, "none") for fields in everything}) > 1
    }


def same_images(sides: Sequence[Side]) -> bool:
    """Whether all scores that say so are of the same images in the same order."""
    listed = {s.counts.ids for side in sides for s in side.scores if s.counts is not None}
    return len(listed) <= 1


def _plain(fields: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Fields as flat texts, without those that are none or off."""
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _plain(value, f"{before}{name}.")
        elif value is not None and value is not False:
            flat[before + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


# -- the bootstrap ---------------------------------------------------------------------------------


def differences(
    sides: Sequence[Side], resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Every other side against the first, all over the same draws."""
    base, *others = sides
    drawn = None
    if all(score.counts is not None for side in sides for score in side.scores):
        drawn = resampled(sides, resamples, seed)
    found = []
    for number, side in enumerate(others, start=1):
        known = base.miou is not None and side.miou is not None
        value = (side.miou or 0.0) - (base.miou or 0.0) if known else None
        interval = None
        if drawn is not None and known:
            interval = interval_of(drawn[:, number] - drawn[:, 0])
        found.append(Difference(base, side, value, interval))
    return found


def interval_of(values: Floats) -> tuple[float, float]:
    """The central ``LEVEL`` of ``values``, by percentiles."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def resampled(sides: Sequence[Side], resamples: int, seed: int) -> Floats:
    """[resamples, sides]: each side's mean mIoU over images drawn with replacement.

    The same draws for every score. A class in none of the drawn images leaves the mean, as in the
    score itself; NaN where no class is left.
    """
    counts = [[s.counts for s in side.scores if s.counts is not None] for side in sides]
    images = len(counts[0][0].ids)
    draw = np.random.default_rng(seed)
    rows = max(1, min(resamples, _CHUNK // images))
    chunks = []
    for start in range(0, resamples, rows):
        times = _times(draw, min(rows, resamples - start), images)
        means = [np.mean([_miou(times, c) for c in side], axis=0) for side in counts]
        chunks.append(np.stack(means, axis=1))
    return np.concatenate(chunks)


def _times(draw: np.random.Generator, rows: int, images: int) -> Floats:
    """[rows, images]: how often each image is drawn when as many are drawn as there are."""
    places = draw.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
    drawn = np.bincount(places.ravel(), minlength=rows * images)
    return drawn.reshape(rows, images).astype(np.float64)


def _miou(times: Floats, counts: Counts) -> Floats:
    right, union = times @ counts.right, times @ counts.union
    present = union > 0
    iou = np.divide(right, union, out=np.zeros_like(right), where=present)
    classes = present.sum(1)
    return np.divide(iou.sum(1), classes, out=np.full(len(iou), np.nan), where=classes > 0)


# -- for people and for programs -------------------------------------------------------------------


def text(sides: Sequence[Side], comparable: bool) -> str:
    """Both sides' names and the table per class; differences only where there may be any."""
    base, *others = sides
    lines = [_heading(side) for side in sides]
    names = list(dict.fromkeys(name for side in sides for s in side.scores for name in s.iou))
    head = ["class", *(side.letter for side in sides)]
    rows = [[one_line(name), *(percent(side.iou(name)) for side in sides)] for name in names]
    rows.append(["mean", *(percent(side.miou) for side in sides)])
    if any(side.spread is not None for side in sides):
        rows.append(["sd", *("" if (sd := s.spread) is None else percent(sd) for s in sides)])
    if comparable:
        head += [f"{side.letter} - {base.letter}" for side in others]
        for row, name in zip(rows, names, strict=False):
            row += [signed(minus(side.iou(name), base.iou(name))) for side in others]
        rows[len(names)] += [signed(minus(side.miou, base.miou)) for side in others]
    return "\n".join([*lines, "", *_columns([head, *rows])])


def minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _heading(side: Side) -> str:
    if len(side.scores) == 1:
        return f"{side.letter}  {one_line(side.scores[0].path)}"
    paths = ", ".join(one_line(score.path) for score in side.scores)
    return f"{side.letter}  {len(side.scores)} scores: {paths}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right; a short row ends early."""
    full = [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in full
    )
    return ["  ".join(line).rstrip() for line in lines]


def listed(fields: Mapping[str, Sequence[str]]) -> str:
    """``eval_os: 16 | 8; flip: none | true``."""
    return "; ".join(
        f"{name}: {' | '.join(one_line(text)[:80] for text in texts)}"
        for name, texts in fields.items()
    )


def document(
    sides: Sequence[Side],
    protocol: Mapping[str, Sequence[str]],
    network: Mapping[str, Sequence[str]],
    found: Sequence[Difference],
    why_none: str,
) -> dict[str, Any]:
    """The content of ``--json``: numbers in 0..1, null where there is none."""
    return {
        "comparable": not protocol,
        "protocol_differs": {name: list(texts) for name, texts in protocol.items()},
        "network_differs": {name: list(texts) for name, texts in network.items()},
        "sides": [
            {
                "name": side.letter,
                "scores": [score.path for score in side.scores],
                "miou": side.miou,
                "sd": side.spread,
                "iou": {name: side.iou(name) for name in side.scores[0].iou},
            }
            for side in sides
        ],
        "differences": [
            {
                "of": d.side.letter,
                "from": d.base.letter,
                "miou": d.value,
                "interval": None if d.interval is None else list(d.interval),
                "iou": {n: minus(d.side.iou(n), d.base.iou(n)) for n in d.base.scores[0].iou},
                "verdict": d.verdict(why_none),
            }
            for d in found
        ],
    }
