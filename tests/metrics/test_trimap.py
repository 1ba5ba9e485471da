"""The band curve against shapes whose bands can be counted by hand, and against a slow oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import VOID, blocks, counted

from segkit.metrics.trimap import WIDTHS, Trimap, around, curve

HEIGHT = 9


def lattice(radius: int) -> int:
    """Whole points no further than ``radius`` from the origin, without it (Gauss's circle)."""
    return sum(2 * math.isqrt(radius**2 - y**2) + 1 for y in range(-radius, radius + 1)) - 1


def test_a_half_plane_lined_with_void() -> None:
    """Void in columns 50..55, class 0 left and 1 right; four columns of class 1 are missed."""
    truth = np.zeros((HEIGHT, 120), np.uint8)
    truth[:, 50:56], truth[:, 56:] = VOID, 1
    found = (np.arange(120)[None] >= 60).astype(np.uint8).repeat(HEIGHT, 0)
    counts = counted(Trimap(2, VOID), truth, found)
    assert around(counts) == "void"
    miou, accuracy = curve(counts, "void")
    for w, mean, right in zip(WIDTHS, miou, accuracy, strict=True):
        wrong = min(w, 4)
        assert mean == (w / (w + wrong) + (w - wrong) / w) / 2
        assert right == (2 * w - wrong) / (2 * w)


def test_a_disc_around_one_void_pixel() -> None:
    """A band of width w holds the whole points within w; those within 12 are wrong."""
    truth = np.zeros((101, 111), np.uint8)
    truth[50, 55] = VOID
    y, x = np.mgrid[:101, :111]
    found = ((y - 50) ** 2 + (x - 55) ** 2 <= 144).astype(np.uint8)
    miou, accuracy = curve(counted(Trimap(2, VOID), truth, found), "void")
    for w, mean, right in zip(WIDTHS, miou, accuracy, strict=True):
        share = 1 - lattice(min(w, 12)) / lattice(w)
        assert right == pytest.approx(share, abs=1e-15)
        assert mean == pytest.approx(share / 2, abs=1e-15)  # class 1 is never true: IoU 0


def test_a_stripe_without_void() -> None:
    """A stripe of class 1 in columns 60..159 is found three columns too far to the right."""
    truth, found = np.zeros((2, HEIGHT, 230), np.uint8)
    truth[:, 60:160], found[:, 63:163] = 1, 1
    counts = counted(Trimap(2, VOID), truth, found)
    assert around(counts) == "borders"
    miou, accuracy = curve(counts, "borders")
    for w, mean, right in zip(WIDTHS, miou, accuracy, strict=True):
        wrong = min(w, 3)  # columns, of 2w in the stripe and 2w beside it, at either edge
        iou = (2 * w - wrong) / (2 * w + wrong)
        assert mean == pytest.approx(iou, abs=1e-15)
        assert right == (4 * w - 2 * wrong) / (4 * w)


def test_a_border_into_void_is_no_border_of_classes() -> None:
    """The band around borders starts at the pixels that touch another class, and only there."""
    truth = np.array([[0, 0, VOID, 1, 1, 2]], np.uint8)
    counts = counted(Trimap(3, VOID), truth, truth)
    assert counts[1, 0, 1].tolist() == [0, 1, 1]  # the last 1 and the 2
    assert counts[0, 0, 1].tolist() == [1, 1, 0]  # the neighbours of void


def test_void_is_in_no_band_whatever_was_predicted() -> None:
    """E9."""
    truth = blocks((40, 40), [0, 1, VOID], 3)
    found = blocks((40, 40), [0, 1], 4)
    other = np.where(truth == VOID, 1 - found, found)
    one, two = (counted(Trimap(2, VOID), truth, f) for f in (found, other))
    assert torch.equal(one, two)
    assert one[:, :, 1].sum((1, 2)).max() <= (truth != VOID).sum()


def test_without_a_border_there_is_no_number() -> None:
    plain = np.zeros((20, 20), np.uint8)
    counts = counted(Trimap(2, VOID), plain, plain)
    assert not counts.any()
    assert curve(counts, around(counts)) == ([None] * 40, [None] * 40)
    assert not counted(Trimap(2, VOID), np.full_like(plain, VOID), plain).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), side=st.sampled_from([1, 3, 7]))
def test_every_pixel_is_in_the_band_of_its_distance(seed: int, side: int) -> None:
    truth = blocks((21, 34), [0, 1, 2, VOID], seed, side)
    found = blocks((21, 34), [0, 1, 2], seed + 1, 4)
    counts = counted(Trimap(3, VOID), truth, found)
    expected = np.zeros((2, 40, 3, 3), np.int64)
    for kind, source in enumerate((truth == VOID, touching(truth))):
        points = np.argwhere(source)
        for (y, x), label in np.ndenumerate(truth):
            if label == VOID or not len(points):
                continue
            squared = int(((points - (y, x)) ** 2).sum(1).min())
            width = kind + math.isqrt(squared - 1) + 1 if squared else kind  # rounded up
            if 1 <= width <= 40:
                expected[kind, width - 1, 1, label] += 1
                expected[kind, width - 1, 2, found[y, x]] += 1
                expected[kind, width - 1, 0, label] += label == found[y, x]
    assert np.array_equal(counts.numpy(), expected)


def touching(truth: np.ndarray) -> np.ndarray:
    """Pixels of a class with one of another class beside them, one at a time."""
    border = np.zeros(truth.shape, bool)
    for (y, x), label in np.ndenumerate(truth):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < truth.shape[0] and 0 <= u < truth.shape[1]
            if inside and VOID not in (label, truth[v, u]) and truth[v, u] != label:
                border[y, x] = True
    return border
