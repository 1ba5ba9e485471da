"""Boundary IoU and F against shapes with a closed form, and against slow oracles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import VOID, blocks, counted

from segkit.metrics.boundary import Boundary, boundary_f, boundary_iou

SHAPE = (300, 400)  # the diagonal is 500: d = 10, tolerance 3.75
D, NEAR = 10, 3


def square(x: int, side: int = 80, y: int = 100, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    found = np.zeros(shape, np.uint8)
    found[y : y + side, x : x + side] = 1
    return found


def scores(truth: np.ndarray, found: np.ndarray, classes: int = 2) -> tuple[list, list]:
    counts = counted(Boundary(classes, VOID), truth, found)
    return boundary_iou(counts), boundary_f(counts)


@pytest.mark.parametrize("shift", [0, 1, 3, 10])
def test_the_strips_of_shifted_squares(shift: int) -> None:
    """Four rectangles: the square and its inside, each met with the other's."""
    side, inner = 80, 80 - 2 * D
    strip = side**2 - inner**2
    both = side * (side - shift) - 2 * inner**2 + inner * (inner - shift)
    iou, _ = scores(square(150), square(150 + shift))
    assert iou[1] == both / (2 * strip - both)


@pytest.mark.parametrize("shift", [0, 1, 3, 4, 9, 30])
def test_the_contours_of_shifted_squares(shift: int) -> None:
    side = 80
    matched = 4 * (side - 1)
    if shift > NEAR:  # one side is out of reach, the other but for its ends
        matched = 2 * (side - shift + NEAR) + 2 * NEAR
    _, f = scores(square(150), square(150 + shift))
    assert f[1] == pytest.approx(matched / (4 * (side - 1)), abs=1e-12)


def test_the_border_of_the_image_is_a_contour_of_the_strip_alone() -> None:
    """As in the original, whose masks are padded; a frame drawn by nobody is no F."""
    plain = np.zeros(SHAPE, np.uint8)
    frame = 300 * 400 - 280 * 380
    counts = counted(Boundary(2, VOID), plain, plain)
    assert counts[0, :2].tolist() == [frame, frame]
    assert boundary_f(counts) == [1.0, None]
    corner = counted(Boundary(2, VOID), square(0, 80, 0), square(0, 80, 0))
    assert corner[1, :2].tolist() == [80**2 - 60**2] * 2


def test_concentric_discs() -> None:
    """Ring strips; contours two pixels apart match all around, and five apart nowhere."""
    y, x = np.mgrid[:300, :400]
    far = (y - 150) ** 2 + (x - 200) ** 2
    outer, near, middle, inner = ((far <= r**2).astype(np.uint8) for r in (90, 88, 85, 60))
    iou, f = scores(outer, middle)
    assert iou[1] == slow_iou(outer == 1, middle == 1, D)
    assert 0.25 < iou[1] < 0.6
    assert f == [0, 0]
    assert scores(outer, near)[1] == [1, 1]
    assert scores(outer, inner)[0][1] == 0  # strips of ten pixels, thirty apart


def test_equal_absent_and_alone() -> None:
    """E5: absent from both is no number; in one alone it is 0, even where it has no contour."""
    assert scores(square(150), square(150), 3) == ([1, 1, None], [1, 1, None])
    none, one = np.zeros((2, *SHAPE), np.uint8)
    one[:] = 1
    assert scores(none, one, 3) == ([0, 0, None], [0, 0, None])
    iou, f = scores(square(150), none)
    assert (iou[1], f[1]) == (0, 0)
    assert f[0] == 0  # there is a contour in the truth and none in the prediction


@pytest.mark.parametrize(("x", "iou", "f"), [(20, 1, 1), (21, 0, 1), (22, 0, 0)])
def test_one_pixel(x: int, iou: float, f: float) -> None:
    """A small image: d and the tolerance are at least a pixel."""
    found = scores(square(20, 1, 10, (30, 40)), square(x, 1, 10, (30, 40)))
    assert (found[0][1], found[1][1]) == (iou, f)


def test_void_is_cut_out_of_both_masks() -> None:
    """E9: nothing depends on what is predicted in void; its outline is that of both masks."""
    truth = square(150)
    truth[100:180, 200:260] = VOID
    found = square(150, 110)
    other = np.where(truth == VOID, 1 - found, found)
    one, two = (counted(Boundary(2, VOID), truth, f) for f in (found, other))
    assert torch.equal(one, two)
    cut = truth == 1, (found == 1) & (truth != VOID)
    assert boundary_iou(one)[1] == slow_iou(*cut, D)


def test_images_add_up_and_f_is_their_mean() -> None:
    """Strips are summed over the set; F is the mean over the images that have the class."""
    counter = Boundary(3, VOID)
    for truth, found in ((square(150), square(150)), (square(150), np.zeros(SHAPE, np.uint8))):
        counts = counted(counter, truth, found)
    strip = 80**2 - 60**2
    assert boundary_iou(counts)[1] == strip / (2 * strip)
    assert boundary_f(counts)[1:] == [0.5, None]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    side=st.sampled_from([1, 2, 5]),
    width=st.sampled_from([0.02, 0.1, 0.4]),
    tolerance=st.sampled_from([0.01, 0.06, 0.1]),
)
def test_the_slow_oracles_agree(seed: int, side: int, width: float, tolerance: float) -> None:
    shape = (18, 25)
    truth = blocks(shape, [0, 1, 2, VOID], seed, side)
    found = blocks(shape, [0, 1, 3], seed + 1, side)
    counts = counted(Boundary(5, VOID, width, tolerance), truth, found)
    diagonal = math.hypot(*shape)
    for c, (iou, f) in enumerate(zip(boundary_iou(counts), boundary_f(counts), strict=True)):
        masks = truth == c, (found == c) & (truth != VOID)
        assert iou == slow_iou(*masks, max(1, round(width * diagonal)))
        expected = slow_f(*masks, max(1.0, tolerance * diagonal))
        assert f == (expected if expected is None else pytest.approx(expected, abs=1e-11))


def slow_strip(mask: np.ndarray, d: int) -> np.ndarray:
    """The mask without what d erosions by a 3×3 square leave of it, outside being no mask."""
    inside = np.pad(mask, 1)
    for _ in range(d):
        shifted = (np.roll(inside, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
        inside = np.pad(np.logical_and.reduce(list(shifted))[1:-1, 1:-1], 1)
    return mask & ~inside[1:-1, 1:-1]


def slow_iou(truth: np.ndarray, found: np.ndarray, d: int) -> float | None:
    t, f = slow_strip(truth, d), slow_strip(found, d)
    return float((t & f).sum() / (t | f).sum()) if (t | f).any() else None


def slow_contour(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~around)


def slow_f(truth: np.ndarray, found: np.ndarray, tolerance: float) -> float | None:
    if not truth.any() and not found.any():
        return None
    t, f = slow_contour(truth), slow_contour(found)
    if not len(t) or not len(f):
        return float(np.array_equal(truth, found))
    far = np.sqrt(((t[:, None] - f[None]) ** 2).sum(2))
    recall = (far.min(1) <= tolerance + 1e-9).mean()
    precision = (far.min(0) <= tolerance + 1e-9).mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0
