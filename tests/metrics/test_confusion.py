"""The metric against plain integers, torchmetrics, and the traps of narrow types."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import DataError
from segkit.metrics import confusion as module
from segkit.metrics.confusion import ConfusionMatrix, iou, mean_iou, pixel_accuracy


def oracle(prediction: np.ndarray, label: np.ndarray, classes: int, ignore: int) -> list[list[int]]:
    matrix = [[0] * classes for _ in range(classes)]
    for found, truth in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
        if truth != ignore:
            matrix[truth][found] += 1
    return matrix


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 255),
    pixels=st.integers(0, 60),
    kind=st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
)
def test_counts_are_the_oracles(seed: int, classes: int, pixels: int, kind: torch.dtype) -> None:
    """E5, E9, E11: whatever the input type; uint8 is where 200·21+5 becomes 109."""
    draw = np.random.default_rng(seed)
    label = draw.choice([*range(classes), 255], pixels)
    found = draw.integers(0, classes, pixels)
    confusion = ConfusionMatrix(classes, 255, "cpu")
    for part in np.array_split(np.arange(pixels), 3):
        confusion.update(torch.tensor(found[part]).to(kind), torch.tensor(label[part]).to(kind))
    assert confusion.matrix().tolist() == oracle(found, label, classes, 255)


@pytest.mark.parametrize(("classes", "ignore"), [(2, 255), (21, 255), (21, 5), (255, 255), (3, -1)])
@pytest.mark.parametrize("table", ["_lines", "_lanes"])
def test_bytes_are_counted_as_their_wide_copies(
    classes: int, ignore: int, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, with values that belong in no cell, in views; as the CPU and as a GPU does it."""
    monkeypatch.setattr(module, "_EXACT", 1001)
    monkeypatch.setattr(module, "_lines", getattr(module, table))
    torch.manual_seed(classes)
    maps = torch.randint(0, 256, (2, 70, 90), dtype=torch.uint8)
    maps[:, :50] %= min(classes + 1, 255)
    for part in (maps, maps[:, ::2, 1::3], maps.transpose(1, 2), maps[:, :1, :3], maps[:, :0]):
        narrow, wide = (ConfusionMatrix(classes, ignore, "cpu") for _ in range(2))
        narrow.update(*part)
        wide.update(*part.long())
        assert torch.equal(narrow._counts, wide._counts)
        assert int(narrow._counts.sum()) == part[0].numel()


def test_two_dimensions_and_rows_are_truth() -> None:
    confusion = ConfusionMatrix(3, 255, "cpu")
    confusion.update(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 2], [2, 255]]))
    assert confusion.matrix().tolist() == [[1, 0, 0], [0, 0, 0], [0, 2, 0]]


def test_counts_beyond_2_to_the_24_are_exact() -> None:
    """A float32 count stops at 16 777 216."""
    confusion = ConfusionMatrix(2, 255, "cpu")
    pixels = torch.ones(4200 * 4200, dtype=torch.uint8)
    confusion.update(pixels, pixels)
    confusion.update(pixels[:1], pixels[:1])
    assert confusion.matrix().tolist() == [[0, 0], [0, 4200 * 4200 + 1]]


@pytest.mark.parametrize("large", [2**31, 2**53 + 1, 2**60])
def test_large_counts_are_exact(large: int) -> None:
    confusion = ConfusionMatrix(2, 255, "cpu")
    confusion.add(torch.tensor([[large, 1], [0, 3]]))
    confusion.add(torch.tensor([[1, 0], [0, 0]]))
    assert confusion.matrix().tolist() == [[large + 1, 1], [0, 3]]
    assert iou(confusion.matrix()) == [(large + 1) / (large + 2), 3 / 4]


@pytest.mark.parametrize(
    ("found", "label"),
    [([0], [2]), ([2], [0]), ([0], [-1]), ([-1], [0]), ([0], [254]), ([200], [1])],
)
def test_what_belongs_in_no_cell_is_reported(found: list[int], label: list[int]) -> None:
    confusion = ConfusionMatrix(2, 255, "cpu")
    confusion.update(torch.tensor([1, *found]), torch.tensor([1, *label]))
    with pytest.raises(DataError, match=r"1 pixels.*0\.\.1"):
        confusion.matrix()


def test_ignored_pixels_count_nowhere_whatever_was_predicted() -> None:
    confusion = ConfusionMatrix(2, 255, "cpu")
    confusion.update(torch.tensor([0, 1, 77, -3]), torch.full((4,), 255))
    assert confusion.matrix().sum() == 0


@pytest.mark.parametrize(
    ("matrix", "each", "mean", "accuracy"),
    [
        ([[3, 1], [2, 4]], [3 / 6, 4 / 7], (3 / 6 + 4 / 7) / 2, 7 / 10),
        ([[5, 0, 0], [0, 0, 0], [0, 0, 5]], [1.0, None, 1.0], 1.0, 1.0),  # absent everywhere
        ([[4, 1, 0], [0, 5, 0], [0, 0, 0]], [4 / 5, 5 / 6, None], (4 / 5 + 5 / 6) / 2, 0.9),
        ([[4, 0], [0, 0]], [1.0, None], 1.0, 1.0),
        ([[0, 4], [0, 0]], [0.0, 0.0], 0.0, 0.0),  # predicted but never true: counts as 0
        ([[0, 0], [0, 0]], [None, None], None, None),
    ],
)
def test_golden_scores(
    matrix: list[list[int]],
    each: list[float | None],
    mean: float | None,
    accuracy: float | None,
) -> None:
    for given_as in (matrix, torch.tensor(matrix)):
        assert iou(given_as) == each
        assert mean_iou(given_as) == mean
        assert pixel_accuracy(given_as) == accuracy


def test_torchmetrics_agrees() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    torch.manual_seed(0)
    label, found = torch.randint(0, 6, (2, 5000)).unbind()
    label[torch.rand(5000) < 0.1] = 255
    confusion = ConfusionMatrix(6, 255, "cpu")
    confusion.update(found, label)
    matrix = classification.MulticlassConfusionMatrix(6, ignore_index=255)
    assert torch.equal(confusion.matrix(), matrix(found, label))
    jaccard = classification.MulticlassJaccardIndex(6, average="none", ignore_index=255)
    assert jaccard(found, label).tolist() == pytest.approx(iou(confusion.matrix()), abs=1e-6)


@pytest.mark.gpu
def test_a_gpu_counts_the_same() -> None:
    torch.manual_seed(0)
    label, found = torch.randint(0, 21, (2, 513, 513)).unbind()
    label[:, :40] = 255
    counted = []
    for device in ("cpu", "cuda"):
        confusion = ConfusionMatrix(21, 255, device)
        confusion.update(found.to(device), label.to(device))
        counted.append(confusion.matrix().cpu())
    assert torch.equal(*counted)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_another_shape_is_refused(kind: torch.dtype) -> None:
    matrix = ConfusionMatrix(3, 255, "cpu")
    with pytest.raises(ValueError, match=r"\[8\] and \[4\]"):
        matrix.update(torch.zeros(8, dtype=kind), torch.zeros(4, dtype=kind))
