"""segkit data check: rows D1, D2, D5, D8, D9, D10, D11 of the catalogue, told file by file."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import bomb_png, encoded, jpeg, png, write
from PIL import Image
from small_folders import HEIGHT, WIDTH, SmallFolder, checked, mask, photo, wheres

from segkit.errors import ExitCode

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> SmallFolder:
    return SmallFolder(tmp_path / "set").fill()


def test_a_good_folder_is_ok(folder: SmallFolder, capsys: Capsys) -> None:
    answer = checked(capsys, folder.root)
    train, val = (answer.facts["splits"][split]["pairs"] for split in ("train", "val"))
    assert (answer.code, train + val, answer.facts["findings"]) == (ExitCode.OK, 6, [])
    assert answer.facts["verdict"] == f"ok: {train} + {val} pairs"


def test_row_d1_all_six_cut_pictures_are_listed(folder: SmallFolder, capsys: Capsys) -> None:
    for name, share in zip("abc", (2, 50, 99), strict=True):
        whole = jpeg(photo(9, 200, 300))
        folder.image(name, whole[: len(whole) * share // 100])
    for name, share in zip("def", (2, 50, 99), strict=True):
        whole = png(mask(9, 200, 300))
        folder.mask(name, whole[: len(whole) * share // 100])
    answer = checked(capsys, folder.root, workers=2)
    found = answer.found("DATA-UNREADABLE")
    assert wheres(found) == ["a.jpg", "b.jpg", "c.jpg", "d.png", "e.png", "f.png"]
    assert all(finding["what"] for finding in found)
    assert "6 errors" in answer.error


def test_row_d2_what_is_no_picture_is_named_and_blocks_nobody(
    folder: SmallFolder, capsys: Capsys
) -> None:
    folder.fill("a b c d e f g h")
    folder.image("a", b"")
    folder.image("b", b"just text\n" * 100)
    folder.image("c", b"<!DOCTYPE html><html><body>404</body></html>")
    folder.mask("d", bomb_png(60000, 60000))
    for name in "efgh":
        (folder.root / f"masks/{name}.png").unlink()
    (folder.root / "masks/e.png").symlink_to("nowhere.png")
    os.mkfifo(folder.root / "masks/f.png")
    (folder.root / "masks/g.png").symlink_to("/dev/zero")
    (folder.root / "masks/h.png").mkdir()
    folder.lists(train="a b c d e f g", val="h")
    start = time.monotonic()
    answer = checked(capsys, folder.root)
    assert time.monotonic() - start < 5
    told = {Path(f["where"]).name: f["id"] for f in answer.facts["findings"] if f["split"]}
    named = {"a.jpg", "b.jpg", "c.jpg", "d.png", "e.png", "f.png", "g.png", "h.png"}
    assert named <= told.keys()
    assert told["d.png"] == "SAFE-PIXELS"
    assert answer.facts["errors"] == 8


def sixteen_bits(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.uint16)), "PNG")


def test_row_d5_labels_outside_with_their_histogram(folder: SmallFolder, capsys: Capsys) -> None:
    bad = mask()
    bad[4, 10] = 3
    bad[5, :7] = 254
    path = folder.mask("b", png(bad))
    minus_one = np.where(mask() == 255, 1, mask()).astype(np.int16)
    minus_one[0, :2] = -1
    folder.mask("c", sixteen_bits(minus_one.view(np.uint16)))
    answer = checked(capsys, folder.root)
    first, second = answer.found("DATA-LABEL-RANGE")
    assert first["where"] == str(path)
    assert first["what"].startswith("label 3 at x=10 y=4 and 7 more pixels")
    assert first["fix"].startswith("allowed 0..2 and 255")
    assert first["values"] == [[254, 7], [3, 1]]
    assert second["values"] == [[65535, 2]]


def test_row_d8_coloured_and_lossy_masks(folder: SmallFolder, capsys: Capsys) -> None:
    colours = np.array([[10, 0, 0], [20, 0, 0], [30, 0, 0], [9, 9, 9]], np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:4], labels[4:6] = 1, 2
    for name in "abcdef":
        folder.mask(name, png(colours[labels]))
    refused = checked(capsys, folder.root).found("DATA-MASK-MODE")
    assert len(refused) == 6
    assert refused[0]["values"] == [[[10, 0, 0], 576], [[20, 0, 0], 128], [[30, 0, 0], 64]]
    table = "dataset.colours=[[10,0,0],[20,0,0],[30,0,0]]"
    assert checked(capsys, folder.root, table).facts["errors"] == 0
    labels[7, 3] = 3
    folder.mask("e", png(colours[labels]))
    folder.mask("f", jpeg(colours[labels]))
    answer = checked(capsys, folder.root, table)
    unknown = answer.one("DATA-MASK-COLOUR")
    assert unknown["what"].startswith("colour (9, 9, 9) of 1 pixels, the first at x=3 y=7")
    assert unknown["values"] == [[[9, 9, 9], 1]]
    assert wheres(answer.found("DATA-MASK-MODE")) == ["f.png"]
    assert "JPEG" in answer.one("DATA-MASK-MODE")["what"]


def test_row_d9_sixteen_bits_are_exact(folder: SmallFolder, capsys: Capsys) -> None:
    write(folder.root / "classes.txt", "\n".join(f"c{i}" for i in range(300)).encode())
    labels = (np.arange(HEIGHT * WIDTH) % 300).reshape(HEIGHT, WIDTH)
    for name in "abcdef":
        folder.mask(name, sixteen_bits(labels))
    assert checked(capsys, folder.root).facts["errors"] == 0
    labels[3, 5] = 300
    folder.mask("d", sixteen_bits(labels))
    finding = checked(capsys, folder.root).one("DATA-LABEL-RANGE")
    assert (finding["values"], "label 300 at x=5 y=3" in finding["what"]) == ([[300, 1]], True)


def test_row_d10_both_sizes_and_both_paths(folder: SmallFolder, capsys: Capsys) -> None:
    path = folder.mask("c", png(mask(0, HEIGHT - 1)))
    finding = checked(capsys, folder.root).one("DATA-SIZE-MISMATCH")
    assert finding["where"] == str(path)
    for told in (f"{WIDTH}x{HEIGHT - 1}", f"{WIDTH}x{HEIGHT}", str(folder.root / "images/c.jpg")):
        assert told in finding["what"]


def test_row_d11_rotated_images_are_told_and_sizes_compared_upright(
    folder: SmallFolder, capsys: Capsys
) -> None:
    folder.fill("a b c d e f g h")
    for orientation, name in enumerate("abcdefgh", 1):
        tag = Image.Exif()
        tag[0x112] = orientation
        lies = orientation >= 5
        pixels = photo(orientation, *((WIDTH, HEIGHT) if lies else (HEIGHT, WIDTH)))
        folder.image(name, encoded(Image.fromarray(pixels), "JPEG", exif=tag))
    answer = checked(capsys, folder.root)
    told = answer.found("DATA-EXIF")
    assert wheres(told) == [f"{name}.jpg" for name in "bcdefgh"]
    assert {f["severity"] for f in told} == {"warning"}
    assert answer.code == ExitCode.OK
    folder.mask("f", png(mask(0, WIDTH, HEIGHT)))  # as the file lies, not as it is seen
    assert wheres(checked(capsys, folder.root).found("DATA-SIZE-MISMATCH")) == ["f.png"]


def test_masks_of_0_and_255_are_asked_about(folder: SmallFolder, capsys: Capsys) -> None:
    binary = np.where(mask() == 0, 0, 255).astype(np.uint8)
    folder.mask("b", png(binary))
    assert wheres(checked(capsys, folder.root).found("DATA-MASK-BINARY")) == ["b.png"]
    for name in "abcdef":
        folder.mask(name, png(binary))
    answer = checked(capsys, folder.root, "dataset.ignore_label=255")
    assert [f["split"] for f in answer.found("DATA-BINARY")] == ["train", "val"]
    assert checked(capsys, folder.root, "dataset.values={0: 0, 255: 1}").facts["errors"] == 0


def test_modes_of_masks_and_their_rules(folder: SmallFolder, capsys: Capsys) -> None:
    palette = Image.fromarray(np.where(mask() == 255, 1, mask()).astype(np.uint8), "L")
    palette = palette.convert("P")
    palette.putpalette([7, 7, 7] * 256)
    folder.lists(train="a b", val="c")
    folder.mask("a", png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    indexed = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).convert("P")
    folder.mask("b", encoded(indexed, "PNG"))
    answer = checked(capsys, folder.root)
    assert answer.facts["splits"]["train"]["mask_modes"] == {"L": 1, "P": 1}
