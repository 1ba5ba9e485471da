import os
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, png, random_rgb, write

from segkit.data.camvid import CamVid
from segkit.data.pairs import FilePairs
from segkit.data.voc import Voc, VocAug
from segkit.errors import DataError, ExitCode, RefusedError, SegkitError

# class, split, root below SEGKIT_DATA, images, masks, list
SETS = [
    (CamVid, "train", "camvid", "images", "labels", "train.txt"),
    (Voc, "val", "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClass", "{}/val.txt"),
    (VocAug, "trainaug", "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClassAug",
     "{}/trainaug.txt"),
    (VocAug, "val", "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClass", "{}/val.txt"),
]  # fmt: skip
IDS = ["2007_000001", "a b", "z-3"]


class Room:
    """A small data set in the layout of one of ``SETS``."""

    def __init__(self, root: Path, images: str, masks: str, list_file: str) -> None:
        self.root = root
        self.images, self.masks = root / images, root / masks
        self.list = root / list_file.format("ImageSets/Segmentation")

    def fill(self, text: bytes, ids: list[str] = IDS) -> None:
        write(self.list, text)
        for number, name in enumerate(ids):
            write(self.images / f"{name}.jpg", jpeg(random_rgb(6, 8, number)))
            write(self.masks / f"{name}.png", png(np.full((6, 8), number, np.uint8)))


@pytest.fixture(params=SETS, ids=lambda s: f"{s[0].__name__}-{s[1]}")
def case(request, tmp_path: Path, monkeypatch):
    make, split, folder, images, masks, list_file = request.param
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))
    return make, split, Room(tmp_path / "data" / folder, images, masks, list_file)


def lines(*names: str) -> bytes:
    return "\n".join(names).encode()


def test_samples_come_sorted_and_whole(case) -> None:
    make, split, room = case
    room.fill(lines("z-3", "2007_000001", "a b"))
    for data in (make(split=split), make(room.root, split), make(str(room.root), split)):
        assert data.ids.tolist() == IDS
        assert len(data) == 3
        rgb, label = data.read(1)
        assert rgb.shape == (6, 8, 3)
        assert (rgb.dtype, label.dtype) == (np.uint8, np.uint8)
        assert (label == 1).all()


def test_without_the_variable_the_place_is_data_here(case, tmp_path: Path, monkeypatch) -> None:
    make, split, room = case
    room.fill(lines(*IDS))
    monkeypatch.delenv("SEGKIT_DATA")
    monkeypatch.chdir(tmp_path)
    assert len(make(split=split)) == 3
    monkeypatch.chdir(room.root)
    with pytest.raises(DataError, match="SEGKIT_DATA=not set"):
        make(split=split)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf2007_000001\r\na b\r\n\r\nz-3\r\n",
        b"\n\n  2007_000001  \n\ta b\nz-3\n\n",
        b"# a comment\n2007_000001\na b\nz-3",
    ],
    ids=["BOM and CRLF", "blanks", "comment"],
)
def test_lists_from_other_editors(case, text: bytes) -> None:
    make, split, room = case
    room.fill(text)
    assert make(split=split).ids.tolist() == IDS


