import numpy as np
import pytest

from segkit.data.geometry import Window, fits, resample_image, resample_label, scaled_size

CASES = [
    # source, scaled, top, left, height, width
    ((40, 60), (40, 60), 3, 5, 20, 30),
    ((40, 60), (80, 120), 0, 0, 33, 33),
    ((40, 60), (80, 120), 47, 87, 33, 33),
    ((40, 60), (20, 30), 0, 0, 20, 30),
    ((40, 60), (51, 77), 18, 44, 33, 33),
    ((41, 59), (27, 40), 3, 7, 21, 21),
    ((1, 1), (2, 2), 0, 0, 2, 2),
    ((1, 50), (1, 37), 0, 5, 1, 30),
]


def bilinear(image: np.ndarray, scaled: tuple[int, int]) -> np.ndarray:
    """The whole image resized in double precision, pixel centres at half-integers."""

    def weights(size: int, target: int) -> np.ndarray:
        place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.minimum(np.floor(place).astype(int), max(size - 2, 0))
        matrix = np.zeros((target, size))
        matrix[np.arange(target), low] = 1 - (place - low)
        matrix[np.arange(target), np.minimum(low + 1, size - 1)] += place - low
        return matrix

    rows, cols = weights(image.shape[0], scaled[0]), weights(image.shape[1], scaled[1])
    return np.einsum("ah,hwc,bw->abc", rows, image.astype(float), cols)


@pytest.mark.parametrize(("source", "scaled", "top", "left", "height", "width"), CASES)
def test_a_window_is_a_slice_of_the_resized_image(source, scaled, top, left, height, width) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    crop = resample_image(rgb, Window(scaled, top, left, height, width))
    expected = bilinear(rgb, scaled)[top : top + height, left : left + width]
    assert crop.dtype == np.uint8
    assert crop.shape == (height, width, 3)
    # cv2 rounds the place of a sample to 1/32 pixel: white noise may move by 256/32.
    assert np.abs(crop - expected).max() <= 9
    assert np.abs(crop - expected).mean() <= 2


@pytest.mark.parametrize(("source", "scaled", "top", "left", "height", "width"), CASES)
def test_labels_follow_the_pixel_under_the_sample_point(
    source, scaled, top, left, height, width
) -> None:
    label = np.arange(source[0] * source[1], dtype=np.uint16).reshape(source)
    crop = resample_label(label, Window(scaled, top, left, height, width))
    for i in range(height):
        for j in range(width):
            y = int((top + i + 0.5) * source[0] / scaled[0])
            x = int((left + j + 0.5) * source[1] / scaled[1])
            assert crop[i, j] == label[y, x]


def test_a_golden_label_array() -> None:
    label = np.array([[1, 2, 3, 4]], np.uint8)
    assert resample_label(label, Window((1, 8), 0, 0, 1, 8)).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]]
    assert resample_label(label, Window((1, 2), 0, 0, 1, 2)).tolist() == [[2, 4]]
    assert resample_label(label, Window((1, 6), 0, 1, 1, 4)).tolist() == [[2, 2, 3, 4]]


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((375, 500), 0.5, (187, 250)), ((375, 500), 1.75, (656, 875)), ((3, 1), 0.5, (1, 1))],
)
def test_scaled_sizes_are_truncated(size, scale, expected) -> None:
    assert scaled_size(*size, scale) == expected


def test_which_crops_fit() -> None:
    sides = (257, 321, 512, 513, 514, 769)
    assert [side for side in sides if fits(side, 16)] == [257, 321, 513, 769]
    assert fits(1, 32)
