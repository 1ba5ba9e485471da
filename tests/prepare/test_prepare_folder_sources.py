"""``segkit data prepare folder`` on sources and places that are not as they should be."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.cli import main
from segkit.data.folder import Folder
from segkit.errors import ExitCode
from segkit.prepare import folder

MASK = np.array([[0, 1, 1, 0], [1, 0, 0, 0]], np.uint8)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def random_rgb(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def add(name: str, ending: str = "png") -> None:
    write(Path(f"raw/images/{name}.{ending}"), png(random_rgb(2, 4)))
    write(Path(f"raw/masks/{name}.png"), png(MASK))


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abcdef":
        add(name)


def prepare(*words: str, root: str = "data/mine") -> int:
    first = ["data", "prepare", "folder", "from=raw", f"root={root}"]
    return main([*first, *(words or ["classes=[background,leaf]"])])


def ids(split: str) -> list[str]:
    return Folder("data/mine", split).ids.tolist()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ('["le,af",bg]', ("le,af", "bg")),
        ("['a b', it's]", ("a b", "it's")),
        ("Straße, Baum", ("Straße", "Baum")),
    ],
)
def test_names_of_classes_may_be_quoted(words: str, names: tuple[str, ...]) -> None:
    assert prepare(f"classes={words}") == ExitCode.OK
    assert Folder("data/mine").labels.names == names


@pytest.mark.parametrize("words", ['["a"b,c]', "[a,b", '["a,b]', "[a,,b]", "[[a],b]"])
def test_names_half_quoted_are_refused(capsys, words: str) -> None:
    assert prepare(f"classes={words}") == ExitCode.USAGE
    assert "[CFG-TYPE]: classes:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["#hash", " lead", "tail ", "new\nline", "bad\udcff", ".h/x"])
def test_a_name_that_no_list_holds_is_refused_before_any_work(capsys, name: str) -> None:
    if name == ".h/x":
        write(
            Path("raw/p.csv"), b"raw,mask\n".replace(b"raw", b"image") + b".h/x.png,masks/a.png\n"
        )
        write(Path("raw/.h/x.png"), png(random_rgb(2, 4)))
        code = prepare("classes=[a,b]", "pairs=p.csv")
    else:
        add(name)
        code = prepare()
    assert code == ExitCode.DATA
    told = capsys.readouterr().err
    assert "[DATA-NAME]" in told
    assert "no list can hold; rename it" in told
    assert not Path("data").exists()


def test_unusual_names_are_kept() -> None:
    """A screenshot of macOS has a narrow blank; folders have blanks; endings are doubled."""
    names = ["at 9.41\u202fPM", "my trip/day one/x", "my a/b c/1", "x", "x.jpg", "ü (1)"]
    for name in names:
        add(name, "jpg" if name.startswith("x") else "png")
    for path in Path("raw/images").glob("x*"):
        Image.fromarray(random_rgb(2, 4)).save(path, "JPEG")
    assert prepare() == ExitCode.OK
    train, val = ids("train"), ids("val")
    assert not set(train) & set(val)
    assert sorted(train + val) == sorted([*names, *"abcdef"]) == ids("all")


@pytest.mark.parametrize("ending", ["tif", "WEBP", "bmp", "heic"])
def test_other_kinds_of_pictures_are_counted(capsys, ending: str) -> None:
    for name in "xyz":
        write(Path(f"raw/images/{name}.{ending}"), b"picture")
    assert prepare() == ExitCode.DATA
    told = capsys.readouterr().err
    assert f"3 pictures are neither JPEG nor PNG: x.{ending}" in told
    assert "convert photos to JPEG or PNG" in told
    for name in "xyz":
        add(name)
    assert prepare() == ExitCode.OK, "each is there as PNG too"


def test_lists_that_overlap_are_refused_and_the_rest_is_counted(capsys) -> None:
    write(Path("raw/train.txt"), b"a\nb\nc\n")
    write(Path("raw/val.txt"), b"c\nd\n")
    assert prepare() == ExitCode.DATA
    assert "val.txt: 1 of its names are in train.txt too: c" in capsys.readouterr().err
    write(Path("raw/val.txt"), b"d\n")
    assert prepare() == ExitCode.OK
    assert "2 photos are in neither list" in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["masks/a.png", "images/a.png", "dataset.yaml", "val.txt"])
def test_a_damaged_set_is_told_before_any_work(capsys, monkeypatch, lost: str) -> None:
    assert prepare() == ExitCode.OK
    Path("data/mine", lost).unlink()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(folder, "each", None)
        assert prepare() == ExitCode.DATA
    told = capsys.readouterr().err
    assert "[DATA-DAMAGED]" in told
    assert "remove data/mine and type the command again" in told
    assert [p.name for p in Path("data").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("root", "told"),
    [
        (".", "is the folder you are in"),
        ("/", "is above where you are"),
        ("raw/images/made", "lies in raw/images, which is read"),
        ("raw/masks", "lies in raw/masks, which is read"),
    ],
)
def test_places_that_are_refused(capsys, root: str, told: str) -> None:
    before = sorted(Path().rglob("*"))
    assert prepare(root=root) == ExitCode.DATA
    assert told in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_what_a_stopped_call_has_made_is_kept(monkeypatch) -> None:
    made: list[str] = []
    convert = folder.index_png

    def counted(*arguments: object) -> bytes:
        made.append("mask")
        if len(made) == 4:
            raise KeyboardInterrupt
        return convert(*arguments)

    monkeypatch.setattr("segkit.prepare.progress._MOST_THREADS", 1)
    monkeypatch.setattr(folder, "index_png", counted)
    with pytest.raises(KeyboardInterrupt):
        folder.prepare(
            folder.requested(["from=raw", "root=data/mine", "classes=[background,leaf]"])
        )
    finished = len(list(Path("data/.mine.preparing/set/masks").glob("*.png")))
    assert finished >= 3
    made[:] = ["mask"] * 10
    assert prepare() == ExitCode.OK
    assert len(made) - 10 == 6 - finished
    assert ids("all") == list("abcdef")
    assert [p.name for p in Path("data").iterdir()] == ["mine"]
