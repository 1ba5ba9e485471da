"""Frames of a video file that nobody has checked, by OpenCV's FFmpeg."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from segkit.data.files import open_file
from segkit.data.images import MAX_PIXELS
from segkit.errors import DataError, RefusedError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")

# What is broken is told in our own words. OpenCV looks here once, when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# FFmpeg goes by content, and takes a text file that lists addresses for a video too. So only files
# that begin as a container does are shown to it: (place, bytes).
_BEGINNINGS = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (8, b"AVI "),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"\0\0\1\xba"),
    (0, b"\0\0\1\xb3"),
)
# A header's count is an estimate in some containers; so many of its frames must be there.
_LEAST_SHARE = 0.9
_USUAL_RATE = 25.0


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in SUFFIXES


class Video:
    """An open video file. ``claimed`` is its header's count of frames (0: not said), ``rate`` in
    frames a second.

    Raises ``DataError`` where it cannot be opened or is no video, ``RefusedError`` for frames of
    more than ``max_pixels``.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.path = path
        check_beginning(path)
        with _silence():
            # An absolute name is a file's, whatever colons are in it.
            self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise DataError("UNREADABLE", path, "damaged video (cannot be opened)", _FIX)
        width, height, count, rate = (
            self._capture.get(name)
            for name in (
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
                cv2.CAP_PROP_FRAME_COUNT,
                cv2.CAP_PROP_FPS,
            )
        )
        if width * height > max_pixels:
            what = f"frames of {width:.0f}x{height:.0f} pixels"
            raise RefusedError("PIXELS", path, what, f"at most {max_pixels} pixels")
        self.claimed = int(count) if 0 < count < 2**31 else 0
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE

    def frames(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames that are ``wanted``, by their numbers from 0, as RGB uint8 [H, W, 3].

        Raises ``DataError`` behind the last that can be read, where there is none or the header
        claims many more.
        """
        number = 0
        while self._capture.grab():
            if wanted(number):
                good, frame = self._capture.retrieve()
                if not good:
                    break
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
        if not number or number < _LEAST_SHARE * self.claimed:
            claims = f" of the {self.claimed} that its header claims" if self.claimed else ""
            what = f"damaged video ({number or 'no'} frames{claims} can be read)"
            raise DataError("UNREADABLE", self.path, what, _FIX)

    def close(self) -> None:
        self._capture.release()


_FIX = "restore the file, or convert it with ffmpeg"


@contextmanager
def _silence() -> Iterator[None]:
    """OpenCV's own complaints, about a backend that did not take a file, go nowhere."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def check_beginning(path: Path) -> None:
    """Raise ``DataError`` unless a file begins as a container does, and what ``open_file`` does."""
    with open_file(path) as file:
        head = file.read(16)
    if not any(head[place:].startswith(begin) for place, begin in _BEGINNINGS):
        raise DataError(
            "UNREADABLE", path, f"no video of a kind known here ({', '.join(SUFFIXES)})"
        )
