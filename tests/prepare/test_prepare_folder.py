"""``segkit data prepare folder``, from folders and tables in the forms that people have."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.cli import main
from segkit.data.folder import Folder, split_by_name
from segkit.errors import ExitCode
from segkit.prepare import folder
from segkit.prepare.claim import MANIFEST

LABELS = np.array([[0, 1, 1, 255], [1, 0, 0, 0]], np.uint8)
COLOURS = np.array([[0, 0, 0], [0, 128, 0]], np.uint8)
NAMES = [f"p{number}" for number in range(6)]


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array, mode)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six photos, and masks of labels."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        save(Path(f"raw/images/{name}.jpg"), np.full((2, 4, 3), 20 * number, np.uint8))
        save(Path(f"raw/masks/{name}.png"), LABELS)
    return tmp_path / "raw"


def prepare(*words: str) -> int:
    return main(["data", "prepare", "folder", "from=raw", "root=data/mine", *words])


def masks_become(array: np.ndarray, mode: str | None = None) -> None:
    for name in NAMES:
        save(Path(f"raw/masks/{name}.png"), array, mode)


def labels_of(place: str = "data/mine") -> list[np.ndarray]:
    data = Folder(place, "all")
    return [data.read(index)[1] for index in range(len(data))]


CLASSES = "classes=[background,leaf]"
BINARY = np.where(LABELS == 255, 0, LABELS)
VOID_AS_RED = np.where((LABELS == 255)[..., None], [255, 0, 0], COLOURS[LABELS % 255])


@pytest.mark.parametrize(
    ("array", "mode", "words", "expected"),
    [
        (LABELS, None, [], LABELS),
        (LABELS, "P", [], LABELS),
        (255 * BINARY, None, ["values={0: 0, 255: 1}"], BINARY),
        (255 * BINARY, None, ["values={0:0,255:1}"], BINARY),
        (255 * BINARY, None, ["ignore_label=255"], 255 * BINARY),
        (COLOURS[BINARY], None, ["colours=[[0,0,0],[0,128,0]]"], BINARY),
        (VOID_AS_RED.astype(np.uint8), None,
         ["colours=[[0,0,0],[0,128,0]]", "ignore_colour=[255,0,0]"], LABELS),
    ],
    ids=["grey", "palette", "values", "values-terse", "void", "RGB", "RGB-void"],
)  # fmt: skip
def test_masks_of_every_kind_become_labels(raw: Path, capsys, array, mode, words, expected) -> None:
    masks_become(array, mode)
    assert prepare(CLASSES, *words) == ExitCode.OK
    said = capsys.readouterr().out
    assert "next: segkit train dataset=folder dataset.root=data/mine" in said
    assert len(labels_of()) == 6
    assert all(np.array_equal(label, expected) for label in labels_of())
    with Image.open("data/mine/masks/p0.png") as mask:
        assert mask.mode == "P"
    assert Path("data/mine/images/p3.jpg").read_bytes() == (raw / "images/p3.jpg").read_bytes()
    data = Folder("data/mine", "train")  # the folder says it all
    assert data.labels.names == ("background", "leaf")
    assert data.ids.tolist() == split_by_name(NAMES, 0.2)["train"]
    assert Folder("data/mine", "val").ids.tolist() == split_by_name(NAMES, 0.2)["val"]


@pytest.mark.parametrize(
    ("array", "words", "told"),
    [
        (255 * BINARY, [], "type 'values={0: 0, 255: 1}' if it is class 1, ignore_label=255"),
        (COLOURS[BINARY], [], "or name the colour of each class: 'colours=[["),
        (LABELS + 1, [], "label 2 at x=1 y=0"),
        (LABELS, ["values={0: 2}"], "[CFG-DESCRIPTION]: values: 0: 2 is no label"),
        (LABELS, ["values=255"], "[CFG-TYPE]: values:"),
        (LABELS, ["ignore_label=true"], "[CFG-TYPE]: ignore_label:"),
        (LABELS, ["colours=[[0,0,0]"], "[CFG-TYPE]: colours:"),
        (LABELS, ["klasses=a"], "[CFG-UNKNOWN-KEY]: klasses: no such key"),
        (LABELS, ["val_share="], "[CFG-USAGE]: val_share: needs a value"),
        (LABELS, ["val_share=2"], "[CFG-RANGE]: val_share: 2"),
        (LABELS, ["pairs=p.csv", "masks=m"], "[CFG-USAGE]: pairs:"),
        (LABELS, ["from=no"], "[DATA-MISSING]: no: no such folder"),
    ],
)
@pytest.mark.usefixtures("raw")
def test_what_is_wrong_is_told_in_the_words_of_this_command(capsys, array, words, told) -> None:
    masks_become(array)
    assert prepare(CLASSES, *words) in (ExitCode.USAGE, ExitCode.DATA)
    said = capsys.readouterr().err
    assert told in said
    assert "dataset." not in said
    assert not Path("data/mine").exists(), "nothing half-made under the final name"


def test_again_is_nothing_new_and_another_source_is_refused(raw: Path, capsys) -> None:
    assert prepare(CLASSES) == ExitCode.OK
    before = {p: p.stat().st_mtime_ns for p in Path("data/mine").rglob("*")}
    capsys.readouterr()
    assert prepare(CLASSES) == ExitCode.OK
    assert "is already prepared" in capsys.readouterr().out
    assert prepare("classes=[background,leaves]") == ExitCode.DATA
    assert "made" not in (told := capsys.readouterr().err)
    assert "prepared from other files or with other words" in told
    save(raw / "images/p9.jpg", np.zeros((2, 4, 3), np.uint8))
    save(raw / "masks/p9.png", LABELS)
    assert prepare(CLASSES) == ExitCode.DATA
    assert before == {p: p.stat().st_mtime_ns for p in Path("data/mine").rglob("*")}


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: (raw / "dataset.yaml").write_text("values: {0: 1, 1: 0, 255: 255}\n"),
        lambda raw: (raw / "dataset.yaml").write_text("values: {0: 0, 1: 1, 255: 1}\n"),
        lambda raw: (raw / "dataset.yaml").write_text("ignore_label: 254\n"),
        lambda raw: (raw / "val.txt").write_text("p0\np2\n"),
        lambda raw: [
            (raw / f"masks/p0.{e}").rename(raw / f"masks/p0.{e.upper()}") for e in ["png"]
        ],
    ],
    ids=["values", "void to a class", "ignore label", "lists", "files"],
)
def test_a_source_that_says_something_else_is_another(raw: Path, capsys, change) -> None:
    (raw / "dataset.yaml").write_text("values: {0: 0, 1: 1, 255: 255}\n")
    (raw / "train.txt").write_text("p1\np3\np4\np5\n")
    (raw / "val.txt").write_text("p0\n")
    assert prepare(CLASSES) == ExitCode.OK
    assert prepare(CLASSES) == ExitCode.OK
    change(raw)
    assert prepare(CLASSES) == ExitCode.DATA
    assert "prepared from other files or with other words" in capsys.readouterr().err


@pytest.mark.usefixtures("raw")
def test_a_table_that_pairs_otherwise_is_another_source(capsys) -> None:
    words = CLASSES, table("images/p0.jpg,masks/p0.png", "images/p1.jpg,masks/p1.png")
    assert prepare(*words) == ExitCode.OK
    table("images/p0.jpg,masks/p1.png", "images/p1.jpg,masks/p0.png")  # of the same sizes
    assert prepare(*words) == ExitCode.DATA
    assert "prepared from other files" in capsys.readouterr().err


@pytest.mark.usefixtures("raw")
def test_a_value_typed_twice_is_refused(capsys) -> None:
    assert prepare(CLASSES, "values={0: 0, 0: 1}") == ExitCode.USAGE
    assert "values: the key '0' stands there twice" in capsys.readouterr().err


def test_palette_masks_that_contradict_the_colours_are_refused(raw: Path, capsys) -> None:
    """In a folder that says both, the labels came out inverted."""
    image = Image.fromarray(BINARY, "P")
    image.putpalette([0, 128, 0, 0, 0, 0])
    for name in NAMES:
        image.save(raw / f"masks/{name}.png")
    assert prepare(CLASSES, "colours=[[0,0,0],[0,128,0]]") == ExitCode.DATA
    told = capsys.readouterr().err
    assert "index 0 is label 0, but its colour (0, 128, 0) is the label 1 of colours" in told
    assert "'values={0: 0, 1: 1}'" in told
    words = "colours=[[0,0,0],[0,128,0]]", "values={0: 0, 1: 1}"
    assert prepare(CLASSES, *words) == ExitCode.OK
    assert all(np.array_equal(label, BINARY) for label in labels_of())


@pytest.mark.usefixtures("raw")
def test_void_has_a_colour_that_no_class_has() -> None:
    assert prepare(CLASSES, "colours=[[0,0,0],[224,224,192]]", "values={0: 0, 1: 1, 255: 255}") == 0
    assert all(np.array_equal(label, LABELS) for label in labels_of())


def test_a_place_that_holds_something_else_is_left_alone(raw: Path, capsys) -> None:
    assert main(["data", "prepare", "folder", "from=raw", "root=raw", CLASSES]) == ExitCode.DATA
    assert "raw: holds something else already" in capsys.readouterr().err
    assert sorted(p.name for p in raw.iterdir()) == ["images", "masks"]


class Killed(BaseException):
    """What no handler sees."""


def kill(*_: object) -> None:
    raise Killed


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize(
    ("moment", "moved"),
    [
        ("segkit.prepare.folder._description", False),
        ("segkit.prepare.folder.Path.rename", False),
        ("segkit.prepare.claim._survey", True),
    ],
)
def test_a_kill_leaves_nothing_half_made(monkeypatch, moment: str, moved: bool) -> None:
    assert prepare(CLASSES, "root=data/clean") == ExitCode.OK
    with monkeypatch.context() as patch:
        patch.setattr(moment, kill)
        with pytest.raises(Killed):
            prepare(CLASSES)
    assert not Path("data/mine", MANIFEST).exists()
    assert Path("data/mine").exists() == moved
    assert prepare(CLASSES) == ExitCode.OK
    for path in sorted(Path("data/clean").rglob("*")):
        twin = Path("data/mine") / path.relative_to("data/clean")
        assert path.is_dir() or path.read_bytes() == twin.read_bytes(), path
    assert not Path("data/.mine.preparing").exists()


@pytest.mark.usefixtures("raw")
def test_a_kill_and_then_other_words(monkeypatch) -> None:
    """What a killed call had ready is not taken for what is asked for now."""
    with monkeypatch.context() as patch:
        patch.setattr("segkit.prepare.folder.Path.rename", kill)
        with pytest.raises(Killed):
            prepare(CLASSES)
    assert prepare("classes=[ground,leaf]") == ExitCode.OK
    assert Folder("data/mine").labels.names == ("ground", "leaf")


def test_the_lists_of_the_source_are_kept(raw: Path) -> None:
    (raw / "train.txt").write_text("p0\np1.jpg\n")
    (raw / "val.txt").write_text("p5\n")
    (raw / "classes.txt").write_text("background\nleaf\n")
    assert prepare() == ExitCode.OK
    assert Path("data/mine/train.txt").read_text() == "p0\np1\n"
    assert Path("data/mine/val.txt").read_text() == "p5\n"


def table(*lines: str) -> str:
    Path("raw/pairs.csv").write_text("\n".join(lines))
    return "pairs=pairs.csv"


@pytest.mark.parametrize(
    "lines",
    [
        ["image,mask", "photos/a.jpg,drawn/1.png", "photos/b.jpg,drawn/2.png"],
        ["\ufeffImage;Mask", "", "photos/a.jpg; drawn/1.png", "photos/b.jpg;drawn/2.png", ""],
        ["photos/a.jpg\tdrawn/1.png", "photos/b.jpg\tdrawn/2.png"],
        ['"photos/a.jpg","drawn/1.png"', "photos/b.jpg,drawn/2.png"],
    ],
    ids=["header", "semicolons", "tabs", "quotes"],
)
def test_pairs_by_a_table(raw: Path, lines: list[str]) -> None:
    for place, name in (("photos", "ab"), ("drawn", "12")):
        for old, new in zip(NAMES, name, strict=False):
            ending = "jpg" if place == "photos" else "png"
            kind = "images" if place == "photos" else "masks"
            (raw / place).mkdir(exist_ok=True)
            shutil.copy(raw / kind / f"{old}.{ending}", raw / place / f"{new}.{ending}")
    assert prepare(CLASSES, table(*lines)) == ExitCode.OK
    assert Folder("data/mine", "all").ids.tolist() == ["photos/a", "photos/b"]
    assert np.array_equal(labels_of()[1], LABELS)


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        ([], ExitCode.DATA, "empty file"),
        (["image,mask"], ExitCode.DATA, "names no pair"),
        (["images/p0.jpg"], ExitCode.DATA, "line 1 is no pair: images/p0.jpg"),
        (["images/p0.jpg,masks/no.png"], ExitCode.DATA, "line 1: masks/no.png is not there"),
        (["images/p0.jpg,../x.png"], ExitCode.REFUSED, "line 1: '../x.png' leaves raw"),
        (["image,mask", "/etc/passwd,masks/p0.png"], ExitCode.REFUSED, "line 2: '/etc/passwd'"),
        (["masks/../images/p0.jpg,masks/p0.png"], ExitCode.REFUSED, "leaves raw"),
        (["images/p0.jpg,masks/p0.png"] * 2, ExitCode.DATA, "up to the ending"),
        (
            ["image,mask", "images/p0.jpg,masks/p0.png", "images/p1.jpg,./masks/p0.png"],
            ExitCode.DATA,
            "lines 2 and 3 name one mask for two images: masks/p0.png",
        ),
        (["pairs.csv,masks/p0.png"], ExitCode.DATA, "line 1: pairs.csv is no image"),
        (["images/p0.jpg,masks/p0.png"], ExitCode.DATA, "cannot be both trained on and scored"),
        (["images/p0.jpg,images/p1.jpg", "images/p1.jpg,images/p2.jpg"], ExitCode.DATA, "lossy"),
    ],
)
@pytest.mark.usefixtures("raw")
def test_bad_tables(capsys, lines: list[str], code: ExitCode, told: str) -> None:
    assert prepare(CLASSES, table(*lines)) == code
    assert told in capsys.readouterr().err
    assert not Path("data/mine").exists()


def test_many_classes_need_sixteen_bits(raw: Path) -> None:
    masks_become(np.array([[0, 299, 65535, 255]] * 2, np.uint16))
    (raw / "classes.txt").write_text("".join(f"c{n}\n" for n in range(300)))
    assert prepare() == ExitCode.OK
    assert labels_of()[0][0].tolist() == [0, 299, 65535, 255]


@pytest.mark.usefixtures("raw")
def test_the_manifest_counts() -> None:
    assert prepare(CLASSES) == ExitCode.OK
    record = json.loads(Path("data/mine", MANIFEST).read_text())["sets"]["folder"]
    pixels = [facts["pixels"] for facts in record["splits"].values()]
    assert sum(p["leaf"] for p in pixels) == 6 * 3
    assert sum(p["(ignored)"] for p in pixels) == 6


def test_help_names_every_key(capsys) -> None:
    assert main(["data", "prepare", "folder", "--help"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert all(f"{key}=" in said for key in folder.KEYS)
