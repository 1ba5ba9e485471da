"""Logs that a full disk delays and does not cost: what cannot be written waits in memory."""

import io
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.whole_files import append, write_whole


class Log:
    """A file that grows. ``add`` keeps, ``write`` puts what was kept at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = bytearray()

    def add(self, data: bytes) -> None:
        self._waiting += data

    def write(self) -> None:
        """All that waits, or (raising EnvironmentFault) nothing of it: it waits on."""
        if self._waiting:
            append(self.path, bytes(self._waiting))
            self._waiting.clear()


class Board:
    """A TensorBoard event file of the run from ``step`` on; what an earlier one showed after
    ``step`` is hidden.

    Its records are appended like the rows of the other logs. TensorBoard's own writer is a thread
    that ends at the first full disk, makes a deleted folder anew, and does not survive a fork.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # A second of imports.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._events, self._records, self._summary = event_pb2, RecordWriter, summary
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
        self.log = Log(folder / name)
        write_whole(self.log.path, b"")
        # TensorBoard drops what it knows from ``step + 1`` on when it reads a start at that step.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(file_version="brain.Event:2")
        self._add(step=step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(step=step, summary=self._summary.scalar(name, value))

    def picture(self, name: str, image: Any, step: int) -> None:
        self._add(step=step, summary=self._summary.image(name, image, dataformats="HWC"))

    def _add(self, **content: Any) -> None:
        record = io.BytesIO()
        event = self._events.Event(wall_time=time.time(), **content)
        self._records(record).write(event.SerializeToString())
        self.log.add(record.getvalue())
