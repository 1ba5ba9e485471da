"""Counts of every image by itself."""

import json

import numpy as np
import torch
from maps import VOID, Sample, blocks

from segkit.metrics.confusion import ConfusionMatrix, iou, mean_iou
from segkit.metrics.per_image import PerImage, image_miou, images_document


def test_they_add_up_to_the_data_sets_matrix() -> None:
    """Void counts nowhere, whatever was predicted there (E9)."""
    counter, confusion = PerImage(6, 4, VOID), ConfusionMatrix(4, VOID, "cpu")
    for index in range(5):
        truth = blocks((23, 31 + index), [0, 1, 2, VOID], index)
        found = torch.from_numpy(blocks(truth.shape, [0, 1, 3], index + 50))
        counter.update(Sample(truth, index), found)
        confusion.update(found, torch.from_numpy(truth))
    matrix, (right, wrong, missed) = confusion.matrix(), counter.counts().sum(0).T
    assert torch.equal(right, matrix.diagonal())
    assert torch.equal(right + missed, matrix.sum(1))
    assert torch.equal(right + wrong, matrix.sum(0))
    assert not counter.counts()[5].any()  # not seen


def test_the_mean_over_images_is_another_number() -> None:
    """E12: one image with a thousand pixels, one with ten; the data set's IoU is that of all."""
    counter, confusion = PerImage(2, 2, VOID), ConfusionMatrix(2, VOID, "cpu")
    large, small = np.zeros((10, 100), np.uint8), np.array([[0] * 5 + [1] * 5], np.uint8)
    for index, (truth, found) in enumerate([(large, large), (small, np.zeros_like(small))]):
        counter.update(Sample(truth, index), torch.from_numpy(found))
        confusion.update(torch.from_numpy(found), torch.from_numpy(truth))
    first, second = map(image_miou, counter.counts())
    assert (first, second) == (1.0, (5 / 10 + 0) / 2)
    assert mean_iou(confusion.matrix()) == (1005 / 1010 + 0) / 2 != (first + second) / 2


def test_an_image_without_a_counted_pixel_has_no_number() -> None:
    counter = PerImage(1, 2, VOID)
    counter.update(Sample(np.full((3, 3), VOID, np.uint8)), torch.ones(3, 3, dtype=torch.int64))
    assert image_miou(counter.counts()[0]) is None


def test_the_document_is_what_readers_expect() -> None:
    counter = PerImage(2, 3, VOID)
    truth, found = np.array([[0, 0, 1, VOID]], np.uint8), torch.tensor([[0, 2, 1, 1]])
    counter.update(Sample(truth, 1), found)
    document = images_document(counter.counts(), ["a/<b>", "c"], ("x", "y", "z"))
    nothing = {"id": "a/<b>", "miou": None, "tp": [0, 0, 0], "fp": [0, 0, 0], "fn": [0, 0, 0]}
    seen = {"id": "c", "miou": 0.5, "tp": [1, 1, 0], "fp": [0, 0, 1], "fn": [1, 0, 0]}
    assert document == {"classes": ["x", "y", "z"], "images": [nothing, seen]}
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert iou([[1, 0, 1], [0, 1, 0], [0, 0, 0]]) == [0.5, 1.0, 0.0]


def test_more_than_255_classes_and_many_pixels() -> None:
    """uint16 truths, and more pixels than a float32 counts (E11)."""
    counter = PerImage(1, 300, 65535)
    truth = np.full((4, 4), 299, np.uint16)
    truth[0] = 65535
    counter.update(Sample(truth), torch.full((4, 4), 299))
    assert counter.counts()[0, 299].tolist() == [12, 0, 0]
    large = np.ones((4201, 4201), np.uint8)  # odd: no float32 is this number
    counter = PerImage(1, 2, VOID)
    counter.update(Sample(large), torch.ones(4201, 4201, dtype=torch.uint8))
    assert counter.counts()[0].tolist() == [[0, 0, 0], [4201 * 4201, 0, 0]]
