"""Broken inputs of a prediction: each is named, the others are done."""

import errno
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from predicting import film, found, last_line, picture, predict

from segkit import cli, outputs, whole_files
from segkit.inference.predictor import Predictor
from segkit.report.video import write_video


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
    def full(path: Path, data: bytes) -> None:
        with whole_files.faults(path, len(data)):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_whole", full)
    picture("a.png")
    picture("b.png")
    assert predict(run, "a.png", "b.png") == 6
    line = last_line(capsys)
    assert line.startswith("segkit: error[ENV-DISK-FULL]: out/labels/a.png")
    assert line.endswith("; make room, then type the command again"), "there is no resume=true"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system takes no byte behind these, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_film_that_the_disk_does_not_take_is_none(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def short(*film: Any) -> bool:
        with files_of_at_most(2_000):
            return write_video(*film)

    film(Path("clip.avi"), 12, (160, 120))
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_video", short)
        assert predict(run, "clip.avi") == 6
    said = capfd.readouterr().err.strip().splitlines()
    line = said[-1]
    assert not [text for text in said if "WARN" in text], "the library's own words"
    assert line.startswith("segkit: error[ENV-FILM]: out/overlay/clip.mp4: a film of 12 frames")
    assert "make room, then type the command again" in line
    assert not found("*.mp4")
    assert not found("*.tmp")
    assert predict(run, "clip.avi") == 0, "nothing is recorded as finished"
    assert found("*.mp4") == ["overlay/clip.mp4"]


def test_a_place_where_no_folder_can_be_made(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture("a.png")
    assert predict(run, "a.png", "out=/proc/x") == 6
    line = last_line(capsys)
    assert line.startswith("segkit: error[ENV-WRITE]: /proc/x: no folder can be made here (")
    assert "out=" in line
    assert "0 bytes" not in line


def test_several_processes_would_all_do_everything(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "start", lambda command, composed, _: cli.task(command)(composed))
    picture("a.png")
    assert predict(run, "a.png", "devices=2") == 2
    assert "CFG-DEVICES" in last_line(capsys)
