"""Pictures as a video file, for looking at."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from segkit.errors import EnvironmentFault
from segkit.whole_files import faults, free_bytes, sync_folder, temporary

_CODEC = "mp4v"  # MPEG-4 part 2: the one that OpenCV's own FFmpeg always brings along


def write_video(path: Path, frames: Iterable[np.ndarray], rate: float) -> bool:
    """Put RGB frames [H, W, 3] of one size into an .mp4 at ``path``, whole or not at all.

    False, with nothing written, where this OpenCV has no codec for it or there is no frame. Frames
    of another size than the first are left out. Raises ``EnvironmentFault``, as where the disk is
    full and fewer frames come back than were written.
    """
    # The writer goes by the ending, so that the file gets its name inside a folder without one.
    work = temporary(path)
    with faults(path, 0):
        work.mkdir()
    try:
        fresh = work / "video.mp4"
        written = _encode(fresh, frames, rate)
        if not written:
            return False
        # OpenCV's writer tells nobody that the disk did not take a frame.
        if (back := _readable(fresh)) != written:
            free = f"{free_bytes(work)} bytes are free on its disk"
            what = f"a film of {written} frames comes back with {back}; {free}"
            fix = "make room, then type the command again"
            raise EnvironmentFault("FILM", path, what, fix)
        with faults(path, fresh.stat().st_size):
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(path)
            sync_folder(path.parent)
        return True
    finally:
        with suppress(OSError):
            shutil.rmtree(work)


def _encode(path: Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """How many frames were given to the codec; 0 where there is none."""
    writer, size, written = None, (0, 0), 0
    try:
        for frame in frames:
            if writer is None:
                size = frame.shape[1], frame.shape[0]
                code = cv2.VideoWriter.fourcc(*_CODEC)
                writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, size)
                if not writer.isOpened():
                    return 0
            if (frame.shape[1], frame.shape[0]) == size:
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                written += 1
    finally:
        if writer is not None:
            writer.release()
    return written


def _readable(path: Path) -> int:
    """How many frames of a film can be read; its header's count outlives the frames."""
    if not path.is_file():
        return 0
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture, count = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG), 0
    try:
        while capture.grab():
            count += 1
    finally:
        capture.release()
        cv2.utils.logging.setLogLevel(before)  # what is torn is told in our own words
    return count
