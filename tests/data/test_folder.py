import os
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, png, random_rgb, write
from PIL import Image

from segkit.data.folder import Folder, split_by_name
from segkit.errors import ConfigError, DataError, SegkitError

CLASSES = ["road", "sky", "tree"]
LABELS = np.array([[0, 1, 2, 255], [2, 1, 0, 0]], np.uint8)
COLOURS = [[128, 64, 128], [70, 130, 180], [0, 128, 0]]
VOID = [255, 255, 255]


def fill(root: Path, names: str = "a b c d e", mask: bytes = png(LABELS)) -> Path:
    for number, name in enumerate(names.split()):
        write(root / f"images/{name}.jpg", jpeg(random_rgb(2, 4, number)))
        write(root / f"masks/{name}.png", mask)
    return root


def coloured() -> bytes:
    table = np.zeros((256, 3), np.uint8)
    table[:3], table[255] = COLOURS, VOID
    return png(table[LABELS])


def everything(root: Path, **words: object) -> Folder:
    return Folder(root, "all", **{"classes": CLASSES, **words})


def refusal(make: object, *arguments: object, **words: object) -> str:
    with pytest.raises(SegkitError) as caught:
        make(*arguments, **words)
    line = caught.value.line()
    assert "\n" not in line
    return line


# -- samples -----------------------------------------------------------------------------------


def test_pairs_by_name_in_any_picture_format_and_folder(tmp_path: Path) -> None:
    fill(tmp_path, "b trip/a")
    write(tmp_path / "images/c.JPEG", jpeg(random_rgb(2, 4)))
    write(tmp_path / "images/d.png", png(random_rgb(2, 4)))
    for name in ("c.png", "d.PNG"):
        write(tmp_path / "masks" / name, png(LABELS))
    for noise in ("images/._b.jpg", "images/notes.txt", "masks/.DS_Store"):
        write(tmp_path / noise, b"no picture")
    data = everything(tmp_path)
    assert data.ids.tolist() == ["b", "c", "d", "trip/a"]
    for index in range(4):
        rgb, label = data.read(index)
        assert rgb.shape == (2, 4, 3)
        assert np.array_equal(label, LABELS)
    assert data.image_path(1).name == "c.JPEG"
    assert data.mask_path(2).name == "d.PNG"


def test_folders_with_other_names(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "images").rename(tmp_path / "photos")
    (tmp_path / "masks").rename(tmp_path / "drawn")
    assert len(everything(tmp_path, images="photos", masks="drawn")) == 5


def test_a_link_that_leads_in_a_circle_ends(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "images/again").symlink_to(tmp_path / "images")
    assert len(everything(tmp_path)) == 5


def test_orphans_are_named_both_ways(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "images/d.jpg").unlink()
    line = refusal(everything, tmp_path)
    assert "DATA-ORPHANS" in line
    assert "1 images have no mask (a)" in line
    assert f"1 masks in {tmp_path / 'masks'} have no image (d)" in line


def test_two_images_of_one_name_are_named(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "images/b.png", png(random_rgb(2, 4)))
    line = refusal(everything, tmp_path)
    assert "DATA-DUPLICATE" in line
    assert "b.jpg" in line
    assert "b.png" in line


def test_jpeg_masks_are_refused_before_any_is_read(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "masks/b.png").rename(tmp_path / "masks/b.jpg")
    assert f"{tmp_path}/masks/b.jpg: a JPEG mask" in refusal(everything, tmp_path)


def test_what_is_missing_says_what_to_type(tmp_path: Path) -> None:
    assert "dataset.root=/path" in refusal(Folder)
    assert f"{tmp_path}/no: no such folder" in refusal(Folder, tmp_path / "no")
    (tmp_path / "images").mkdir()
    assert f"{tmp_path}/masks: no such folder" in refusal(Folder, tmp_path)
    (tmp_path / "masks").mkdir()
    line = refusal(Folder, tmp_path)
    assert "CFG-MISSING" in line
    assert "dataset.classes=[" in line
    assert str(tmp_path / "classes.txt") in line
    assert "holds no image" in refusal(everything, tmp_path)


# -- splits ------------------------------------------------------------------------------------


def test_without_lists_the_names_decide_the_same_everywhere(tmp_path: Path) -> None:
    names = [f"img{i}" for i in range(1000)]
    split = split_by_name(names, 0.2)
    assert sorted(split["train"] + split["val"]) == sorted(names)
    # As `printf img11 | sha256sum` says it: on any machine, in any release.
    assert split["val"][:4] == ["img11", "img115", "img116", "img12"]
    assert 160 <= len(split["val"]) <= 240
    more = split_by_name([*names, *(f"new{i}" for i in range(500))], 0.2)
    assert set(split["val"]) <= set(more["val"])
    fill(tmp_path, " ".join(names[:30]))
    train, val = (Folder(tmp_path, s, classes=CLASSES).ids.tolist() for s in ("train", "val"))
    assert {"train": train, "val": val} == split_by_name(names[:30], 0.2)


