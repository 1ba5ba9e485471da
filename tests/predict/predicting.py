"""Pictures and films to be segmented, the command, and what it wrote."""

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit import cli

SIZE = (41, 33)  # width, height; sides that need no padding at output stride 8


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


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def film(path: Path, frames: int, size: tuple[int, int] = (32, 24)) -> Path:
    """A video whose frame i is grey 10·i, up to 25."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 10 * number % 250, np.uint8))
    writer.release()
    return path
