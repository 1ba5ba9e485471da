"""segkit data check: rows D12, D15 and D16, leaks, twins, and the words of the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, jpeg, png, write
from PIL import Image
from small_folders import HEIGHT, WIDTH, SmallFolder, checked, mask, photo, wheres

from segkit import cli
from segkit.check.leaks import alike
from segkit.completion import completions
from segkit.errors import ExitCode

Capsys = pytest.CaptureFixture[str]
VOID = png(np.full((HEIGHT, WIDTH), 255, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> SmallFolder:
    return SmallFolder(tmp_path / "set").fill().lists(train="a b c d", val="e f")


# -- D12: void -------------------------------------------------------------------------------------


def test_row_d12_a_void_mask_is_a_warning_a_void_split_an_error(
    folder: SmallFolder, capsys: Capsys
) -> None:
    folder.mask("b", VOID)
    answer = checked(capsys, folder.root, "dataset.ignore_label=255")
    assert (answer.code, wheres(answer.found("DATA-VOID"))) == (ExitCode.OK, ["b.png"])
    folder.mask("e", VOID)
    folder.mask("f", VOID)
    answer = checked(capsys, folder.root, "dataset.ignore_label=255")
    assert answer.code == ExitCode.DATA
    assert answer.one("DATA-VOID-SPLIT")["split"] == "val"


# -- D15: lists ------------------------------------------------------------------------------------

LISTS = [
    (b"", "DATA-UNREADABLE", "empty file"),
    (b"\n\n# a\n", "DATA-EMPTY-SPLIT", ""),
    (b"a\n\nb\r\n  c \r\n\r\n", None, ""),
    (b"\xef\xbb\xbfa\nb\n#c\n", None, ""),
    (b"a\nb\nb\nc\nc\nc\n", "DATA-DUPLICATE", "2 ids stand there twice: b, c"),
    (b"a\nb\n../x\n", "SAFE-PATH", "line 3: '../x'"),
    (b"a\n/etc/hostname\nb\n", "SAFE-PATH", "line 2: '/etc/hostname'"),
    (b"a\nb\xff\n", "DATA-LIST", "UTF-8"),
]


@pytest.mark.parametrize(("text", "name", "told"), LISTS, ids=range(len(LISTS)))
def test_row_d15_lists(
    folder: SmallFolder, capsys: Capsys, text: bytes, name: str | None, told: str
) -> None:
    path = write(folder.root / "train.txt", text)
    answer = checked(capsys, folder.root)
    if name is None:
        assert answer.facts["errors"] == 0
        return
    assert told in answer.one(name)["what"]
    assert answer.one(name)["where"] == str(path)
    assert answer.facts["errors"] == 1, "the rest of the list is gone on with"


def test_row_d15_all_at_once_and_the_rest_is_read(folder: SmallFolder, capsys: Capsys) -> None:
    write(folder.root / "train.txt", b"a\na\n../x\nnot-there\nb\n/y\n")
    folder.mask("b", png(mask() + 3))
    answer = checked(capsys, folder.root)
    assert answer.one("DATA-DUPLICATE")["names"] == ["a"]
    assert len(answer.found("SAFE-PATH")) == 2
    assert wheres(answer.found("DATA-MISSING-FILE")) == ["not-there.jpg", "not-there.png"]
    assert wheres(answer.found("DATA-LABEL-RANGE")) == ["b.png"]


def test_a_split_that_does_not_open_is_a_finding(folder: SmallFolder, capsys: Capsys) -> None:
    (folder.root / "val.txt").unlink()
    answer = checked(capsys, folder.root)
    assert answer.one("DATA-MISSING-FILE")["where"] == str(folder.root / "val.txt")
    assert answer.facts["splits"]["train"]["pairs"] == 4


# -- D16: names ------------------------------------------------------------------------------------


def test_row_d16_the_same_id_in_train_and_val(folder: SmallFolder, capsys: Capsys) -> None:
    folder.lists(train="a b c d e", val="e f d")
    finding = checked(capsys, folder.root).one("DATA-LEAK")
    assert finding["what"] == "2 ids are in train and in val: d, e"
    assert finding["names"] == ["d", "e"]


def test_row_d16_names_that_differ_in_case_alone(folder: SmallFolder, capsys: Capsys) -> None:
    folder.fill("A", first_seed=20)
    answer = checked(capsys, folder.root)
    assert answer.code == ExitCode.OK
    assert sorted(f["what"] for f in answer.found("DATA-CASE-TWINS")) == [
        "A.jpg and a.jpg differ in the case of letters alone",
        "A.png and a.png differ in the case of letters alone",
    ]


def test_row_d16_orphans_both_ways(tmp_path: Path, capsys: Capsys) -> None:
    folder = SmallFolder(tmp_path / "set").fill()
    folder.image("lonely", jpeg(photo(30)))
    folder.mask("shadow", png(mask()))
    answer = checked(capsys, folder.root)
    assert wheres(answer.found("DATA-NO-IMAGE")) == ["shadow.png"]
    assert wheres(answer.found("DATA-MISSING-FILE")) == ["lonely.png"]
    assert answer.facts["errors"] == 2
    folder.lists(train="a b c d", val="e f")  # they are in no list, and disturb nobody
    answer = checked(capsys, folder.root)
    assert answer.one("DATA-NO-IMAGE")["severity"] == "warning"
    assert answer.one("DATA-NO-MASK")["severity"] == "note"
    folder.image("lonelier", jpeg(photo(31)))
    note = checked(capsys, folder.root).one("DATA-NO-MASK")
    assert note["what"] == "2 images without a mask are in no list: lonelier, lonely"


def test_two_images_of_one_name(folder: SmallFolder, capsys: Capsys) -> None:
    folder.image("b", png(photo(40)), ".png")
    assert "b.jpg" in checked(capsys, folder.root).one("DATA-DUPLICATE")["what"]


def test_classes_without_a_pixel(folder: SmallFolder, capsys: Capsys) -> None:
    write(folder.root / "classes.txt", b"road\nsky\ntree\nhorse")
    found = checked(capsys, folder.root).found("DATA-UNUSED-CLASS")
    assert [(f["split"], f["names"]) for f in found] == [("train", ["horse"]), ("val", ["horse"])]


# -- equal and alike images ------------------------------------------------------------------------


def test_twins_and_whether_their_masks_agree(folder: SmallFolder, capsys: Capsys) -> None:
    for name in "ab":
        folder.image(name, jpeg(photo(1)))
    finding = checked(capsys, folder.root).one("DATA-TWINS")
    assert finding["what"] == "2 equal images: a, b; their masks differ"
    folder.mask("a", png(mask(1)))
    folder.mask("b", png(mask(1)))
    assert checked(capsys, folder.root).one("DATA-TWINS")["what"] == "2 equal images: a, b"


def test_the_same_pixels_in_train_and_val(folder: SmallFolder, capsys: Capsys) -> None:
    folder.image("e", png(photo(99)), ".jpg")
    tagged = encoded(Image.fromarray(photo(99)), "PNG", dpi=(300, 300), compress_level=1)
    folder.image("b", tagged)  # other bytes
    finding = checked(capsys, folder.root).one("DATA-LEAK-IMAGE")
    assert (finding["severity"], finding["names"]) == ("error", ["e", "b"])


def test_many_equal_images_are_one_finding(folder: SmallFolder, capsys: Capsys) -> None:
    copies = [f"t{number:02d}" for number in range(30)], [f"v{number:02d}" for number in range(30)]
    for name in [*copies[0], *copies[1]]:
        folder.image(name, jpeg(photo(0)))
        folder.mask(name, png(mask(0)))
    folder.lists(train=" ".join(["a", *copies[0]]), val=" ".join(["a", "e", *copies[1]]))
    answer = checked(capsys, folder.root)
    finding = answer.one("DATA-LEAK-IMAGE")
    assert finding["what"].startswith("one image is 30 times in val (v00, v01")
    assert "31 times in train (a, t00" in finding["what"]
    assert len(finding["names"]) == 61
    assert answer.facts["errors"] == 2  # the other is the id


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("scale", [0.5, 1, 1.5])
def test_a_smaller_or_re_encoded_copy_looks_the_same(
    folder: SmallFolder, capsys: Capsys, quality: int, scale: float
) -> None:
    large = Image.fromarray(photo(50, 240, 320))
    folder.image("e", encoded(large, "JPEG", quality=95))
    folder.mask("e", png(mask(0, 240, 320)))
    size = (round(320 * scale), round(240 * scale))
    folder.image("b", encoded(large.resize(size), "JPEG", quality=quality))
    folder.mask("b", png(mask(0, size[1], size[0])))
    answer = checked(capsys, folder.root)
    assert answer.code == ExitCode.OK
    assert answer.one("DATA-LEAK-LOOK")["names"] == ["e", "b"]


def test_alike_finds_the_nearest_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.check.leaks._BLOCK", 3)
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (n, 32), dtype=np.uint8) for n in (10, 11))
    second[7] = first[4]
    second[2] = first[4]
    second[2, 0] ^= 0b101
    second[9] = first[8]
    second[9, 3:5] ^= 255
    first[1] = second[5] = 0  # no look
    assert list(alike(first, second)) == [(4, 7, 0)]


def voc_with_sbd(root: Path) -> Path:
    """VOC's tree: ``trainaug`` has an id of val, and another val image under a name of SBD's."""
    names = {"2007_000001": 1, "2007_000002": 2, "2008_000003": 3, "2008_000004": 4, "2009_9": 3}
    for name, seed in names.items():
        write(root / f"JPEGImages/{name}.jpg", jpeg(photo(seed)))
        for masks in ("SegmentationClass", "SegmentationClassAug"):
            labels = np.where(mask(seed) == 255, 255, mask(seed) * 7)
            write(root / f"{masks}/{name}.png", png(labels.astype(np.uint8)))
    lists = root / "ImageSets/Segmentation"
    write(lists / "trainaug.txt", b"2007_000001\n2007_000002\n2008_000004\n2009_9\n")
    write(lists / "val.txt", b"2008_000003\n2008_000004\n")
    return root


def test_sbd_against_val_of_voc_by_id_and_by_content(tmp_path: Path, capsys: Capsys) -> None:
    root = voc_with_sbd(tmp_path / "VOC2012")
    answer = checked(capsys, "dataset=voc_aug", f"dataset.root={root}")
    assert answer.one("DATA-LEAK")["names"] == ["2008_000004"]
    finding = answer.one("DATA-LEAK-IMAGE")
    assert finding["what"] == "the same image as 2009_9 of trainaug"
    assert Path(finding["where"]).name == "2008_000003.jpg"
    alone = checked(capsys, "dataset=voc_aug", f"dataset.root={root}", "split=val")
    assert alone.code == ExitCode.OK


# -- the command -----------------------------------------------------------------------------------


def said(capsys: Capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["data", *words])
    return (code, *capsys.readouterr())


def test_findings_are_grouped_capped_and_escaped(folder: SmallFolder, capsys: Capsys) -> None:
    for number in range(8):
        folder.mask(f"x{number}\x1b[2J\nok: all", png(mask()))
    code, out, err = said(capsys, "check", str(folder.root), "workers=0")
    assert code == ExitCode.OK
    assert "warning DATA-NO-IMAGE (8)" in out
    assert "  ... and 3 more (--json lists all)" in out
    assert "\x1b" not in out
    assert out.splitlines()[-1] == "ok: 4 + 2 pairs, 8 warnings in 8 files"
    assert err == ""
    folder.mask("a", b"")
    code, out, err = said(capsys, "check", str(folder.root), "workers=0")
    assert (code, out.splitlines()[-1]) == (ExitCode.DATA, "1 error, 8 warnings in 9 files")
    assert err.startswith(f"segkit: error[DATA-CHECK]: {folder.root}: 1 error, 8 warnings")


def test_drawn_data_has_no_files_and_is_checked_too(capsys: Capsys) -> None:
    words = ("dataset.size=17", "dataset.count=5", "dataset.val.count=3")
    answer = checked(capsys, "dataset=shapes", *words)
    assert answer.facts["splits"]["train"]["pairs"] == 5
    assert answer.facts["splits"]["val"]["pairs"] == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "names no data set"),
        (["dataset=voc", "/tmp"], 2, "names more than one data set"),
        (["dataset=vco"], 2, "did you mean voc?"),
        (["dataset=shapes", "model=v3"], 2, "model: no such key here"),
        (["dataset=shapes", "splt=train"], 2, "did you mean split?"),
        (["dataset=shapes", "-m"], 2, "-m: not here"),
        (["dataset=folder"], 2, "dataset.root"),
        (["dataset=camvid", "dataset.root=/nowhere"], 3, "camvid not found"),
        (["dataset=camvid", "dataset.rot=/x"], 2, "dataset.rot"),
    ],
)
def test_words_that_are_not_understood(
    words: list[str], code: int, told: str, capsys: Capsys
) -> None:
    got, _, err = said(capsys, "check", *words)
    assert (got, told in err, len(err.splitlines())) == (code, True, 1), err


@pytest.mark.parametrize(
    "words",
    [["check", "--help"], ["stats", "--help"], ["check", "dataset=vco"], ["check", "splt=train"]],
)
def test_help_and_typing_errors_import_nothing_heavy(words: list[str]) -> None:
    script = (
        f"import sys; from segkit import cli; cli.main(['data', *{words}]); "
        "print([m for m in ('torch', 'numpy', 'cv2', 'matplotlib') if m in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert said.splitlines()[-1] == "[]"


def test_the_rule_that_was_used_is_told(tmp_path: Path, capsys: Capsys) -> None:
    """Display colours of a prepared folder are no table for masks of indices."""
    folder = SmallFolder(tmp_path / "set").fill().lists(train="a b c d", val="e f")
    colours = {0: (9, 9, 9), 1: (90, 0, 0), 2: (0, 90, 0), 255: (1, 2, 3)}
    rgb = np.array([colours[int(v)] for v in mask(1).ravel()], np.uint8)
    folder.mask("b", png(rgb.reshape(*mask(1).shape, 3)))
    words = "dataset.colours=[[9,9,9],[90,0,0],[0,90,0]]", "dataset.ignore_colour=[1,2,3]"
    _, out, _ = said(capsys, "check", str(folder.root), *words, "workers=0")
    assert "3 masks grey, the value is the label, 1 masks RGB through the table" in out


def test_help_and_completion(capsys: Capsys) -> None:
    for command in ("check", "stats"):
        code, out, _ = said(capsys, command, "--help")
        assert (code, out.startswith(f"segkit data {command} dataset=NAME")) == (0, True)
        assert command in completions(["data", ""])
        assert "dataset=voc_aug" in completions(["data", command, "dataset=v"])
    assert "check" in said(capsys, "--help")[1]


def test_json_is_all_of_it(folder: SmallFolder, capsys: Capsys) -> None:
    write(folder.root / "train.txt", "\n".join(f"gone{n:02d}" for n in range(12)).encode())
    _, out, _ = said(capsys, "check", str(folder.root), "--json", "workers=0")
    assert len([f for f in json.loads(out)["findings"] if f["id"] == "DATA-MISSING-FILE"]) == 24


# -- every shipped data set ------------------------------------------------------------------------

VOC_LISTS = "ImageSets/Segmentation"
TREES = {
    "voc": ("VOCdevkit/VOC2012", "JPEGImages/{}.jpg", "SegmentationClass/{}.png", VOC_LISTS),
    "voc_aug": ("VOCdevkit/VOC2012", "JPEGImages/{}.jpg", "SegmentationClassAug/{}.png", VOC_LISTS),
    "camvid": ("camvid", "images/{}.png", "labels/{}.png", "."),
}
STREET = "{kind}/{split}/ulm/ulm_{number:06d}_000019_{end}.png"


def fill(name: str, room: Path) -> None:
    """Three train pairs and two of val."""
    own, images, masks, lists = TREES[name]
    names = {"trainaug" if name == "voc_aug" else "train": range(3), "val": range(3, 5)}
    for split, numbers in names.items():
        write(room / own / lists / f"{split}.txt", "".join(f"s{n}\n" for n in numbers).encode())
        for number in numbers:
            folder = "SegmentationClass/{}.png" if (name, split) == ("voc_aug", "val") else masks
            encode = jpeg if images.endswith("jpg") else png
            write(room / own / images.format(f"s{number}"), encode(photo(number)))
            write(room / own / folder.format(f"s{number}"), png(mask(number)))


def fill_streets(room: Path) -> None:
    labels = mask() % 34 + 5  # ids 5, 6, 7 and 22, of which two count
    for number, split in enumerate(["train", "train", "train_extra", "val", "test"]):
        ends = [("leftImg8bit", "leftImg8bit", png(photo(number)))]
        ends += [(k, f"{k}_labelIds", png(labels)) for k in ("gtFine", "gtCoarse")]
        for kind, end, content in ends:
            place = STREET.format(kind=kind, split=split, number=number, end=end)
            write(room / "cityscapes" / place, content)


@pytest.mark.parametrize("name", [*TREES, "cityscapes", "cityscapes_coarse"])
def test_every_shipped_set_is_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path))
    fill(name, tmp_path) if name in TREES else fill_streets(tmp_path)
    answer = checked(capsys, f"dataset={name}")
    assert answer.code == ExitCode.OK
    assert answer.ids == ["DATA-UNUSED-CLASS"]
    pairs = {"cityscapes": 2, "cityscapes_coarse": 1}.get(name, 3)
    assert next(iter(answer.facts["splits"].values()))["pairs"] == pairs
    is_street = name not in TREES
    bad = next(tmp_path.rglob("leftImg8bit/val/**/*.png" if is_street else "*.png"))
    bad.write_bytes(bad.read_bytes()[:-30])
    assert checked(capsys, f"dataset={name}").one("DATA-UNREADABLE")["where"] == str(bad)


def test_the_test_split_of_cityscapes_has_images_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path))
    fill_streets(tmp_path)
    answer = checked(capsys, "dataset=cityscapes", "split=test")
    assert (answer.code, answer.facts["findings"]) == (ExitCode.OK, [])
    assert answer.facts["splits"]["test"]["void_share"] is None
    assert cli.main(["data", "stats", "dataset=cityscapes", "split=test"]) == ExitCode.DATA
    assert "test holds no mask" in capsys.readouterr().err


def test_text_in_an_encoding_that_lacks_the_letters(folder: SmallFolder) -> None:
    write(folder.root / "classes.txt", "Straße\nsky\ntree\nHügel".encode())
    line = [sys.executable, "-m", "segkit", "data", "check", str(folder.root), "workers=0"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
    assert "classes have no pixel in train: H\\xfcgel" in ended.stdout