def test_a_name_composed_or_not_is_one_name() -> None:
    composed, apart = "Gr\u00fcn", "Gru\u0308n"
    rest = [f"r{i}" for i in range(40)]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        sides = [split_by_name([name, *rest], share)["val"] for name in (composed, apart)]
        assert (composed in sides[0]) == (apart in sides[1])


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_splits_have_a_sample(share: float) -> None:
    split = split_by_name(["a", "b"], share)
    assert [len(split["train"]), len(split["val"])] == [1, 1]


def test_one_image_is_no_data_set(tmp_path: Path) -> None:
    assert "EMPTY-SPLIT" in refusal(Folder, fill(tmp_path, "a"), "train", CLASSES)


def test_lists_decide_where_there_are_any(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "train.txt", b"b\r\nc.jpg\r\n")
    line = refusal(Folder, tmp_path, "val", CLASSES)
    assert f"{tmp_path}/val.txt: no such list beside train.txt" in line
    write(tmp_path / "val.txt", b"a\n")
    (tmp_path / "masks/e.png").unlink()  # in no list
    assert Folder(tmp_path, "train", CLASSES).ids.tolist() == ["b", "c"]
    assert Folder(tmp_path, "val", CLASSES).ids.tolist() == ["a"]
    write(tmp_path / "test.txt", b"d\ne\nx\n")
    line = refusal(Folder, tmp_path, "test", CLASSES)
    assert "1 of 3 names have no image: x" in line
    write(tmp_path / "test.txt", b"../../x\n")
    assert "SAFE-PATH" in refusal(Folder, tmp_path, "test", CLASSES)
    assert "trainval.txt: no such list" in refusal(Folder, tmp_path, "trainval", CLASSES)


def test_another_split_needs_a_list(tmp_path: Path) -> None:
    assert "no split 'test' of the folder" in refusal(Folder, fill(tmp_path), "test", CLASSES)


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_is_a_share(tmp_path: Path, share: float) -> None:
    assert "dataset.val_share" in refusal(Folder, tmp_path, "val", CLASSES, val_share=share)


# -- classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "road\nsky\ntree\n"),
        ("classes.txt", "\ufeffroad \r\nsky\r\ntree\r\n\r\n"),
        ("dataset.yaml", "classes: [road, sky, tree]\nignore_label: 255\n"),
    ],
)
def test_the_folder_names_its_classes(tmp_path: Path, name: str, text: str) -> None:
    fill(tmp_path)
    write(tmp_path / name, text.encode())
    data = Folder(tmp_path)
    assert data.labels.names == ("road", "sky", "tree")
    assert Folder(tmp_path, classes=["x", "y", "z"]).labels.names == ("x", "y", "z")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classes.txt", "road\n\nsky", "classes.txt: line 2 is empty"),
        ("classes.txt", "road\nroad", "classes.txt (classes): names used twice: road"),
        ("classes.txt", "road", "1 classes"),
        ("dataset.yaml", "classes: [a, b", "dataset.yaml: no readable YAML"),
        ("dataset.yaml", "[" * 5000, "dataset.yaml: no readable YAML"),
        ("dataset.yaml", "- a", "not a table"),
        ("dataset.yaml", "klasses: [a, b]", "unknown keys: klasses; allowed: classes, colours"),
        ("dataset.yaml", "classes: [yes, no]", "not text"),
        ("dataset.yaml", "classes: 3", "(classes): 3 is not a list"),
        ("dataset.yaml", "{classes: [a, b], colours: [[0, 0, 0]]}", "1 colours for the 2 names"),
        ("dataset.yaml", "{classes: [a, b], colours: [[0, 0], 1]}", "(colours)"),
        ("dataset.yaml", "{classes: [a, b], ignore_label: 1}", "(ignore_label)"),
        ("dataset.yaml", "{classes: [a, b], ignore_label: x}", "'x' is not an int"),
        ("dataset.yaml", "{classes: [a, b], values: {0: 0, 255: 2}}", "255: 2 is no label"),
        (
            "dataset.yaml",
            "{classes: [a, b], values: {0: 0, 0: 1}}",
            "the key '0' stands there twice",
        ),
        (
            "dataset.yaml",
            "classes: [a, b]\nclasses: [b, a]",
            "the key 'classes' stands there twice",
        ),
        ("dataset.yaml", "classes: [&a x, *a]", "an alias: write the value out"),
        ("dataset.yaml", f"classes: 0x{'f' * 9999}", "a number of 10001 digits"),
        ("dataset.yaml", "!!python/object/apply:os.system [id]", "no readable YAML"),
    ],
)
def test_a_bad_description_names_its_place(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    fill(tmp_path)
    write(tmp_path / name, text.encode())
    line = refusal(Folder, tmp_path)
    assert "DATA-" in line
    assert words in line
    assert str(tmp_path / name) in line


def test_a_long_value_is_not_shown_whole(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "dataset.yaml", f"classes: {{{', '.join(map(str, range(9999)))}}}".encode())
    assert len(refusal(Folder, tmp_path)) < 1000


def test_two_files_that_disagree_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "classes.txt", b"road\nsky\n")
    write(tmp_path / "dataset.yaml", b"classes: [sky, road]\n")
    assert "name other classes" in refusal(Folder, tmp_path)


