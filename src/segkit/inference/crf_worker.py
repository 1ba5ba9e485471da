"""The process behind ``CrfPool``: reads an image and its probabilities, answers with a label map.

Started as ``python -m``, with a pipe on each side: no torch, no re-import of the caller's main
module, and when the parent is gone the pipe ends and so does this process. A message is one line
of JSON and the bytes it announces.
"""

import json
import os
import signal
import sys
from typing import Any, BinaryIO

import numpy as np

from segkit.errors import SegkitError
from segkit.inference.crf import DenseCrf, labels_of
from segkit.lifeline import end_with_parent


def send(pipe: BinaryIO, header: dict[str, Any], *payloads: Any) -> None:
    """Write one message; ``payloads`` are C-contiguous buffers."""
    pipe.write(json.dumps(header).encode() + b"\n")
    for payload in payloads:
        pipe.write(memoryview(payload).cast("B"))
    pipe.flush()


def receive_header(pipe: BinaryIO) -> dict[str, Any] | None:
    """The next message's header; None at the end of the pipe."""
    line = pipe.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def receive_array(pipe: BinaryIO, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """The next ``shape`` values of ``dtype``; EOFError when the pipe ends before."""
    values = np.empty(shape, dtype)
    buffer = values.data.cast("B")
    filled = 0
    while filled < len(buffer):
        count = pipe.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return values


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Refine until the pipe ends."""
    while (header := receive_header(requests)) is not None:
        classes, height, width = header["shape"]
        rgb = receive_array(requests, (height, width, 3), "u1")
        probabilities = receive_array(requests, (classes, height, width), "f4")
        try:
            labels = labels_of(DenseCrf(**header["crf"]).refine(rgb, probabilities))
        except SegkitError as fault:
            send(answers, {"fault": [type(fault).__name__, *fault.args]})
        except MemoryError:
            send(answers, {"fault": _out_of_memory(classes, height, width)})
        else:
            send(answers, {"dtype": labels.dtype.str}, labels)


def _out_of_memory(classes: int, height: int, width: int) -> list[str]:
    what = f"out of memory on an image of {width}x{height} with {classes} classes"
    return ["EnvironmentFault", "CRF-MEMORY", "crf=true", what, "fewer workers, or crf=false"]


def main() -> None:
    """``python -m segkit.inference.crf_worker PARENT_PID``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the parent's to handle, and its end is ours
    end_with_parent(int(sys.argv[1]))
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except (BrokenPipeError, EOFError):
        os._exit(0)  # the parent hung up; nothing is left to flush


if __name__ == "__main__":
    main()
