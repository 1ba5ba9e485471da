from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, jpeg, png, raw_png, write
from PIL import Image

from segkit.data.labels import VOC, LabelSet, label_set
from segkit.data.masks import read_mask
from segkit.errors import DataError

FIVE = label_set("five", "abcde")
MANY = label_set("many", [f"c{i}" for i in range(300)])
INDICES = np.array([[0, 1, 2, 3], [4, 255, 0, 4], [1, 1, 255, 2]], np.uint8)


def palette_png(indices: np.ndarray, seed: int) -> bytes:
    image = Image.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(seed).integers(0, 256, 768).tolist())
    return encoded(image, "PNG")


@pytest.mark.parametrize("seed", range(4))
def test_palette_masks_are_their_indices(tmp_path: Path, seed: int) -> None:
    mask = read_mask(write(tmp_path / "m.png", palette_png(INDICES, seed)), FIVE)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, INDICES)


def test_a_palette_with_transparency_is_still_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(list(range(256)) * 3)
    content = encoded(image, "PNG", transparency=2)
    assert np.array_equal(read_mask(write(tmp_path / "m.png", content), FIVE), INDICES)


TWO = LabelSet("two", ("background", "leaf"), ((0, 0, 0), (0, 128, 0)))
TWO_COLOURS = {colour: label for label, colour in enumerate(TWO.colours)}


def two_colour_png(palette: list[tuple[int, int, int]], indices: np.ndarray) -> bytes:
    image = Image.fromarray(indices, "P")
    image.putpalette([c for colour in palette for c in colour])
    return encoded(image, "PNG")


def test_a_palette_that_contradicts_the_colours_is_refused(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [1, 0]], np.uint8)
    path = write(tmp_path / "m.png", two_colour_png([(0, 128, 0), (0, 0, 0)], indices))
    with pytest.raises(DataError) as caught:
        read_mask(path, TWO, colour_table=TWO_COLOURS)
    line = caught.value.line()
    assert "[DATA-MASK-PALETTE]" in line
    assert "index 0 is label 0, but its colour (0, 128, 0) is the label 1" in line
    assert "type 'dataset.values={0: 0, 1: 1}' where the indices are the labels" in line
    assert "save the masks as RGB" in line
    same = {0: 0, 1: 1}
    read = read_mask(path, TWO, colour_table=TWO_COLOURS, value_table=same)
    assert np.array_equal(read, indices)
    assert np.array_equal(read_mask(path, TWO), indices), "no colours typed: D7"


@pytest.mark.parametrize(
    ("palette", "indices"),
    [
        ([(0, 0, 0), (0, 128, 0)], [[0, 1]]),
        ([(0, 0, 0), (0, 128, 0), (0, 0, 0)], [[0, 1]]),  # what is not used says nothing
        ([(0, 128, 0), (9, 9, 9)], [[0, 1]]),  # a colour that the table lacks
        ([(0, 0, 0)] + [(0, 128, 0)] * 254 + [(1, 1, 1)], [[0, 1, 255]]),
    ],
)
def test_a_palette_that_agrees_or_says_nothing_is_its_indices(tmp_path: Path, palette, indices):
    array = np.array(indices, np.uint8)
    path = write(tmp_path / "m.png", two_colour_png(palette, array))
    assert np.array_equal(read_mask(path, TWO, colour_table=TWO_COLOURS), array)


def test_a_class_far_up_the_palette_is_no_void(tmp_path: Path) -> None:
    palette = [(0, 0, 0)] * 255 + [(0, 128, 0)]
    path = write(tmp_path / "m.png", two_colour_png(palette, np.array([[0, 255]], np.uint8)))
    with pytest.raises(DataError, match="index 255"):
        read_mask(path, TWO, colour_table=TWO_COLOURS)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("colour_type", [0])
