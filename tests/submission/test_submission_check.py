"""Archives of others: every fault has a line, and what could do harm is not read."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_sets as small
from PIL import Image
from small_servers import TEST

from segkit import cli, submit
from segkit.errors import SegkitError
from segkit.submission.check import check
from segkit.submission.servers import CityscapesServer, VocServer

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
Maps = dict[str, bytes]


def png(values: np.ndarray | None = None, mode: str = "P") -> bytes:
    """A label map of the size that small sets' images have."""
    array = np.zeros((12, 17), np.uint8) if values is None else values
    return small.picture(mode, array)


@pytest.fixture
def maps() -> Maps:
    return {f"{FOLDER}/{name}.png": png() for name in TEST}


@pytest.fixture
def street_maps() -> Maps:
    ids = np.full((12, 17), 7, np.uint8)
    return {"bonn_000000_000019_x.png": png(ids, "L")}


def checked(server: str, root: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The exit code, and behind it the lines of the faults."""
    made = VocServer(root, "test") if server == "voc" else CityscapesServer(root, "test")
    capsys.readouterr()
    try:
        code, last = submit.report(path, check(path, made, made.sizes())), []
    except SegkitError as error:
        code, last = error.code, [error.line()]
    return [str(int(code)), *capsys.readouterr().err.splitlines(), *last]


def faults(lines: list[str]) -> list[str]:
    """What was wrong, of an archive with faults and no other trouble; notes are left out."""
    code, *err = [line for line in lines if line.isdigit() or "error[" in line]
    assert code == "3"
    assert f": {len(err) - 1} fault" in err[-1]
    prefix = "segkit: error[DATA-SUBMISSION]: "
    return [line.removeprefix(prefix) for line in err[:-1]]


# -- what is sound -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tgz", "tar", "zip", "folder"])
def test_any_form_of_a_sound_submission(
    form: str, maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x.{form}"
    makers = {"tgz": small.tgz, "tar": small.tar, "zip": small.zipped, "folder": small.lay}
    makers[form](maps, path)
    code, *notes = checked("voc", voc_root, path, capsys)
    assert code == "0"
    kind = {"tar": "a tar that is not packed", "zip": "a zip"}.get(form)
    wanted = "the server asks for results.tgz, a tar packed with gzip"
    assert notes == ([f"segkit: x.{form} is {kind}; {wanted}"] if kind else [])


@pytest.mark.parametrize(("packing", "module"), [("bzip2", bz2), ("xz", lzma)])
def test_other_packings_are_sound_but_not_what_the_server_asks_for(
    packing: str, module: Any, maps: Maps, voc_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = small.tar(maps, tmp_path / "results.tgz")
    path.write_bytes(module.compress(path.read_bytes()))
    code, note = checked("voc", voc_root, path, capsys)
    assert code == "0"
    assert f"results.tgz is a tar packed with {packing}; the server asks for results.tgz" in note


def test_grey_maps_and_any_folder_and_ending_of_the_name(
    streets: Path, street_maps: Maps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [content] = street_maps.values()
    for name in ("bonn_000000_000019.png", "a/b/bonn_000000_000019_pred_labelIds.png"):
        path = small.zipped({name: content}, tmp_path / "x.zip")
        assert checked("cityscapes", streets, path, capsys) == ["0"]


def test_the_benchmarks_own_script_finds_the_same_files(streets: Path) -> None:
    """getPrediction of cityscapesScripts, over names that it takes and names that it does not."""
    script = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    server = CityscapesServer(streets, "test")
    for name in (
        "bonn_000000_000019_leftImg8bit.png",
        "bonn_000000_000019.png",
        "bonn_000000_000019x.png",
        "bonn_000000_00001.png",
        "bonn_000000_000019_x.jpg",
        "xbonn_000000_000019.png",
    ):
        script.args.predictionPath, script.args.predictionWalk = "in", [("in/a", [name])]
        try:
            theirs = script.getPrediction(script.args, "x/bonn_000000_000019_gtFine_labelIds.png")
        except SystemExit:
            theirs = None
        assert server.sample_of(f"in/a/{name}") == (theirs and "bonn/bonn_000000_000019"), name


def test_the_command_line_says_the_same(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", "voc", f"dataset.root={voc_root}"]
    path = small.tgz(maps, tmp_path / "x.tgz")
    assert cli.main([*words, f"check={path}"]) == 0
    assert "3 label maps, sound" in capsys.readouterr().out
    del maps[next(iter(maps))]
    path = small.tgz(maps, tmp_path / "y.tgz")
    assert cli.main([*words, f"check={path}"]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines()[-2:] == [
        f"segkit: error[DATA-SUBMISSION]: {FOLDER}/{TEST[0]}.png: is missing",
        f"segkit: error[DATA-SUBMISSION]: {path}: 1 fault, the first: {FOLDER}/{TEST[0]}.png"
        " is missing; the server would not take it",
    ]


# -- every fault one line ------------------------------------------------------------------------


def test_every_fault_of_an_archive_has_a_line(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = maps
    void = np.zeros((12, 17), np.uint8)
    void[3, 4] = 255
    maps[first] = png(void)
    maps[second] = png(np.zeros((17, 12), np.uint8))
    del maps[third]
    maps[f"{FOLDER}/2007_000001.png"] = png()
    maps["readme.txt"] = b"hello"
    maps[third.replace("comp6", "comp5")] = png()
    lines = faults(checked("voc", voc_root, small.tgz(maps, tmp_path / "x.tgz"), capsys))
    expected = [
        (first, "has the values 255; allowed: 0..20"),
        (second, "is 12x17 pixels, its image has 17x12"),
        (f"{FOLDER}/2007_000001.png", "is no label map of test"),
        ("readme.txt", "is no label map of test"),
        (third.replace("comp6", "comp5"), "is no label map of test"),
        (third, "is missing"),
    ]
    assert len(lines) == len(expected)
    for where, what in expected:
        assert [line for line in lines if line.startswith(f"{where}: {what}")], (where, what)


def rgb() -> bytes:
    return small.picture("RGB", np.zeros((12, 17, 3), np.uint8))


def deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 17), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 17), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (rgb(), "is a PNG of mode RGB"),
        (deep(), "is a PNG of mode I;16"),
        (jpeg(), "is no sound PNG"),
        (png()[:-20], "is no sound PNG"),
        (png()[:60], "is no sound PNG"),
        (b"hello", "is no sound PNG"),
        (b"", "is no sound PNG"),
        (png(np.full((12, 17), 21, np.uint8)), "has the values 21"),
        (png(np.arange(204, dtype=np.uint8).reshape(12, 17)), "has the values 21, 22, 23, 24, 25"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_a_map_that_is_none(
    form: str, content: bytes, says: str, maps: Maps, voc_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name = next(iter(maps))
    maps[name] = content
    path = small.zipped(maps, tmp_path / "x") if form == "zip" else small.lay(maps, tmp_path / "x")
    [line] = faults(checked("voc", voc_root, path, capsys))
    assert line.startswith(f"{name}: {says}")
    assert "0x" not in line


def test_a_map_of_a_folder_that_is_too_large(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(maps))
    maps[name] += bytes(17 * 2**20)
    [line] = faults(checked("voc", voc_root, small.lay(maps, tmp_path / "x"), capsys))
    assert line == f"{name}: has more than 16777216 bytes"


def test_doubled_names_are_faults(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(maps))
    tgz = with_member(tmp_path / "x.tgz", maps, tarfile.TarInfo(name), maps[name])
    zipped = small.zipped(maps, tmp_path / "x.zip")
    with zipfile.ZipFile(zipped, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, rgb())
    [line] = faults(checked("voc", voc_root, tgz, capsys))
    assert line == f"{name}: there are 2 label maps of this image"
    # Each of the two is looked at.
    lines = faults(checked("voc", voc_root, zipped, capsys))
    assert [*lines] == [f"{name}: is a PNG of mode RGB; palette (P) or grey (L), 8 bits", line]


def test_an_archive_of_the_other_comp_has_one_line(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {name.replace("comp6", "comp5"): content for name, content in maps.items()}
    path = small.tgz(other, tmp_path / "x.tgz")
    [line] = faults(checked("voc", voc_root, path, capsys))
    assert line == "x.tgz: this is comp5: type comp=5"
    assert cli.main(["submit", "voc", f"dataset.root={voc_root}", f"check={path}", "comp=5"]) == 0


def test_cityscapes_passes_over_other_files(
    street_maps: Maps, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    street_maps |= {"readme.txt": b"hello", "results/notes.md": b"hello"}
    code, note = checked("cityscapes", streets, small.zipped(street_maps, tmp_path / "x"), capsys)
    assert code == "0"
    what = "no label map of test: readme.txt and 1 more; the server skips it"
    assert note == f"segkit: {what}"


def test_a_pixel_bomb_is_found_by_its_header(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = Image.new("P", (9000, 9000))
    buffer = io.BytesIO()
    huge.save(buffer, "PNG")
    name = next(iter(maps))
    maps[name] = buffer.getvalue()
    [line] = faults(checked("voc", voc_root, small.tgz(maps, tmp_path / "x.tgz"), capsys))
    assert line.startswith(f"{name}: is 9000x9000 pixels")


def test_train_ids_and_two_maps_of_one_image(
    streets: Path, street_maps: Maps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_ids = np.arange(204, dtype=np.uint8).reshape(12, 17) % 19
    maps = {"bonn_000000_000019.png": png(train_ids, "L")}
    [line] = faults(checked("cityscapes", streets, small.zipped(maps, tmp_path / "t.zip"), capsys))
    assert "trainIds; the server wants labelIds" in line
    twice = {**street_maps, "other/bonn_000000_000019.png": next(iter(street_maps.values()))}
    [line] = faults(checked("cityscapes", streets, small.zipped(twice, tmp_path / "2.zip"), capsys))
    assert "there are 2 label maps of this image" in line


def test_links_and_fifos_of_a_folder_are_named_and_not_followed(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.lay(maps, tmp_path / "x")
    first, second, _ = maps
    (folder / first).unlink()
    (folder / first).symlink_to(folder / second)
    (folder / "other").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    lines = faults(checked("voc", voc_root, folder, capsys))
    for name in (first, "other", "pipe"):
        assert f"{name}: is a link, or no plain file" in lines
    assert f"{first}: is missing" in lines
    assert len(lines) == 4


# -- archives that could do harm -----------------------------------------------------------------


def refused(server_lines: list[str], says: str) -> None:
    code, *err = server_lines
    assert code == "7"
    assert len(err) == 1
    assert err[0].startswith("segkit: error[SAFE-ARCHIVE]: ")
    assert says in err[0]


def with_member(path: Path, maps: Maps, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in maps.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../x.png"])
def test_names_that_lead_out(
    name: str, maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tgz = with_member(tmp_path / "x.tgz", maps, tarfile.TarInfo(name), b"x")
    refused(checked("voc", voc_root, tgz, capsys), "leaves the folder")
    zipped = small.zipped({**maps, name: b"x"}, tmp_path / "x.zip")
    refused(checked("voc", voc_root, zipped, capsys), "leaves the folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_tar(
    kind: bytes, maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = tarfile.TarInfo(f"{FOLDER}/link.png")
    member.type, member.linkname = kind, "/etc/passwd"
    path = with_member(tmp_path / "x.tgz", maps, member)
    refused(checked("voc", voc_root, path, capsys), "link.png")


def test_links_in_a_zip(
    maps: Maps, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.zipped(maps, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("link.png")
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    refused(checked("voc", voc_root, path, capsys), "is a link")


def test_bombs_cost_nothing(
    voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terabyte of zeros is refused by its claim, endless members by their number."""
    member = tarfile.TarInfo("bomb.png")
    with gzip.open(tmp_path / "x.tgz", "wb") as file:
        member.size = 2**40
        file.write(member.tobuf())
    refused(checked("voc", voc_root, tmp_path / "x.tgz", capsys), "bytes, at most")
    small_bomb = {"bomb.png": bytes(17 * 2**20)}
    for make in (small.tgz, small.zipped):
        lines = checked("voc", voc_root, make(small_bomb, tmp_path / "b"), capsys)
        refused(lines, "bomb.png' claims 17825792 bytes, at most 16777216; it is not read")
    twice = {f"{number}.png": bytes(9 * 2**20) for number in range(2)}
    path = small.tgz(twice, tmp_path / "y.tgz")
    refused(checked("voc", voc_root, path, capsys), "brings the archive to 18874368 bytes")
    many = {f"{number}.png": b"" for number in range(1100)}
    path = small.zipped(many, tmp_path / "x.zip")
    refused(checked("voc", voc_root, path, capsys), "more than 1006 members")


def test_a_member_that_expands_beyond_its_claim(
    voc_root: Path, maps: Maps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(maps))
    path = small.zipped({**maps, name: bytes(100_000)}, tmp_path / "x.zip")
    raw = path.read_bytes()
    claim, lie = (100_000).to_bytes(4, "little"), (100).to_bytes(4, "little")
    path.write_bytes(raw.replace(claim, lie))
    code, *err = checked("voc", voc_root, path, capsys)
    assert code == "3"
    assert "Traceback" not in "".join(err)


@pytest.mark.parametrize(
    "content", [b"hello", b"PK\5\6" + bytes(18), b"", gzip.compress(b"x" * 99)]
)
def test_what_is_no_archive(
    content: bytes, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(content)
    code, *err = checked("voc", voc_root, path, capsys)
    assert code == "3"
    assert err


def test_an_archive_that_is_not_there(
    voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = checked("voc", voc_root, tmp_path / "gone.tgz", capsys)
    assert code == "3"
    assert "gone.tgz" in line


def test_each_image_of_a_server_has_its_own_member(voc_root: Path, streets: Path) -> None:
    for server in (VocServer(voc_root, "test"), CityscapesServer(streets, "val")):
        for sample in map(str, server.images.ids):
            assert server.sample_of(server.member(sample)) == sample
        every = np.arange(server.labels.num_classes)[None]
        written = Image.open(io.BytesIO(server.encoded(every)))
        assert np.array_equal(server.classes(np.asarray(written)), every)
