"""Pictures as a video file, for looking at."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from segkit.whole_files import faults, temporary

_CODEC = "mp4v"  # MPEG-4 part 2: the one that OpenCV's own FFmpeg always brings along


def write_video(path: Path, frames: Iterable[np.ndarray], rate: float) -> bool:
    """Put RGB frames [H, W, 3] of one size into an .mp4 at ``path``, whole or not at all.

    False, with nothing written, where this OpenCV has no codec for it or there is no frame. Frames
    of another size than the first are left out. Raises ``EnvironmentFault``.
    """
    # The writer goes by the ending, so that the file gets its name inside a folder without one.
    work = temporary(path)
    with faults(path, 0):
        work.mkdir()
    try:
        fresh = work / "video.mp4"
        if not _encode(fresh, frames, rate):
            return False
        with faults(path, fresh.stat().st_size):
            fresh.replace(path)
        return True
    finally:
        with suppress(OSError):
            shutil.rmtree(work)


def _encode(path: Path, frames: Iterable[np.ndarray], rate: float) -> bool:
    writer, size = None, (0, 0)
    try:
        for frame in frames:
            if writer is None:
                size = frame.shape[1], frame.shape[0]
                code = cv2.VideoWriter.fourcc(*_CODEC)
                writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, size)
                if not writer.isOpened():
                    return False
            if (frame.shape[1], frame.shape[0]) == size:
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        if writer is not None:
            writer.release()
    return writer is not None and path.is_file()