def test_narrow_grey_is_the_value_as_stored(tmp_path: Path, depth: int, colour_type: int) -> None:
    values = [min(v, 2**depth - 1) for v in (0, 1, 2, 3, 4, 4, 1, 0)]
    bits = "".join(f"{v:0{depth}b}" for v in values)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    content = raw_png([row], width=8, depth=depth, colour_type=colour_type)
    assert read_mask(write(tmp_path / "m.png", content), FIVE).tolist() == [values]


@settings(max_examples=120, deadline=None)
@given(
    mode=st.sampled_from(["1", "L", "P", "I;16", "I", "LA", "RGB"]),
    data=st.data(),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_every_mode_reads_exactly(tmp_path_factory, mode, data, height, width) -> None:
    top = {"1": 1, "L": 255, "P": 255, "LA": 255}.get(mode, 299)
    count = height * width
    values = data.draw(st.lists(st.integers(0, top), min_size=count, max_size=count))
    array = np.array(values).reshape(height, width)
    colours = {"LA": [(grey, grey, grey) for grey in range(256)], "RGB": MANY.colours}.get(mode)
    content = {
        "1": lambda: png(array.astype(bool)),
        "L": lambda: png(array.astype(np.uint8)),
        "P": lambda: palette_png(array.astype(np.uint8), 1),
        "I;16": lambda: png(array.astype(np.uint16)),
        # Pillow writes no PNG of mode I any more; the 16 bits that it reads as one are these.
        "I": lambda: raw_png([row.astype(">u2").tobytes() for row in array], width, 16, 0),
        "LA": lambda: png(array.astype(np.uint8), "LA"),
        "RGB": lambda: png(np.array(MANY.colours, np.uint8)[array]),
    }[mode]()
    path = write(tmp_path_factory.mktemp("m") / "m.png", content)
    table = {colour: label for label, colour in enumerate(colours)} if colours else None
    mask = read_mask(path, MANY, colour_table=table)
    assert mask.dtype == np.uint16
    assert np.array_equal(mask, array)
    if table:
        with pytest.raises(DataError, match="class indices"):
            read_mask(path, MANY)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_values_through_a_table(tmp_path: Path, mode: str) -> None:
    stored = np.array([[0, 1, 1], [1, 0, 0]])
    content = {
        "1": lambda: png(stored.astype(bool)),
        "L": lambda: png(stored.astype(np.uint8)),
        "P": lambda: palette_png(stored.astype(np.uint8), 3),
        "I;16": lambda: png((1000 * stored).astype(np.uint16)),
    }[mode]()
    high = 1000 if mode == "I;16" else 1
    path = write(tmp_path / "m.png", content)
    for labels in (FIVE, MANY):
        mask = read_mask(path, labels, value_table={0: 4, high: 2, -1: 3, 70000: 0})
        assert mask.dtype == labels.dtype
        assert np.array_equal(mask, np.where(stored, 2, 4))
    with pytest.raises(
        DataError, match=r"label 0 at x=0 y=0 and 2 more pixels is not in the table"
    ):
        read_mask(path, FIVE, value_table={5: 0, high: 2})


@pytest.mark.parametrize("lacks", [False, True])
def test_a_table_may_give_every_label_there_is(tmp_path: Path, lacks: bool) -> None:
    """255 classes and the ignored one: no byte is left that could stand for what is unknown."""
    most = label_set("most", [f"class{number}" for number in range(255)])
    stored = np.arange(1000, 1256, dtype=np.uint16).reshape(16, 16)
    stored[3, 2] -= 1000 if lacks else 0
    path = write(tmp_path / "m.png", png(stored))
    table = {1000 + label: label for label in range(256)}
    if lacks:
        with pytest.raises(DataError, match=r"label 50 at x=2 y=3 is not in the table"):
            read_mask(path, most, value_table=table)
    else:
        assert np.array_equal(read_mask(path, most, value_table=table), stored - 1000)


def test_sixteen_bits_are_exact_and_never_clamped(tmp_path: Path) -> None:
    array = np.arange(300, dtype=np.uint16).reshape(15, 20)
    assert np.array_equal(read_mask(write(tmp_path / "m.png", png(array)), MANY), array)
    array[3, 7] = 300
    with pytest.raises(DataError, match=r"label 300 at x=7 y=3; allowed 0\.\.299 and 65535"):
        read_mask(write(tmp_path / "m.png", png(array)), MANY)
    array[3, 7] = 65535
    assert read_mask(write(tmp_path / "m.png", png(array)), MANY)[3, 7] == 65535


@pytest.mark.parametrize("value", [5, 128, 254, 256, 300, 65535])
@pytest.mark.parametrize("labels", [FIVE, VOC])
def test_a_label_out_of_range_has_value_and_place(
    tmp_path: Path, value: int, labels: LabelSet
) -> None:
    value = max(value, labels.num_classes)
    array = np.zeros((9, 14), np.uint16 if value > 255 else np.uint8)
    array[4, 10] = array[5, 2] = value
    path = write(tmp_path / "a.png", png(array))
    with pytest.raises(DataError) as caught:
        read_mask(path, labels)
    top = labels.num_classes - 1
    expected = f"{path}: label {value} at x=10 y=4 and 1 more pixels; allowed 0..{top} and 255"
    assert caught.value.id == "DATA-LABEL-RANGE"
    assert str(caught.value).startswith(expected)
    assert "dataset.ignore_label" in str(caught.value)


def test_another_ignore_label_makes_255_a_mistake(tmp_path: Path) -> None:
    labels = LabelSet("x", ("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore_label=7)
    path = write(tmp_path / "a.png", png(np.array([[0, 7, 1]], np.uint8)))
    assert read_mask(path, labels).tolist() == [[0, 7, 1]]
    path = write(tmp_path / "a.png", png(np.array([[0, 255]], np.uint8)))
    with pytest.raises(DataError, match="255 at x=1 y=0"):
        read_mask(path, labels)


COLOURS = np.array(FIVE.colours, np.uint8)
TABLE = {colour: label for label, colour in enumerate(FIVE.colours)}
LABELS = np.array([[0, 1, 2], [3, 4, 4]], np.uint8)


def rgba(alpha: int) -> np.ndarray:
    return np.dstack([COLOURS[LABELS], np.full(LABELS.shape, alpha, np.uint8)])


@pytest.mark.parametrize(
    "content",
    [
        png(COLOURS[LABELS]),
        png(rgba(255)),
        encoded(Image.new("LA", (3, 3)), "PNG"),
        png(np.zeros((3, 3), np.uint8), "RGB"),
    ],
    ids=["RGB", "RGBA", "LA", "grey as RGB"],
)
def test_coloured_masks_need_a_table(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"DATA-MASK-MODE|class indices"):
        read_mask(write(tmp_path / "m.png", content), FIVE)


@pytest.mark.parametrize("array", [COLOURS[LABELS], rgba(255)], ids=["RGB", "RGBA"])
def test_a_colour_table_reads_coloured_masks(tmp_path: Path, array: np.ndarray) -> None:
    mask = read_mask(write(tmp_path / "m.png", png(array)), FIVE, colour_table=TABLE)
    assert np.array_equal(mask, LABELS)
    assert mask.dtype == np.uint8


def test_an_unknown_colour_is_shown_with_count_and_place(tmp_path: Path) -> None:
    array = COLOURS[LABELS]
    array[1, 1:] = (9, 8, 7)
    path = write(tmp_path / "m.png", png(array))
    with pytest.raises(DataError, match=r"\(9, 8, 7\) of 2 pixels, the first at x=1 y=1"):
        read_mask(path, FIVE, colour_table=TABLE)


def test_an_alpha_channel_is_never_dropped_silently(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="opaque"):
        read_mask(write(tmp_path / "m.png", png(rgba(200))), FIVE, colour_table=TABLE)


@pytest.mark.parametrize("table", [None, TABLE])
def test_jpeg_masks_are_refused_always(tmp_path: Path, table) -> None:
    path = write(tmp_path / "m.png", jpeg(LABELS))
    with pytest.raises(DataError, match="lossy"):
        read_mask(path, FIVE, colour_table=table)
