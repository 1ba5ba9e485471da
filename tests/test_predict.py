"""``segkit predict``: what is written, what a broken input costs, and where nothing may go."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from once import loaded_once
from PIL import Image
from test_predict_sources import film

import segkit
from segkit import cli, parts, restored
from segkit.data.images import read_image
from segkit.errors import EnvironmentFault
from segkit.inference.predictor import Predictor
from segkit.segmenting import Segmenting

TINY = (
    *("experiment=quickstart", "name=tiny", "dataset.size=33", "dataset.count=8"),
    *("dataset.val.count=2", "augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu"),
    *("schedule.stages.0.steps=2", "schedule.stages.1.steps=1", "log.tensorboard=false"),
    "eval.every=null",
)
SIZE = (41, 33)  # width, height; sides that need no padding at output stride 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    assert cli.main(["train", *TINY, f"runs={folder}"]) == 0
    return folder / "tiny"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    loaded_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path: str, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return Path(path)


def predict(run: Path, *words: str) -> int:
    return cli.main(["predict", f"ckpt={run}", "out=out", "device=cpu", *words])


def found(suffix: str = "*.png") -> list[str]:
    return sorted(str(path.relative_to("out")) for path in Path("out").rglob(suffix))


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


# -- what is written -----------------------------------------------------------------------------


def test_labels_are_the_networks_and_probabilities_lead_to_them(run: Path) -> None:
    path = picture("p/a.png")
    assert predict(run, "p", "probabilities=true", "overlay=false") == 0
    assert found("*.*") == [".lock", "labels/a.png", "predictions.jsonl", "probabilities/a.npz"]
    labels = np.asarray(Image.open("out/labels/a.png"))
    with np.load("out/probabilities/a.npz", allow_pickle=False) as stored:
        probabilities, names = stored["probabilities"], stored["names"]
    net = segkit.load(run)
    assert names.tolist() == list(net.labels.names)
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (7, *SIZE[::-1]))
    with torch.no_grad():
        own = net(net.preprocess(path))[0].softmax(0).numpy()
    assert np.abs(own - probabilities).max() < 1e-3
    best = np.take_along_axis(probabilities, labels[None].astype(int), 0)[0]
    assert (best == probabilities.max(0)).all()
    assert (labels == own.argmax(0)).mean() > 0.99


def test_the_protocol_is_the_evaluations(run: Path) -> None:
    """The label maps of both are the same, for the same words."""
    words = ["ms=true", "flip=true", "os=8"]
    evaluation = [f"ckpt={run}", "out=score", "workers=0", "eval.save_predictions=true", *words]
    assert cli.main(["eval", *evaluation, "eval.report=false", "device=cpu"]) == 0
    trained = restored.load(
        restored.find(str(run), "runs", "last"),
        os=None,
        device=torch.device("cpu"),
        config_dir=None,
    )
    dataset = parts.dataset_of(trained.config.values, "val")
    for index, name in enumerate(dataset.ids):
        Image.fromarray(dataset.read(index)[0]).save(f"{name}.png")
    assert predict(run, *(f"{name}.png" for name in dataset.ids), *words) == 0
    for name in dataset.ids:
        ours = np.asarray(Image.open(f"out/labels/{name}.png"))
        theirs = np.asarray(Image.open(f"score/predictions/{name}.png"))
        assert np.array_equal(ours, theirs)


def test_a_strip_shows_the_mean_field_on_its_way(run: Path) -> None:
    picture("a.png")
    assert predict(run, "a.png", "crf=true", "strip=true") == 0
    strip = Image.open("out/strip/a.png")
    tile = np.asarray(strip)[:, : strip.width // 6]
    assert strip.width > 6 * 300, "image, unary and four states side by side"
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) > 100, "the image comes first"


def test_a_strip_without_a_crf_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture("a.png")
    assert predict(run, "a.png", "strip=true") == 2
    assert "crf=true" in last_line(capsys)


def test_a_video_gives_frames_and_a_film(run: Path) -> None:
    film(Path("clip.avi"), 9)
    assert predict(run, "clip.avi", "every=4") == 0
    frames = [f"clip/frame-00000{i}" for i in (0, 4, 8)]
    assert found() == sorted(f"{kind}/{f}.png" for kind in ("labels", "overlay") for f in frames)
    assert found("*.mp4") == ["overlay/clip.mp4"]
    import cv2

    made = cv2.VideoCapture("out/overlay/clip.mp4")
    assert made.get(cv2.CAP_PROP_FPS) == pytest.approx(2.5)
    count = 0
    while (read := made.read())[0]:
        shown = read[1][..., ::-1].astype(float)
        wanted = read_image(f"out/overlay/{frames[count]}.png")
        assert np.abs(shown - wanted).mean() < 25, "the overlay, as well as the codec can"
        count += 1
    assert count == 3


def test_no_codec_is_no_reason_to_fail(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segkit.report import video

    film(Path("clip.avi"), 3)
    monkeypatch.setattr(video, "_CODEC", "????")
    assert predict(run, "clip.avi") == 0
    assert len(found()) == 6
    assert not found("*.mp4")
    assert not [path for path in found(".*") if path.endswith(".tmp")]


KINDS = {
    "grey": lambda rgb: rgb.convert("L"),
    "palette": lambda rgb: rgb.quantize(16),
    "opaque": lambda rgb: rgb.convert("RGBA"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_other_modes(run: Path, kind: str) -> None:
    rgb = Image.open(picture("a.png"))
    KINDS[kind](rgb).save("b.png")
    assert predict(run, "b.png") == 0
    assert Image.open("out/labels/b.png").size == SIZE


def test_a_turned_picture_is_seen_upright(run: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :30] = 255  # on its side: the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save("t.jpg", exif=exif, quality=95)
    assert predict(run, "t.jpg") == 0
    labels = np.asarray(Image.open("out/labels/t.png"))
    shown = np.asarray(Image.open("out/overlay/t.png")).astype(int)
    assert labels.shape == (60, 20)
    assert shown[:25].mean() > shown[35:].mean() + 50, "the overlay lies over what a viewer shows"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frames(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    write = Segmenting._write

    def watched(self: Segmenting, *done: Any) -> None:
        write(self, *done)
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)

    monkeypatch.setattr(Segmenting, "_write", watched)
    film(Path("clip.avi"), 300)
    assert predict(run, "clip.avi") == 0
    assert len(held) == 300
    assert held[-1] - held[50] < 10, "MiB"


# -- broken inputs -------------------------------------------------------------------------------


def cut(path: str) -> None:
    content = picture("whole.jpg").read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    Path("whole.jpg").unlink()


def deep(path: str) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(path, "PNG")


def printed(path: str) -> None:
    Image.new("CMYK", (9, 9)).save(path, "JPEG")


def seen_through(path: str) -> None:
    Image.new("RGBA", (9, 9), (1, 2, 3, 4)).save(path, "PNG")


def many_pixels(path: str) -> None:
    import struct
    import zlib

    content = b"\x89PNG\r\n\x1a\n"
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    for chunk in (head, b"IDAT" + zlib.compress(bytes(100)), b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    Path(path).write_bytes(content)


BROKEN = {
    "cut.jpg": (cut, 3, "DATA-UNREADABLE", "damaged"),
    "deep.png": (deep, 3, "DATA-IMAGE-MODE", "16 bits"),
    "printed.jpg": (printed, 3, "DATA-IMAGE-MODE", "CMYK"),
    "seen_through.png": (seen_through, 3, "DATA-ALPHA", "not opaque"),
    "empty.png": (lambda path: Path(path).touch(), 3, "DATA-UNREADABLE", "empty"),
    "text.png": (lambda path: Path(path).write_text("hello"), 3, "DATA-UNREADABLE", "neither"),
    "bomb.png": (many_pixels, 7, "SAFE-PIXELS", "3600000000 pixels"),
    "link.png": (lambda path: Path(path).symlink_to("nowhere"), 3, "DATA-MISSING-FILE", "no such"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_alone(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make, code, error, says = BROKEN[name]
    make(name)
    assert predict(run, name) == code
    line = last_line(capsys)
    assert line.startswith(f"segkit: error[{error}]: {name}: ")
    assert says in line
    assert not found()


def test_broken_pictures_do_not_end_the_batch(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (make, *_) in BROKEN.items():
        make(name)
    for number in range(3):
        picture(f"z{number}.png", number)
    assert predict(run, *sorted(BROKEN), "z0.png", "z1.png", "gone.png", "z2.png") == 3
    out, err = capsys.readouterr()
    assert "3 predictions in out" in out
    said = err.splitlines()
    for name, (_, _, error, _) in BROKEN.items():
        assert [line for line in said if line.startswith(f"segkit: error[{error}]: {name}: ")]
    # A name that means nothing is known first; the last line counts and names the first.
    assert said[-1].startswith("segkit: error[DATA-INPUTS]: gone.png: no such file or folder")
    assert "9 of 12 inputs failed" in said[-1]
    assert len(found()) == 6


def test_faults_of_one_kind_keep_their_code(run: Path) -> None:
    many_pixels("a.png")
    many_pixels("b.png")
    picture("c.png")
    assert predict(run, "a.png", "b.png", "c.png") == 7
    assert found() == ["labels/c.png", "overlay/c.png"]


def test_a_picture_too_large_for_the_memory_is_named_and_the_others_are_done(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torch says it, at the largest of three."""
    labels = Predictor.labels

    def short(self: Predictor, images: list[torch.Tensor], **how: bool) -> list[torch.Tensor]:
        if images[0].shape[-1] > 50:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return labels(self, images, **how)

    monkeypatch.setattr(Predictor, "labels", short)
    for name, width in (("a.png", 20), ("b.png", 60), ("c.png", 20)):
        picture(name, size=(width, 20))
    assert predict(run, "a.png", "b.png", "c.png") == 6
    assert last_line(capsys).startswith("segkit: error[ENV-INPUTS]: b.png: out of memory")
    assert found() == [f"{kind}/{name}.png" for kind in ("labels", "overlay") for name in "ac"]


