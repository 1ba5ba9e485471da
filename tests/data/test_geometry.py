import mmap
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.data.geometry import Window, fits, resample_image, resample_label, scaled_size
from segkit.data.transforms import TrainTransform

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


@pytest.mark.parametrize("scaled", [(76, 100), (120, 160), (196, 262), (302, 402)])
def test_it_is_resize_then_crop_of_opencv(scaled: tuple[int, int]) -> None:
    """A smooth picture, for cv2 rounds the place of a sample; from odd to even sides no sample
    point lies between two labels, where cv2 takes one now and then the other."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    rgb = cv2.resize(coarse, (201, 151), interpolation=cv2.INTER_CUBIC)
    label = rng.integers(0, 20, (151, 201), dtype=np.uint8)
    rows, cols = scaled
    whole = cv2.resize(rgb, (cols, rows), interpolation=cv2.INTER_LINEAR).astype(int)
    whole_label = cv2.resize(label, (cols, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    for top, left in ((0, 0), (7, 11), (rows - 40, cols - 50)):
        window = Window(scaled, top, left, 40, 50)
        part = np.s_[top : top + 40, left : left + 50]
        assert np.abs(resample_image(rgb, window) - whole[part]).max() <= 2
        assert np.array_equal(resample_label(label, window), whole_label[part])


def test_a_crop_of_a_mapped_file_touches_only_its_rows(tmp_path: Path) -> None:
    """48 MB of pixels and 16 MB of labels, of which a crop at scale 1 needs one part in 60."""
    path = tmp_path / "pixels"
    with path.open("wb", buffering=0) as file:
        # A page at a time: of what is written at once the system may keep, and map, 2 MB together.
        for _ in range(4000 * 4000 * 4 // 4000):
            file.write(bytes(4000))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        rgb = np.ndarray((4000, 4000, 3), np.uint8, buffer=mapped)
        label = np.ndarray((4000, 4000), np.uint8, buffer=mapped, offset=48_000_000)
        for scale in (1.0, 1.9):
            transform = TrainTransform(65, scale_min=scale, scale_max=scale)
            transform(rgb, label, 0)
        assert resident(path) < 4e6
        del rgb, label


def resident(path: Path) -> int:
    """Bytes of the file that this process has in its memory."""
    text = Path("/proc/self/smaps").read_text()
    entry = text[text.index(str(path)) :]
    return int(entry[entry.index("Rss:") + 4 :].split()[0]) * 1024
