"""What else is read off counts: accuracies, the frequency-weighted IoU, IoU of categories.

Everything is a quotient of Python integers, so exact to the last bit; ``None`` stands where the
quotient would be 0 / 0, and such classes stay out of every mean.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from segkit.metrics.confusion import iou, rows_of

Matrix = Tensor | Sequence[Sequence[int]]
Scores = list[float | None]


def quotient(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are numbers; ``None`` if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def ious(right: Sequence[int], truth: Sequence[int], found: Sequence[int]) -> Scores:
    """IoU of every class from its pixels that are right, in the truth, and in the prediction."""
    return [quotient(r, t + f - r) for r, t, f in zip(right, truth, found, strict=True)]


def class_accuracy(matrix: Matrix) -> Scores:
    """TP / (TP + FN) per class (recall); ``None`` for a class absent from the truth."""
    rows = rows_of(matrix)
    return [quotient(row[c], sum(row)) for c, row in enumerate(rows)]


def class_precision(matrix: Matrix) -> Scores:
    """TP / (TP + FP) per class; ``None`` for a class that was never predicted."""
    rows = rows_of(matrix)
    columns = zip(*rows, strict=True)
    return [quotient(column[c], sum(column)) for c, column in enumerate(columns)]


def mean_accuracy(matrix: Matrix) -> float | None:
    """Mean of ``class_accuracy`` over the classes of the truth (Long et al. 2015)."""
    return mean(class_accuracy(matrix))


def frequency_weighted_iou(matrix: Matrix) -> float | None:
    """Sum over classes of share of the truth's pixels × IoU (Long et al. 2015)."""
    rows = rows_of(matrix)
    pixels = sum(map(sum, rows))
    if not pixels:
        return None
    weighted = (sum(row) * (score or 0.0) for row, score in zip(rows, iou(rows), strict=True))
    return sum(weighted) / pixels


def merged(matrix: Matrix, categories: Sequence[str]) -> dict[str, dict[str, int]]:
    """Truth by prediction over categories, in the order of their first classes.

    ``categories`` has the category of every class. Two classes of one category count as one.
    """
    names = list(dict.fromkeys(categories))
    counts = {truth: dict.fromkeys(names, 0) for truth in names}
    for truth, row in zip(categories, rows_of(matrix), strict=True):
        for found, count in zip(categories, row, strict=True):
            counts[truth][found] += count
    return counts


def category_iou(matrix: Matrix, categories: Sequence[str]) -> dict[str, float | None]:
    """IoU of every category, as cityscapesScripts has it (evalPixelLevelSemanticLabeling).

    A pixel counts as right where truth and prediction belong to one category.
    """
    counts = merged(matrix, categories)
    scores = iou([list(row.values()) for row in counts.values()])
    return dict(zip(counts, scores, strict=True))