def test_a_full_disk_ends_the_batch(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from segkit import outputs

    def full(path: Path, data: bytes) -> None:
        raise EnvironmentFault("DISK-FULL", path, f"needs {len(data)} bytes")

    monkeypatch.setattr(outputs, "write_whole", full)
    picture("a.png")
    picture("b.png")
    assert predict(run, "a.png", "b.png") == 6
    assert last_line(capsys).startswith("segkit: error[ENV-DISK-FULL]: out/labels/a.png")


def test_several_processes_would_all_do_everything(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "start", lambda command, composed, _: cli.task(command)(composed))
    picture("a.png")
    assert predict(run, "a.png", "devices=2") == 2
    assert "CFG-DEVICES" in last_line(capsys)


# -- S14: names ----------------------------------------------------------------------------------


def test_names_from_elsewhere_stay_in_the_output_folder(run: Path, here: Path) -> None:
    inner = here / "deep" / "work"
    inner.mkdir(parents=True)
    picture("x.png")
    picture("abs/y.png", 1)
    before = {path for path in here.rglob("*") if "out" not in path.parts}
    import os

    os.chdir(inner)
    assert predict(run, "../../x.png", str(here / "abs/y.png")) == 0
    assert found() == [
        f"{kind}/{name}.png" for kind in ("labels", "overlay") for name in ("abs/y", "x")
    ]
    made = set(here.rglob("*")) - before
    assert all(path.is_relative_to(inner / "out") for path in made)


def test_names_that_no_system_takes_are_refused_and_the_others_done(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CON.png", "a\nb.png", "good.png"):
        picture(name)
    assert predict(run, "CON.png", "a\nb.png", "good.png") == 7
    err = capsys.readouterr().err
    assert "error[SAFE-PATH]: CON.png: " in err
    assert "error[SAFE-PATH]: a\\nb.png: " in err
    assert found() == ["labels/good.png", "overlay/good.png"]
    assert predict(run, ".") == 7, "the folder itself is searched, with the same names in it"


@pytest.mark.parametrize("place", ["out/labels/a.png", "out/overlay/a.png", "out/overlay"])
def test_a_link_at_the_target_is_refused_by_name(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    precious = here / "precious"
    precious.mkdir()
    (precious / "a.png").write_text("mine")
    Path(place).parent.mkdir(parents=True)
    Path(place).symlink_to(precious if place == "out/overlay" else precious / "a.png")
    picture("a.png")
    picture("b.png")
    assert predict(run, "a.png") == 7
    line = last_line(capsys)
    assert line.startswith("segkit: error[SAFE-PATH-LINK]: a.png: ")
    assert place in line
    assert (precious / "a.png").read_text() == "mine"
    assert [path.name for path in precious.iterdir()] == ["a.png"]


def test_a_list_that_names_what_is_no_picture(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_predict_sources import piped

    secret = here / "home/.ssh/config"
    secret.parent.mkdir(parents=True)
    secret.write_text("Host secret")
    picture("a.png")
    monkeypatch.setenv("HOME", str(here / "home"))
    piped(monkeypatch, f"~/.ssh/config\n{secret}\na.png\n".encode())
    assert predict(run, "-") == 3
    err = capsys.readouterr().err
    assert "error[DATA-MISSING]: ~/.ssh/config: no such" in err
    assert f"error[DATA-UNREADABLE]: {secret}: neither PNG nor JPEG" in err
    for path in Path("out").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()
    assert len(found()) == 2


def test_pictures_of_one_name_from_several_folders_do_not_meet(run: Path) -> None:
    for number, folder in enumerate("pqr"):
        picture(f"{folder}/x.png", number)
    assert predict(run, "p", "q/*.png", "r/x.png") == 0
    maps = [read_image(f"out/overlay/{folder}/x.png") for folder in "pqr"]
    assert not np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[1], maps[2])


# -- the second call -----------------------------------------------------------------------------


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
    from segkit.finished import Finished

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
