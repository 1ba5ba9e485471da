"""Pictures hold the labels they were given, at any size and with any name."""

import numpy as np
import pytest
from PIL import Image

from segkit.report.pictures import (
    RIGHT,
    WRONG,
    colourise,
    encode_labels,
    error_map,
    overlay,
    palette_png,
    panel,
)

COLOURS = [(0, 0, 0), (200, 10, 20), (30, 220, 40)]
NAMES = ["ground", "thing", "<b>other</b>\n\x1b[31m"]
TRUTH = np.array([[0, 1, 2, 255], [1, 1, 2, 255]], np.uint8)
GUESS = np.array([[0, 2, 2, 0], [1, 1, 1, 1]], np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_the_values_of_an_index_png_are_the_labels(tmp_path, dtype):
    path = tmp_path / "x.png"
    palette_png(path, TRUTH.astype(dtype), COLOURS)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image), TRUTH)
        shown = np.array(image.convert("RGB"))
    known = TRUTH != 255
    assert np.array_equal(shown[known], np.array(COLOURS)[TRUTH[known]])


def test_more_than_255_classes_become_16_bit_grey(tmp_path):
    labels = np.array([[0, 299, 65535]], np.uint16)
    palette_png(tmp_path / "x.png", labels, np.zeros((300, 3)), ignore=65535)
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.array(image), labels)


def test_equal_pixels_give_equal_bytes():
    assert encode_labels(TRUTH, COLOURS) == encode_labels(TRUTH[:, ::1].copy("F"), COLOURS)


def test_colours_and_void():
    picture = colourise(TRUTH, COLOURS)
    assert picture.dtype == np.uint8
    assert tuple(picture[0, 1]) == COLOURS[1]
    assert tuple(colourise(np.array([[7]]), COLOURS)[0, 0]) not in COLOURS
    assert tuple(colourise(np.array([[-1]]), COLOURS)[0, 0]) not in COLOURS
    assert tuple(colourise(np.array([[2]]), COLOURS, ignore=2)[0, 0]) not in COLOURS


def test_error_map():
    picture = error_map(TRUTH, GUESS)
    right = (TRUTH == GUESS) & (TRUTH != 255)
    wrong = (TRUTH != GUESS) & (TRUTH != 255)
    assert (picture[right] == RIGHT).all()
    assert (picture[wrong] == WRONG).all()
    void = picture[TRUTH == 255]
    assert not (void == WRONG).all(1).any()
    assert not (void == RIGHT).all(1).any()
    assert not (error_map(np.full((9, 9), 255), np.full((9, 9), 255)) == RIGHT).all(2).any()


def test_right_and_wrong_differ_in_grey():
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert abs(weights @ RIGHT - weights @ WRONG) > 80


def test_an_overlay_in_strips_is_the_overlay_at_once(monkeypatch):
    draw = np.random.default_rng(0)
    rgb, labels = draw.integers(0, 256, (50, 40, 3), np.uint8), draw.integers(0, 4, (50, 40))
    labels[10:30, 5:20] = 255
    labels[30:, 20:] = 1
    at_once = overlay(rgb, labels, COLOURS)
    monkeypatch.setattr("segkit.report.pictures._STRIP", 7)
    assert np.array_equal(overlay(rgb, labels, COLOURS), at_once)


def test_overlay_blends_and_leaves_void_alone():
    rgb = np.full((2, 4, 3), 100, np.uint8)
    flat = np.ones((2, 4), np.uint8)
    assert (overlay(rgb, flat, COLOURS, alpha=0.5) == [150, 55, 60]).all()
    assert np.array_equal(overlay(rgb, flat, COLOURS, alpha=0), rgb)
    assert np.array_equal(overlay(rgb, np.full((2, 4), 255), COLOURS), rgb)
    outlined = overlay(rgb, np.array([[1, 2, 2, 2]] * 2), COLOURS)
    assert outlined[0, 0].min() > 150


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (65, 129), (360, 480), (1024, 2048)])
@pytest.mark.parametrize("photo", [False, True])
def test_panels_of_any_size(size, photo):
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8) if photo else None
    sheet = panel(truth, truth, colours=COLOURS, names=NAMES, image=image, title="run\n" * 99)
    assert sheet.width < 4200
    assert sheet.height < 1200
    tile = np.array(sheet).reshape(-1, 3)
    assert (tile == COLOURS[2]).all(1).any() or truth.size == 1


def test_a_panel_without_photo_shows_label_colours_only():
    """No pixel of a photograph can be in it: it was not given one."""
    one, two = (
        panel(TRUTH, GUESS, colours=COLOURS, names=NAMES, image=image)
        for image in (None, np.zeros((2, 4, 3), np.uint8))
    )
    assert one.width < two.width


def test_panels_name_only_classes_that_occur():
    few, many = (
        panel(labels, labels, colours=COLOURS, names=["ground", "w" * 30, "m" * 30])
        for labels in (np.zeros((9, 9), np.uint8), np.arange(9, dtype=np.uint8).reshape(3, 3) % 3)
    )
    legend = [np.array(sheet)[-22:].min(2) < 128 for sheet in (few, many)]
    assert legend[0].sum() < legend[1].sum()


def test_a_panel_of_void_alone():
    void = np.full((9, 9), 255, np.uint8)
    panel(void, np.zeros((9, 9), np.uint8), colours=COLOURS, names=NAMES)
