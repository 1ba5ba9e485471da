"""A second call of the same prediction does what the first did not, or would do otherwise."""

import json
import shutil
from pathlib import Path

import pytest
from predicting import film, found, last_line, picture, predict

from segkit.finished import Finished


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def times() -> dict[str, int]:
    return {name: (Path("out") / name).stat().st_mtime_ns for name in found()}


def test_a_second_call_does_the_rest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        picture(f"p/{number}.png", number)
    assert predict(run, "p") == 0
    assert said(capsys) == "3 predictions in out"
    before = times()
    picture("p/3.png", 3)
    picture("p/1.png", 100)  # another picture of that name
    Path("out/labels/2.png").unlink()
    assert predict(run, "p") == 0
    assert said(capsys) == "3 predictions (1 of 4 were there already) in out"
    after = times()
    assert {name for name in after if after[name] == before.get(name)} == {
        "labels/0.png",
        "overlay/0.png",
    }


SLOW = [pytest.param(word, marks=pytest.mark.slow) for word in ("os=16", "eval.pad=null")]


@pytest.mark.parametrize("word", ["flip=true", "crf=true", *SLOW])
def test_another_protocol_is_another_result(
    run: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    picture("a.png")
    assert predict(run, "a.png", "probabilities=true") == 0
    assert predict(run, "a.png", word) == 0
    assert said(capsys) == "1 prediction in out"
    assert not found("*.npz"), "what belongs to other label maps does not lie beside these"
    assert predict(run, "a.png", word) == 0
    assert said(capsys) == "0 predictions (1 of 1 were there already) in out"


def test_other_weights_are_another_result(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("a.png")
    assert predict(run, "a.png") == 0
    for step in sorted(run.glob("checkpoints/step-*"))[:1]:
        assert predict(step, "a.png") == 0
        assert said(capsys) == "1 prediction in out"
    shutil.copytree(run, here / "moved")
    assert predict(here / "moved" / "checkpoints" / step.name, "a.png") == 0
    assert "1 of 1 were there already" in said(capsys), "a moved run is the same one"


def test_what_was_not_asked_for_before_is_made(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("a.png")
    assert predict(run, "a.png", "overlay=false") == 0
    assert predict(run, "a.png") == 0
    assert said(capsys) == "1 prediction in out"
    assert predict(run, "a.png", "overlay=false") == 0
    assert "1 of 1 were there already" in said(capsys)
    assert found() == ["labels/a.png", "overlay/a.png"]


def test_a_film_is_finished_by_the_second_call(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film(Path("clip.avi"), 5)
    assert predict(run, "clip.avi") == 0
    whole = Path("out/overlay/clip.mp4").read_bytes()
    for name in ("labels/clip/frame-000003.png", "overlay/clip.mp4"):
        (Path("out") / name).unlink()
    assert predict(run, "clip.avi") == 0
    assert said(capsys) == "1 prediction (4 of 5 were there already) in out"
    assert Path("out/overlay/clip.mp4").read_bytes() == whole
    before = times()
    assert predict(run, "clip.avi") == 0
    assert said(capsys) == "0 predictions (5 of 5 were there already) in out"
    assert times() == before


def test_a_name_that_has_another_files_result_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = picture("mon/IMG_1.jpg", 1).absolute()
    picture("tue/IMG_1.png", 2)
    picture("tue/IMG_2.png", 3)
    assert predict(run, "mon") == 0
    before = times()
    assert predict(run, "tue") == 3
    line = last_line(capsys)
    assert line.startswith("segkit: error[DATA-INPUTS]: tue/IMG_1.png: out/labels/IMG_1.png is the")
    assert f"is the result of {first}" in line
    assert "type out=" in line
    after = times()
    assert {name: after[name] for name in before} == before
    assert "labels/IMG_2.png" in after, "the others are done"
    Path("mon").rename("moved")
    assert predict(run, "moved") == 0, "the same bytes have the same result"
    assert said(capsys) == "0 predictions (1 of 1 were there already) in out"


def test_a_video_does_not_take_the_place_of_anothers_frames(run: Path) -> None:
    film(Path("clip.avi"), 3)
    assert predict(run, "clip.avi") == 0
    before = times()
    Path("other").mkdir()
    film(Path("other/clip.avi"), 2)
    assert predict(run, "other/clip.avi", "flip=true") == 3
    assert times() == before
    assert found("*.mp4") == ["overlay/clip.mp4"]


def test_nothing_of_another_protocol_stays_beside_a_videos_new_frames(run: Path) -> None:
    film(Path("clip.avi"), 4)
    assert predict(run, "clip.avi") == 0
    assert predict(run, "clip.avi", "every=2", "overlay=false", "flip=true") == 0
    left = [f"labels/clip/frame-00000{i}.png" for i in (0, 2)]
    assert found() == left
    assert not found("*.mp4")
    lines = Path("out/predictions.jsonl").read_bytes().splitlines()
    assert predict(run, "clip.avi", "every=2", "overlay=false", "flip=true") == 0
    kept = Path("out/predictions.jsonl").read_bytes().splitlines()
    assert (len(kept), len(lines)) == (2, 10), "4 + film, 2, and 3 that say what is gone"


def test_a_video_that_breaks_off_has_no_film_and_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(Path("clip.avi"), 20, (320, 240))
    assert predict(run, "clip.avi", "every=6") == 0
    assert found("*.mp4") == ["overlay/clip.mp4"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    assert predict(run, "clip.avi", "every=6") == 3
    assert "; no film is made of its " in last_line(capsys)
    assert not found("*.mp4"), "that of the whole video is not its film"


@pytest.mark.parametrize(
    "tail",
    [b'{"id": "b", "cont', b"\xff\xfe\n", b"[1, 2]\n", b'{"id": 7}\n', b"\n\n", b"[" * 100_000],
)
def test_a_torn_record_costs_a_picture_at_the_most(
    run: Path, capsys: pytest.CaptureFixture[str], tail: bytes
) -> None:
    for name in "abc":
        picture(f"p/{name}.png")
    assert predict(run, "p") == 0
    record = Path("out/predictions.jsonl")
    lines = record.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c"]
    record.write_bytes(lines[0] + lines[1] + tail)
    assert predict(run, "p") == 0
    assert said(capsys) == "1 prediction (2 of 3 were there already) in out"
    kept = [json.loads(line)["id"] for line in record.read_bytes().splitlines()]
    assert kept == ["a", "b", "c"]


def test_what_a_killed_call_left_half_written_is_removed(run: Path) -> None:
    picture("p/in/a.png")
    picture("p/b.png")
    assert predict(run, "p") == 0
    left = "overlay/in/.a.png.0123456789ab.tmp", ".predictions.jsonl.0123456789ab.tmp"
    for name in left:
        (Path("out") / name).write_text("torn")
    (Path("out/overlay/.clip.mp4.0123456789ab.tmp")).mkdir()
    (Path("out/overlay/.mine.tmp")).touch()
    assert predict(run, "p") == 0
    assert found(".*.tmp") == ["overlay/.mine.tmp"]


def test_one_process_at_a_time_writes_into_a_folder(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("a.png")
    other = Finished(Path("out"), "x", [])
    assert predict(run, "a.png") == 6
    assert "ENV-OUT-LOCKED" in last_line(capsys)
    other.release()
    assert predict(run, "a.png") == 0


def test_a_record_that_is_a_link_is_refused(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = here / "precious"
    precious.write_text("mine")
    Path("out").mkdir()
    Path("out/predictions.jsonl").symlink_to(precious)
    picture("a.png")
    assert predict(run, "a.png") == 7
    assert "predictions.jsonl" in last_line(capsys)
    assert precious.read_text() == "mine"
