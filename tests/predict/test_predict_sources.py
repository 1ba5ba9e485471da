"""What the words after ``segkit predict`` mean: files, folders, patterns, lists and videos."""

from pathlib import Path

import cv2
import pytest
from predicting import film, piped

from segkit.data.video import SUFFIXES, Video
from segkit.errors import ConfigError, DataError, RefusedError
from segkit.finished import RECORD
from segkit.sources import Found, listed, sources_of


def touch(*names: str) -> None:
    """Files that begin as a picture or a video does."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        is_video = Path(name).suffix.lower() in SUFFIXES
        Path(name).write_bytes(b"\0\0\0\x18ftypmp42" if is_video else b"\xff\xd8\xff\xe0")


def names(found: Found) -> list[str]:
    return [source.name for source in found.sources]  # type: ignore[attr-defined]


def frames_of(path: Path, every: int = 1) -> list[tuple[int, int]]:
    """(number, grey to the nearest ten) of every frame."""
    video = Video(path)
    seen = video.frames(lambda number: number % every == 0)
    return [(number, round(float(rgb.mean()), -1)) for number, rgb in seen]


# -- files, folders, patterns --------------------------------------------------------------------


def test_a_folder_is_searched_in_all_its_depth_and_hidden_names_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    touch("p/b.PNG", "p/a.jpg", "p/in/c.jpeg", "p/in/d.mp4", "p/.x.png", "p/.git/y.png")
    touch("p/notes.txt", "p/scan.tif", "p/new.webp")
    assert names(sources_of(["p"], 1)) == ["a", "b", "in/c", "in/d"]
    assert "p: 2 pictures of other kinds are left out (.tif, .webp)" in capsys.readouterr().err


def test_patterns_find_pictures_at_any_depth() -> None:
    touch("p/a.jpg", "p/in/b.jpg", "p/in/c.png", "p/d.txt", "p/.in/e.jpg")
    assert names(sources_of(["p/**/*.jpg"], 1)) == ["a", "in/b"]
    assert names(sources_of(["p/**"], 1)) == ["a", "in/b", "in/c"]
    touch("p/[1].jpg")  # a file's own name is no pattern
    assert names(sources_of(["p/[1].jpg"], 1)) == ["[1]"]


def test_patterns_search_folders_and_say_what_they_leave_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    touch("p/one/a.jpg", "p/two/in/b.jpg", "p/one/scan.tif", "p/new.heic")
    Path("p/empty").mkdir()
    assert names(sources_of(["p/*"], 1)) == ["one/a", "two/in/b"]
    said = "p/*: 2 pictures of other kinds are left out (.heic, .tif)"
    assert capsys.readouterr().err.count(said) == 1
    [fault] = sources_of(["p/*.heic"], 1).faults
    assert "p/*.heic: matches no picture or video" in str(fault)
    assert "p/*.heic: 1 picture of other kinds is left out (.heic)" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["p", "p*"])
def test_linked_folders_are_not_searched_and_counted(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    touch("p/a.jpg", "else/b.jpg", "else/in/c.jpg")
    for name in ("p/one", "p/two", "p/.hidden"):
        Path(name).symlink_to(Path("else").absolute())
    assert names(sources_of([word], 1)) == ["a"]
    assert f"{word}: 2 linked folders are not searched" in capsys.readouterr().err
    assert names(sources_of(["p/one"], 1)) == ["b", "in/c"], "typed, it is"


def test_what_is_no_picture_has_no_say_in_the_names() -> None:
    touch("p/in/a.jpg", "p/in/b.jpg")
    Path("q").mkdir()
    Path("q/text.png").write_text("hello")
    Path("q/empty.mp4").touch()
    Path("q/gone.jpg").symlink_to("nowhere")
    broken = ["q/text.png", "q/empty.mp4", "q/gone.jpg", "q/none.jpg"]
    found = sources_of([*broken, "p/in"], 1)
    assert names(found)[-2:] == ["a", "b"]
    assert found.total == 6
    for source in found.sources[:3]:
        with pytest.raises(DataError):
            list(source.photos(lambda *_: False))


def test_results_of_a_prediction_are_no_input_of_the_next() -> None:
    touch("p/a.jpg", "p/out/labels/a.png", "p/out/overlay/a.png", f"p/out/{RECORD}")
    touch("p/labels/mine.png")  # a folder of that name is a result only beside the record
    assert names(sources_of(["p"], 1)) == ["a", "labels/mine"]
    assert names(sources_of(["p/**/*.png"], 1)) == ["mine"]
    touch(f"p/{RECORD}")
    assert names(sources_of(["p"], 1)) == ["a"]


def test_every_file_counts_once_and_has_a_name_of_its_own() -> None:
    touch("p/x.jpg", "q/x.jpg", "q/x.png")
    found = sources_of(["p", "p/x.jpg", "q/*", "./q/../p/x.jpg"], 1)
    assert names(found) == ["p/x", "q/x.jpg", "q/x.png"]


def test_frames_and_pictures_never_share_a_name() -> None:
    touch("p/clip.mp4", "p/clip/frame-000000.png", "p/other.mp4", "q/other.mp4")
    assert names(sources_of(["p", "q"], 1)) == [
        "p/clip/frame-000000",
        "p/clip.mp4",
        "p/other",
        "q/other",
    ]


def test_no_folder_has_the_name_of_a_result() -> None:
    touch(
        "p/pic.jpg",
        "p/pic.png/z.jpg",
        "p/clip.mov",
        "p/clip.mp4/ok.jpg",
        "p/x.jpg",
        "p/x.npz/y.jpg",
    )
    touch("p/in/v.jpg", "p/in/v.png.mp4")
    assert names(sources_of(["p"], 1)) == [
        "clip.mov",
        "clip.mp4/ok",
        "in/v.jpg",
        "in/v.png",
        "pic.jpg",
        "pic.png/z",
        "x.jpg",
        "x.npz/y",
    ]


@pytest.mark.parametrize(
    ("word", "fault", "says"),
    [
        ("nowhere.jpg", "DATA-MISSING", "no such file"),
        ("empty", "DATA-EMPTY", "holds no picture"),
        ("*.gif", "DATA-EMPTY", "matches no picture"),
        ("a\0b", "DATA-", "a"),
    ],
)
def test_a_word_that_means_nothing_is_named_and_the_others_count(
    word: str, fault: str, says: str
) -> None:
    Path("empty").mkdir()
    touch("a.png")
    found = sources_of([word, "a.png"], 1)
    assert names(found) == ["a"]
    assert found.total == 2
    [error] = found.faults
    assert error.id.startswith(fault)
    assert says in str(error)
    assert error.where == word


def test_no_word_at_all() -> None:
    with pytest.raises(ConfigError, match="standard input"):
        sources_of([], 1)


def test_a_folder_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the system's own answer is put there."""
    import os

    touch("p/a.png", "p/shut/b.png")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = sources_of(["p"], 1)
    assert names(found) == ["a"]
    assert [str(fault) for fault in found.faults] == ["p/shut: Permission denied"]