def test_the_authors_form_of_a_list(case) -> None:
    make, split, room = case
    images, masks = room.images.name, room.masks.name
    text = lines(*(f"/{images}/{i}.jpg /{masks}/{i}.png" for i in ("x1", "x0")))
    room.fill(text, ["x0", "x1"])
    assert make(split=split).ids.tolist() == ["x0", "x1"]
    room.fill(lines(f"/{images}/x0.jpg /elsewhere/x0.png"), ["x0"])
    with pytest.raises(DataError, match="line 1"):
        make(split=split)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (b"", ExitCode.DATA, ["empty"]),
        (b"\n \r\n# nothing\n", ExitCode.DATA, ["no sample"]),
        (lines("a", "b", "a", "b", "c"), ExitCode.DATA, ["DUPLICATE", "a, b"]),
        (b"a\xff\xfe\x00b", ExitCode.DATA, ["UTF-8"]),
        (lines("../x"), ExitCode.REFUSED, ["line 1", "../x"]),
        (lines("ok", "a/../../x"), ExitCode.REFUSED, ["line 2"]),
        (lines("/etc/passwd"), ExitCode.REFUSED, ["/etc/passwd"]),
        (lines("..\\x"), ExitCode.REFUSED, ["line 1"]),
        (b"a\0b", ExitCode.REFUSED, ["line 1"]),
        (lines("a\x1b[31m"), ExitCode.REFUSED, ["line 1"]),
        (lines("2007_000001", "nobody"), ExitCode.DATA, ["MISSING-FILE", "nobody.jpg"]),
    ],
)
def test_bad_lists(case, text: bytes, code: ExitCode, words: list[str]) -> None:
    make, split, room = case
    room.fill(text)
    with pytest.raises(SegkitError) as caught:
        make(split=split)
    line = caught.value.line()
    assert caught.value.code == code
    assert all(word in line for word in [room.list.name, *words])
    assert line.isprintable()


def test_an_escape_through_the_authors_form_is_refused(case) -> None:
    make, split, room = case
    images, masks = room.images.name, room.masks.name
    room.fill(lines(f"/{images}/../../x.jpg /{masks}/../../x.png"))
    with pytest.raises(RefusedError):
        make(split=split)


def test_missing_masks_are_counted_and_named(case) -> None:
    make, split, room = case
    room.fill(lines(*IDS))
    for name in IDS[1:]:
        (room.masks / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"a b\.png: mask .* \(2 of 3 are\)"):
        make(split=split)


def test_a_missing_set_says_where_it_looked_and_what_to_do(case, tmp_path: Path) -> None:
    make, split, room = case
    for root in (None, tmp_path / "elsewhere"):
        with pytest.raises(DataError) as caught:
            make(root, split)
        line = caught.value.line()
        place = root or room.root
        layout = [room.images.name, room.masks.name, f"{split}.txt"]
        words = ["DATA-MISSING", str(place), "SEGKIT_DATA=", "dataset.root=", "dataset=shapes"]
        assert all(word in line for word in words + layout)
        assert "\n" not in line


def test_a_missing_list_is_where_the_line_points(case) -> None:
    make, _, room = case
    room.fill(lines(*IDS))
    with pytest.raises(DataError, match=r"nosuch\.txt: list not found; the lists here are \w+;"):
        make(split="nosuch")
    room.list.unlink()
    with pytest.raises(DataError, match=r"nosuch\.txt: .* not found .*prepare"):
        make(split="nosuch")


def test_a_list_that_is_a_fifo_blocks_nobody(case) -> None:
    make, split, room = case
    room.fill(lines(*IDS))
    room.list.unlink()
    os.mkfifo(room.list)
    with pytest.raises(DataError, match="not a regular file"):
        make(split=split)


def test_sizes_are_compared(case) -> None:
    make, split, room = case
    room.fill(lines(*IDS))
    write(room.masks / "a b.png", png(np.zeros((6, 7), np.uint8)))
    data = make(split=split)
    with pytest.raises(DataError, match=r"a b\.png: mask of 7x6 for the 8x6 pixels of .*a b\.jpg"):
        data.read(1)


def test_opening_reads_no_picture(case) -> None:
    make, split, room = case
    room.fill(lines(*IDS))
    for path in [*room.images.iterdir(), *room.masks.iterdir()]:
        path.write_bytes(b"")
    data = make(split=split)
    with pytest.raises(DataError, match="empty file"):
        data.read(0)


def test_ids_may_lie_in_subfolders(tmp_path: Path) -> None:
    room = Room(tmp_path, "images", "labels", "train.txt")
    room.fill(lines("berlin/1", "ulm/2"), ["berlin/1", "ulm/2"])
    data = CamVid(tmp_path)
    assert isinstance(data, FilePairs)
    assert data.read(1)[0].shape == (6, 8, 3)
