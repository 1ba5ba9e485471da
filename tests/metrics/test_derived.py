"""Accuracies, weighted IoU and categories, against plain fractions."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.data.labels import CITYSCAPES, CITYSCAPES_CATEGORIES, VOC, categories_of
from segkit.metrics.confusion import iou, pixel_accuracy
from segkit.metrics.derived import (
    category_iou,
    class_accuracy,
    class_precision,
    frequency_weighted_iou,
    ious,
    mean,
    mean_accuracy,
)

MATRIX = [[3, 1, 0], [2, 4, 0], [0, 0, 0]]  # the third class is absent (E5)


def test_golden_numbers() -> None:
    for matrix in (MATRIX, torch.tensor(MATRIX)):
        assert class_accuracy(matrix) == [3 / 4, 4 / 6, None]
        assert class_precision(matrix) == [3 / 5, 4 / 5, None]
        assert mean_accuracy(matrix) == (3 / 4 + 4 / 6) / 2
        assert frequency_weighted_iou(matrix) == pytest.approx((4 * 3 / 6 + 6 * 4 / 7) / 10)


def test_in_the_truth_only_and_in_the_prediction_only() -> None:
    matrix = [[0, 5], [0, 0]]
    assert class_accuracy(matrix) == [0.0, None]
    assert class_precision(matrix) == [None, 0.0]
    assert mean_accuracy(matrix) == 0.0
    assert frequency_weighted_iou(matrix) == 0.0


def test_nothing_counted_is_no_number() -> None:
    empty = [[0, 0], [0, 0]]
    assert class_accuracy(empty) == class_precision(empty) == [None, None]
    assert mean_accuracy(empty) is frequency_weighted_iou(empty) is mean([]) is None
    assert category_iou(empty, ["a", "a"]) == {"a": None}


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.lists(
    st.lists(st.integers(0, 2**60), min_size=n, max_size=n), min_size=n, max_size=n)))  # fmt: skip
def test_counts_of_any_size_are_exact(matrix: list[list[int]]) -> None:
    """E11: the quotient of the integers themselves, rounded once."""
    size = range(len(matrix))
    truth = [sum(row) for row in matrix]
    found = [sum(row[c] for row in matrix) for c in size]

    def rounded(part: int, whole: int) -> float | None:
        return float(Fraction(part, whole)) if whole else None

    assert class_accuracy(matrix) == [rounded(matrix[c][c], truth[c]) for c in size]
    assert class_precision(matrix) == [rounded(matrix[c][c], found[c]) for c in size]
    assert ious([matrix[c][c] for c in size], truth, found) == iou(matrix)
    union = [truth[c] + found[c] - matrix[c][c] for c in size]
    if pixels := sum(truth):
        shares = (Fraction(truth[c] * matrix[c][c], union[c]) for c in size if union[c])
        exact = sum(shares, Fraction()) / pixels
        assert frequency_weighted_iou(matrix) == pytest.approx(float(exact), rel=1e-14)


def test_torchmetrics_agrees() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    torch.manual_seed(0)
    label, found = torch.randint(0, 6, (2, 5000)).unbind()
    matrix = classification.MulticlassConfusionMatrix(6)(found, label)
    each = classification.MulticlassAccuracy(6, average="none")(found, label).tolist()
    precision = classification.MulticlassPrecision(6, average="none")(found, label).tolist()
    assert each == pytest.approx(class_accuracy(matrix), abs=1e-6)
    assert precision == pytest.approx(class_precision(matrix), abs=1e-6)
    weighted = classification.MulticlassJaccardIndex(6, average="weighted")(found, label)
    assert float(weighted) == pytest.approx(frequency_weighted_iou(matrix), abs=1e-6)


def test_classes_of_one_category_are_one() -> None:
    matrix = [[5, 2, 1], [3, 4, 0], [1, 1, 7]]
    merged = [[14, 1], [2, 7]]
    assert category_iou(matrix, ["a", "a", "b"]) == dict(zip("ab", iou(merged), strict=True))
    alone = dict(zip("xyz", iou(matrix), strict=True))
    assert category_iou(matrix, ["x", "y", "z"]) == alone
    assert category_iou(matrix, ["all"] * 3) == {"all": 1.0}
    assert pixel_accuracy(matrix) == 16 / 24


def test_the_categories_are_the_benchmarks() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    theirs = tuple(labels.trainId2label[c].category for c in range(CITYSCAPES.num_classes))
    assert theirs == CITYSCAPES_CATEGORIES == categories_of(CITYSCAPES)
    assert len(set(theirs)) == 7
    assert categories_of(VOC) is None
