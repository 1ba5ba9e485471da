"""``segkit predict``: what is written."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from predicting import SIZE, film, found, last_line, picture, predict

import segkit
from segkit import cli, parts, restored
from segkit.data.images import read_image
from segkit.report import video
from segkit.segmenting import Segmenting


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


def test_keys_that_change_nothing_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture("a.png")
    assert predict(run, "a.png", "tta.fusion=max") == 0
    said = "note: tta.fusion does nothing without ms=true or flip=true"
    assert said in capsys.readouterr().err.splitlines()


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
