"""Which images the report shows, and their small pictures."""

import io
import math
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.report.gallery import HIGHEST, WIDEST, Spool, choose, exhibit, shrunk, small_size
from segkit.report.pictures import RIGHT, WRONG

COLOURS = [(10 * n % 256, 255 - n % 256, n % 256) for n in range(300)]


# -- which -----------------------------------------------------------------------------------------


def test_worst_median_and_best():
    miou = [((7 * n) % 101) / 101 for n in range(101)]  # every value once, mixed
    found = choose(miou)
    rank = sorted(range(101), key=lambda n: miou[n])
    assert found == {"Worst": rank[:4], "Median": rank[48:52], "Best": rank[-4:]}


@pytest.mark.parametrize("count", range(13))
def test_few_images_are_all_shown_once(count):
    (group,) = choose([0.5] * count).values() or [[]]
    assert group == list(range(count)), "of equal ones the lower index comes first"


@pytest.mark.parametrize("count", range(13, 30))
def test_no_image_is_shown_twice(count):
    shown = [index for group in choose([1.0 - n for n in range(count)]).values() for index in group]
    assert len(shown) == len(set(shown)) == 12


def test_images_without_a_labelled_pixel_are_none_of_them():
    assert choose([math.nan, 0.5, math.nan, 0.1]) == {"All images, worst first": [3, 1]}
    assert choose([math.nan] * 20) == {}
    assert choose([]) == {}


# -- small ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((1024, 2048), (240, 480)),
        ((375, 500), (360, 480)),
        ((100, 80), (100, 80)),
        ((1, 1), (1, 1)),
        ((4000, 10), (720, 2)),
        ((4000, 1), (720, 1)),
        ((1, 4000), (1, 480)),
    ],
)
def test_small_sizes(size, small):
    assert small_size(*size) == small
    assert shrunk(torch.zeros(size)).shape == small
    assert small[0] <= HIGHEST
    assert small[1] <= WIDEST


def test_shrinking_takes_labels_from_the_middle_of_their_parts():
    labels = torch.arange(960 * 2).view(2, 960)
    assert shrunk(labels).tolist() == [list(range(961, 1920, 2))]
    small = torch.arange(12).view(3, 4)
    assert torch.equal(shrunk(small), small)


# -- kept ------------------------------------------------------------------------------------------


def unpacked(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("largest", [5, 255, 256, 40_000])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_a_spool_gives_back_what_it_got(largest, kind):
    maps = [torch.randint(0, min(largest, torch.iinfo(kind).max) + 1, (5, 7)) for _ in range(20)]
    with Spool() as spool:
        for index in reversed(range(20)):
            spool.keep(index, maps[index].to(kind))
        for index in (3, 19, 0, 3):
            assert np.array_equal(unpacked(spool.taken(index)), maps[index].numpy())
        assert spool.taken(20) == b""


def test_a_spool_has_an_end():
    noise = torch.randint(0, 200, (100, 100), dtype=torch.uint8)
    with Spool(room=25_000) as spool:
        for index in range(5):
            spool.keep(index, noise)
        assert [bool(spool.taken(index)) for index in range(5)] == [True, True, False, False, False]


def test_a_full_disk_costs_pictures_and_nothing_else(monkeypatch):
    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with Spool() as spool:
        spool.keep(0, torch.zeros(3, 3))
        assert spool.taken(0) == b""


def test_nothing_of_a_spool_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spool() as spool:
        spool.keep(0, torch.zeros(3, 3))
        assert list(tmp_path.iterdir()) == []


# -- pictures --------------------------------------------------------------------------------------


def test_the_four_pictures_of_an_image():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 2
    truth[:10] = 255
    found = np.zeros((40, 60), np.int64)
    rgb = np.full((40, 60, 3), 77, np.uint8)
    with Spool() as spool:
        spool.keep(7, torch.from_numpy(found))
        made = exhibit(
            "name", rgb, truth, spool.taken(7), miou=0.5, accuracy=0.4, colours=COLOURS, ignore=255
        )
    assert (made.width, made.height) == (60, 40)
    assert made.photo[:2] == b"\xff\xd8"
    assert unpacked(made.photo).shape == (40, 60, 3)
    assert unpacked(made.photo).mean() == pytest.approx(77, abs=2)
    assert (unpacked(made.truth)[20, 50] == COLOURS[2]).all()
    assert (unpacked(made.prediction)[20, 50] == COLOURS[0]).all()
    error = unpacked(made.error)
    assert (error[20, 10] == RIGHT).all()
    assert (error[20, 50] == WRONG).all()
    assert {tuple(c) for c in error[:10].reshape(-1, 3)} == {(250, 250, 250), (140, 140, 140)}


def test_the_same_image_gives_the_same_bytes():
    drawn = np.random.default_rng(0)
    rgb = drawn.integers(0, 256, (900, 1300, 3)).astype(np.uint8)
    truth = drawn.integers(0, 300, (900, 1300))
    with Spool() as spool:
        spool.keep(0, torch.from_numpy(truth))
        made = [
            exhibit("n", rgb, truth, spool.taken(0), miou=1, accuracy=1, colours=COLOURS, ignore=-1)
            for _ in range(2)
        ]
    assert made[0] == made[1]
    assert (made[0].width, made[0].height) == (480, 332)
    error = unpacked(made[0].error).reshape(-1, 3)
    assert (error == RIGHT).all(), "truth and prediction are cut down alike"
