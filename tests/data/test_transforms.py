import subprocess
import sys

import numpy as np
import pytest
import torch

from segkit.data.normalise import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    denormalise,
    mean_pixel,
    normalise,
)
from segkit.data.transforms import TrainTransform
from segkit.errors import ConfigError
from segkit.models.pixels import CAFFE_PIXELS, IMAGENET_PIXELS, SYMMETRIC_PIXELS, Pixels

PLAIN = {"scale_min": 1.0, "scale_max": 1.0, "flip": 0.0}


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red says the column and green the row, and a label that says the same:
    column // 4 + 64 · (row // 4 odd)."""
    y, x = np.mgrid[:height, :width]
    rgb = np.dstack([x, y, np.full_like(x, 77)]).astype(np.uint8)
    return rgb, (x // 4 + 64 * (y // 4 % 2)).astype(np.uint8)


FILL = mean_pixel(IMAGENET_MEAN)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_image_and_label_stay_aligned(seed: int, flip: float) -> None:
    rgb, label = coordinates(180, 240)
    image, crop = TrainTransform(97, flip=flip)(rgb, label, seed)
    valid = crop != 255
    assert (image[~valid] == FILL).all()
    column, row, blue = np.moveaxis(image[valid].astype(float), -1, 0)
    assert np.allclose(blue, 77, atol=0.6)
    # A sample point in the pixel of column c has interpolated red within c ± 1/2; cv2 adds 1/32
    # pixel and the rounding to bytes another 1/2.
    low = (crop[valid] % 64) * 4
    assert (column >= low - 0.5 - 0.6).all()
    assert (column <= low + 3.5 + 0.6).all()
    odd = ((row + 0.5) // 4 % 2).astype(int)
    inside = np.abs((row + 0.5) % 4 - 2) < 2 - 0.7  # away from the border between two bands
    assert (odd == crop[valid] // 64)[inside].all()
    # Left to right the red grows, unless flipped.
    middle = image[48, :, 0][valid[48]].astype(int)
    assert np.sign(middle[-1] - middle[0]) == (-1 if flip else 1)


def test_without_randomness_it_is_a_crop() -> None:
    rgb, label = coordinates(33, 33)
    image, crop = TrainTransform(33, **PLAIN)(rgb, label, 5)
    assert image.dtype == np.uint8
    assert np.array_equal(image, rgb)
    assert np.array_equal(crop, label)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (2, 2), (20, 64), (65, 64), (200, 30)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_padding_is_the_mean_pixel_and_void(shape: tuple[int, int], flip: float) -> None:
    rgb = np.full((*shape, 3), 255, np.uint8)
    label = np.full(shape, 3, np.uint8)
    image, crop = TrainTransform(65, scale_min=1, scale_max=1, flip=flip)(rgb, label, 0)
    if flip:
        image, crop = image[:, ::-1], crop[:, ::-1]
    height, width = min(shape[0], 65), min(shape[1], 65)
    assert image.shape == (65, 65, 3)
    assert (crop[:height, :width] == 3).all()
    assert (image[:height, :width] == 255).all()
    assert (crop[height:] == 255).all()
    assert (crop[:, width:] == 255).all()
    assert (image[height:] == FILL).all()
    assert (image[:, width:] == FILL).all()


def test_no_label_is_invented() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    label = rng.choice(np.array([0, 7, 299, 65535], np.uint16), (70, 90))
    transform = TrainTransform(65, ignore_label=65535)
    for seed in range(20):
        crop = transform(rgb, label, seed)[1]
        assert crop.dtype == np.uint16
        assert set(np.unique(crop)) <= {0, 7, 299, 65535}


def test_draws_follow_from_the_seed_alone() -> None:
    rgb, label = coordinates(120, 160)
    one, two = TrainTransform(65), TrainTransform(65)
    first = [one(rgb, label, seed) for seed in range(8)]
    again = [two(rgb, label, seed) for seed in reversed(range(8))][::-1]
    for (image, crop), (image2, crop2) in zip(first, again, strict=True):
        assert np.array_equal(image, image2)
        assert np.array_equal(crop, crop2)
    assert len({image.tobytes() for image, _ in first}) == 8


def drawn(transform: TrainTransform, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale (exact to the truncation) and flip of ``count`` draws, read off a wide ramp."""
    rgb = np.zeros((10, 200, 3), np.uint8)
    rgb[..., 0] = np.arange(200)
    label = np.zeros((10, 200), np.uint8)
    widths, flips = [], []
    for seed in range(count):
        image, crop = transform(rgb, label, seed)
        widths.append((crop[0] != 255).sum())
        flips.append(bool(crop[0, 0] == 255 or image[0, 0, 0] > image[0, -1, 0]))
    return np.array(widths) / 200, np.array(flips)


def test_scales_and_flips_are_uniform_and_independent() -> None:
    scales, flips = drawn(TrainTransform((5, 401)), 600)
    counts, _ = np.histogram(scales, bins=6, range=(0.5, 2.0))
    assert scales.min() >= 0.495
    assert scales.max() <= 2.0
    assert ((counts - 100) ** 2 / 100).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001
    assert abs(flips.mean() - 0.5) < 0.07
    assert abs(np.corrcoef(scales, flips)[0, 1]) < 0.14


def test_the_original_grid_has_seven_scales() -> None:
    scales, _ = drawn(TrainTransform((5, 401), scale_step=0.25), 150)
    assert np.unique(scales).tolist() == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]


def test_crops_reach_every_corner() -> None:
    rgb, label = coordinates(40, 50)
    transform = TrainTransform(33, **PLAIN)
    corners = [transform(rgb, label, seed)[0][0, 0] for seed in range(1200)]
    seen = {tuple(map(int, corner[:2])) for corner in corners}
    assert seen == {(x, y) for x in range(18) for y in range(8)}


def test_crops_of_two_sides() -> None:
    transform = TrainTransform([33, 65])
    assert transform.size == (33, 65)
    image, crop = transform(*coordinates(100, 100), 0)
    assert (image.shape, crop.shape) == ((33, 65, 3), (33, 65))


def test_extra_transforms_run_and_are_seeded() -> None:
    extra = ["GaussNoise", {"ColorJitter": {"brightness": 0.4, "p": 1.0}}, {"Rotate": {"limit": 9}}]
    rgb, label = coordinates(90, 90)
    transform = TrainTransform(65, extra=extra)
    image, _ = transform(rgb, label, 3)
    assert np.array_equal(image, transform(rgb, label, 3)[0])
    assert not np.array_equal(image, TrainTransform(65)(rgb, label, 3)[0])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["GausNoise"], ["augment.extra.0", "GaussNoise"]),
        (["GaussNoise", {"os.system": {"command": "true"}}], ["augment.extra.1", "os.system"]),
        (["Compose"], ["Compose"]),
        (["DualTransform"], ["DualTransform"]),
        ([{"GaussNoise": {"nosuch": 1}}], ["GaussNoise", "nosuch"]),
        ([{"GaussNoise": {"p": 7}}], ["GaussNoise", "p"]),
        ([{"GaussNoise": {}, "Blur": {}}], ["augment.extra.0"]),
        ([3], ["augment.extra.0"]),
    ],
)
def test_bad_extras_are_named(extra: list, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainTransform(65, extra=extra)
    assert all(word in caught.value.line() for word in words)


def test_an_extra_may_not_outgrow_the_crop() -> None:
    transform = TrainTransform(33, extra=[{"Resize": {"height": 90, "width": 90}}])
    with pytest.raises(ConfigError, match=r"augment\.extra"):
        transform(*coordinates(60, 60), 0)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"crop": 0}, "crop"),
        ({"crop": -3}, "crop"),
        ({"crop": [33]}, "crop"),
        ({"crop": [33, 0]}, "crop"),
        ({"crop": 33, "scale_min": 0.0}, "scale_min"),
        ({"crop": 33, "scale_min": 2.5}, "scale_max"),
        ({"crop": 33, "scale_min": float("nan")}, "scale_min"),
        ({"crop": 33, "scale_max": float("inf")}, "scale_max"),
        ({"crop": 33, "scale_step": -0.25}, "scale_step"),
        ({"crop": 33, "flip": 1.5}, "flip"),
        ({"crop": 33, "flip": float("nan")}, "flip"),
        ({"crop": 33, "one_class_max": 0.0}, "one_class_max"),
        ({"crop": 33, "one_class_max": 1.01}, "one_class_max"),
    ],
)
def test_values_out_of_range_name_their_key(arguments: dict, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.{key}"):
        TrainTransform(**arguments)


def test_normalising_goes_there_and_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = normalise(rgb, IMAGENET_MEAN, IMAGENET_STD)
    assert np.allclose(image, (rgb / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD))
    back = denormalise(image.transpose(2, 0, 1), IMAGENET_MEAN, IMAGENET_STD)
    assert np.array_equal(back, rgb)


@pytest.mark.parametrize("statistics", [IMAGENET_PIXELS, SYMMETRIC_PIXELS, CAFFE_PIXELS], ids=str)
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu), "meta"], ids=str
)
def test_normalising_on_the_device_gives_the_same_bits(statistics: Pixels, device: str) -> None:
    values = np.arange(256, dtype=np.uint8)
    rgb = np.dstack([values, values[::-1], np.roll(values, 7)]).reshape(16, 16, 3)
    expected = normalise(rgb, statistics.mean, statistics.std)
    bytes_ = torch.from_numpy(np.stack([rgb, rgb[::-1].copy()])).permute(0, 3, 1, 2)
    made = Normalise(statistics.mean, statistics.std)(bytes_.to(device))
    assert (made.shape, made.dtype) == ((2, 3, 16, 16), torch.float32)
    assert made.is_contiguous(memory_format=torch.channels_last)
    if device != "meta":
        assert np.array_equal(made[0].cpu().permute(1, 2, 0).numpy(), expected)
        assert np.array_equal(made[1].cpu().permute(1, 2, 0).numpy(), expected[::-1])


def test_the_table_that_a_gpu_reads_gives_the_same_bits() -> None:
    """What the device does, done here: cv2 cannot."""
    made = Normalise(IMAGENET_MEAN, IMAGENET_STD)
    rgb = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    places = (torch.from_numpy(rgb).int() + made._offset).flatten()
    looked_up = made._table.index_select(0, places).view(5, 7, 3).numpy()
    assert np.array_equal(looked_up, normalise(rgb, IMAGENET_MEAN, IMAGENET_STD))


@pytest.mark.parametrize("statistics", [IMAGENET_PIXELS, SYMMETRIC_PIXELS, CAFFE_PIXELS], ids=str)
def test_padding_is_nearly_0_once_normalised(statistics: Pixels) -> None:
    fill = np.array([[mean_pixel(statistics.mean)]], np.uint8)
    off = np.abs(normalise(fill, statistics.mean, statistics.std))
    assert (off <= 0.5001 / 255 / np.array(statistics.std)).all()
    assert statistics == CAFFE_PIXELS or off.max() <= 0.009


def test_a_crop_of_one_class_is_drawn_again() -> None:
    """A picture whose right half is another class: few crops of it show both."""
    label = np.zeros((40, 400), np.uint8)
    label[:, 200:] = 1
    label[::2] = 255  # does not count
    rgb = np.zeros((40, 400, 3), np.uint8)

    def shares(one_class_max: float | None) -> list[float]:
        transform = TrainTransform((40, 80), **PLAIN, one_class_max=one_class_max)
        crops = [transform(rgb, label, seed)[1] for seed in range(60)]
        counts = [np.bincount(crop[crop != 255], minlength=2) for crop in crops]
        return [count.max() / count.sum() for count in counts]

    free, capped = np.array(shares(None)), np.array(shares(0.75))
    mixed = free <= 0.75
    assert (free[mixed] == capped[mixed]).all(), "the first draw was good enough"
    assert mixed.mean() < 0.3
    assert (capped <= 0.75).mean() > 0.6  # 1 - 0.88 ** 10 = 0.72; the tenth is taken as it is
    assert shares(0.75) == capped.tolist(), "a function of the seed"


def test_albumentations_is_imported_for_extras_only() -> None:
    code = (
        "import sys; from segkit.data.transforms import TrainTransform as T; T(33); "
        "assert 'albumentations' not in sys.modules; T(33, extra=['Blur']); "
        "assert 'albumentations' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
