"""What a split is made of: classes, colours, sizes, and weights for its classes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkit.check.scan import Survey
from segkit.errors import one_line


@dataclass(frozen=True)
class ClassFacts:
    """Shares are of all pixels that are not void, and of all images; None: nothing to divide by."""

    label: int
    name: str
    pixels: int
    share: float | None
    images: int
    image_share: float
    weight: float | None


@dataclass(frozen=True)
class Stats:
    """``mean`` and ``std`` are over all pixels of all images, per channel, in 0..1; the three
    sizes (width, height) are those of the smallest, the middle and the largest image by area."""

    samples: int
    classes: tuple[ClassFacts, ...]
    void_share: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    distinct_sizes: int


def stats_of(survey: Survey) -> Stats:
    """Of a split that was read without a fault."""
    valid = int(survey.pixels.sum())
    weights = median_frequency_weights(survey.pixels, survey.present)
    classes = tuple(
        ClassFacts(
            label,
            name,
            pixels,
            pixels / valid if valid else None,
            images,
            images / len(survey),
            weight,
        )
        for label, (name, pixels, images, weight) in enumerate(
            zip(
                survey.labels.names,
                survey.pixels.tolist(),
                survey.images.tolist(),
                weights,
                strict=True,
            )
        )
    )
    mean = survey.colour_sums / survey.seen / 255
    square = survey.colour_squares / survey.seen / 255**2
    by_area = survey.sizes[survey.sizes.prod(axis=1, dtype=np.int64).argsort(kind="stable")]
    low, middle, high = (
        (int(w), int(h)) for w, h in by_area[[0, (len(by_area) - 1) // 2, -1]].tolist()
    )
    return Stats(
        len(survey),
        classes,
        survey.void / survey.total,
        tuple(mean.tolist()),
        tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()),
        (low, middle, high),
        len(np.unique(survey.sizes, axis=0)),
    )


def median_frequency_weights(pixels: np.ndarray, present: np.ndarray) -> list[float | None]:
    """The median of all classes' frequencies over each class's own; None for an absent class.

    A class's frequency is its ``pixels`` over all pixels (void too) of the images that show it,
    ``present`` (Eigen & Fergus 2015, as SegNet's weights for CamVid are made).
    """
    shown = pixels > 0
    if not shown.any():
        return [None] * len(pixels)
    frequency = pixels[shown] / present[shown]
    weights = iter((np.median(frequency) / frequency).tolist())
    return [next(weights) if there else None for there in shown.tolist()]


def weights_line(stats: Stats) -> str:
    """The two words for ``segkit train`` that use the weights; an absent class weighs 1."""
    listed = ",".join("1.0" if c.weight is None else f"{c.weight:.4g}" for c in stats.classes)
    return f"loss=class_weighted 'loss.class_weights=[{listed}]'"


def table(stats: Stats) -> str:
    """For people: a line for each class, then what is of the whole split."""
    width = max(len("class"), *(len(one_line(c.name)) for c in stats.classes))
    lines = [f"{'class':<{width}} {'pixels':>14} {'share':>8} {'images':>8} {'':>7} {'weight':>9}"]
    lines += [
        f"{one_line(c.name):<{width}} {c.pixels:>14} {_percent(c.share):>8} {c.images:>8} "
        f"{_percent(c.image_share):>7} {'-' if c.weight is None else format(c.weight, '.4f'):>9}"
        for c in stats.classes
    ]
    low, middle, high = (f"{w}x{h}" for w, h in stats.sizes)
    distinct = f"{stats.distinct_sizes} different" if stats.distinct_sizes > 1 else "all alike"
    facts = {
        "void": _percent(stats.void_share),
        "sizes": f"{low} (smallest), {middle} (median), {high} (largest); {distinct}",
        "mean": " ".join(f"{value:.4f}" for value in stats.mean),
        "std": " ".join(f"{value:.4f}" for value in stats.std),
    }
    return "\n".join([*lines, "", *(f"{name:<6} {text}" for name, text in facts.items())])


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    # Two digits that mean something, for the rare classes are what one looks for.
    digits = 2 if share == 0 or share >= 0.01 else min(6, 1 - math.floor(math.log10(100 * share)))
    return f"{100 * share:.{digits}f} %"


def as_json(stats: Stats) -> dict[str, Any]:
    """The same for programs; the names are fixed."""
    return {
        "samples": stats.samples,
        "void_share": stats.void_share,
        "mean": stats.mean,
        "std": stats.std,
        "sizes": dict(zip(("smallest", "median", "largest"), stats.sizes, strict=True)),
        "distinct_sizes": stats.distinct_sizes,
        "classes": [vars(found) for found in stats.classes],
        "weights": weights_line(stats),
    }