# -- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"a.png\nb c.png\n", b"\n\na.png\r\n  \nb c.png", b"a.png\0b c.png\0", b"a.png\0b c.png"],
)
def test_a_list_has_a_path_a_line_or_nuls_between(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    touch("a.png", "b c.png")
    piped(monkeypatch, content)
    assert names(sources_of(["-"], 1)) == ["a", "b c"]


def test_a_list_names_folders_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("p/a.png", "b.png")
    Path("empty").mkdir()
    piped(monkeypatch, b"p\ngone.png\nb.png\nempty\n*.png\n~/.ssh/config\n")
    found = sources_of(["-"], 1)
    assert names(found) == ["p/a", "b"]
    assert [fault.where for fault in found.faults] == [
        "gone.png",
        "empty",
        "*.png",
        "~/.ssh/config",
    ]


def test_blanks_around_a_name_in_a_list_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("a.png", " b.png")
    piped(monkeypatch, b" a.png\n b.png\nc.png \n")
    found = sources_of(["-"], 1)
    assert [str(source.where) for source in found.sources] == [" b.png"], "a name may have them"
    blank, gone = map(str, found.faults)
    assert blank.startswith("' a.png': no such file or folder; there is 'a.png': remove the blanks")
    assert "blanks" not in gone


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\0\0"])
def test_a_list_of_nothing(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    piped(monkeypatch, content)
    found = sources_of(["-"], 1)
    assert [fault.id for fault in found.faults] == ["DATA-EMPTY"]
    assert found.faults[0].where == "standard input"


def test_a_list_has_a_budget() -> None:
    with pytest.raises(DataError, match="more than"):
        listed(b"x" * (64 * 2**20 + 1))


# -- videos --------------------------------------------------------------------------------------


def test_frames_have_their_numbers_and_pixels(here: Path) -> None:
    path = film(here / "a.avi", 7)
    assert frames_of(path) == [(i, 10 * i) for i in range(7)]
    assert frames_of(path, every=3) == [(0, 0), (3, 30), (6, 60)]
    [source] = sources_of(["a.avi"], 3).sources
    seen = list(source.photos(lambda name, _: name.endswith("3")))
    assert [photo.id for photo in seen] == ["a/frame-000000", "a/frame-000006"]
    assert source.expected == 3
    assert source.frames == [f"a/frame-00000{i}" for i in (0, 3, 6)]  # type: ignore[attr-defined]
    assert len({photo.content for photo in seen}) == 2


def test_a_colon_in_a_name_is_no_address(here: Path) -> None:
    film(here / "a.avi", 3).rename(here / "tcp:x.avi")
    assert len(frames_of(Path("tcp:x.avi"))) == 3


@pytest.mark.parametrize("share", [0.7, 0.85])
def test_a_video_cut_short_gives_its_frames_and_then_says_so(here: Path, share: float) -> None:
    whole = film(here / "a.avi", 20, (320, 240)).read_bytes()
    (here / "a.avi").write_bytes(whole[: int(share * len(whole))])
    frames = Video(here / "a.avi").frames(lambda _: True)
    assert next(frames)[0] == 0
    with pytest.raises(DataError, match="of the 20 that its header claims") as fault:
        list(frames)
    assert fault.value.where == str(here / "a.avi")


@pytest.mark.parametrize(
    "content",
    [
        b"not a video",
        b"#EXTM3U\n#EXT-X-VERSION:3\nhttp://localhost/x.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\0\0\0\x18ftypmp42" + bytes(400),
        b"RIFF\x10\0\0\0AVI LIST",
        b"\x1aE\xdf\xa3" + bytes(100),
    ],
)
def test_what_is_no_video_is_named(
    here: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = here / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError) as fault:
        list(Video(path).frames(lambda _: True))
    assert fault.value.where == str(path)
    assert not capfd.readouterr().err, "the library's own words are not for users"


def test_a_video_without_a_frame_is_damaged(here: Path) -> None:
    path = here / "a.mp4"
    code = cv2.VideoWriter.fourcc(*"mp4v")
    cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10, (32, 24)).release()
    with pytest.raises(DataError, match="damaged video"):
        list(Video(path).frames(lambda _: True))


def test_large_frames_are_refused_before_they_are_decoded(here: Path) -> None:
    path = film(here / "a.avi", 2)
    with pytest.raises(RefusedError, match="32x24"):
        Video(path, max_pixels=500)