def test_a_description_that_is_a_fifo_blocks_nobody(tmp_path: Path) -> None:
    fill(tmp_path)
    os.mkfifo(tmp_path / "classes.txt")
    assert "not a regular file" in refusal(Folder, tmp_path)


# -- masks -------------------------------------------------------------------------------------


def test_rgb_masks_through_the_table_of_colours(tmp_path: Path) -> None:
    fill(tmp_path, mask=coloured())
    line = refusal(everything(tmp_path).read, 0)
    assert "DATA-MASK-MODE" in line
    assert "dataset.colours=[[" in line
    line = refusal(everything(tmp_path, colours=COLOURS).read, 0)
    assert "colour (255, 255, 255) of 1 pixels, the first at x=3 y=0" in line
    data = everything(tmp_path, colours=COLOURS, ignore_colour=VOID)
    assert np.array_equal(data.read(0)[1], LABELS)
    assert data.labels.colours[1] == (70, 130, 180)


@pytest.mark.parametrize("colours", [[[0, 0, 0], [0, 0, 0], [1, 1, 1]], [[0, 0, 256]] * 3, [[0]]])
def test_a_table_of_colours_is_checked(tmp_path: Path, colours: list) -> None:
    assert "dataset.colours" in refusal(everything, fill(tmp_path), colours=colours)


BINARY = np.array([[0, 255, 255, 0]] * 2, np.uint8)


@pytest.mark.parametrize("array", [BINARY, np.full((2, 4), 255, np.uint8)], ids=["both", "all 255"])
@pytest.mark.parametrize("classes", [["no", "leaf"], CLASSES], ids=len)
def test_a_0_255_mask_is_never_guessed(tmp_path: Path, array: np.ndarray, classes: list) -> None:
    fill(tmp_path, mask=png(array))
    line = refusal(everything(tmp_path, classes=classes).read, 0)
    assert f"{tmp_path}/masks/a.png: holds only 0 and 255" in line
    assert "'dataset.values={0: 0, 255: 1}'" in line
    assert "dataset.ignore_label=255" in line
    table = everything(tmp_path, classes=classes, values={0: 0, 255: 1})
    assert np.array_equal(table.read(0)[1], array // 255)
    void = everything(tmp_path, classes=classes, ignore_label=255)
    assert np.array_equal(void.read(0)[1], array)


def test_a_mask_without_255_needs_no_word(tmp_path: Path) -> None:
    fill(tmp_path, mask=png(np.zeros((2, 4), np.uint8)))
    assert not everything(tmp_path).read(0)[1].any()


def test_a_table_of_values(tmp_path: Path) -> None:
    fill(tmp_path)
    table = {"0": 2, "1": 1, "2": 0, "255": 255}  # keys as a checkpoint gives them back
    label = everything(tmp_path, values=table).read(0)[1]
    assert np.array_equal(label, np.array([[2, 1, 0, 255], [0, 1, 2, 2]]))
    line = refusal(everything(tmp_path, values={0: 0, 1: 1, 255: 2}).read, 0)
    assert "label 2 at x=2 y=0 and 1 more pixels is not in the table of values" in line


@pytest.mark.parametrize(
    "values", [{}, {0: 3}, {0: -1}, {"x": 0}, {-1: 0}, {0: 0.5}, {0: True}, {0: None}]
)
def test_a_bad_table_of_values_names_its_key(tmp_path: Path, values: dict) -> None:
    assert "dataset.values" in refusal(everything, fill(tmp_path), values=values)


def test_another_ignore_label(tmp_path: Path) -> None:
    fill(tmp_path, mask=png(np.array([[0, 1, 2, 9]] * 2, np.uint8)))
    assert everything(tmp_path, ignore_label=9).read(0)[1][0].tolist() == [0, 1, 2, 9]
    assert "label 9 at x=3" in refusal(everything(tmp_path).read, 0)
    with pytest.raises(ConfigError, match=r"dataset\.ignore_label"):
        everything(tmp_path, ignore_label=2)


def test_sixteen_bits_for_many_classes(tmp_path: Path) -> None:
    array = np.array([[0, 299, 255, 65535]] * 2, np.uint16)
    fill(tmp_path, mask=png(array))
    data = everything(tmp_path, classes=[f"c{i}" for i in range(300)])
    assert np.array_equal(data.read(0)[1], array)


def test_palettes_mean_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(LABELS, "P")
    image.putpalette(list(range(256)) * 3)
    fill(tmp_path)
    image.save(tmp_path / "masks/a.png")
    assert np.array_equal(everything(tmp_path).read(0)[1], LABELS)
    assert np.array_equal(everything(tmp_path, colours=COLOURS).read(0)[1], LABELS)


def test_sizes_are_compared(tmp_path: Path) -> None:
    fill(tmp_path, mask=png(LABELS[:, :3]))
    with pytest.raises(DataError, match="mask of 3x2 for the 4x2 pixels"):
        everything(tmp_path).read(0)
