"""Faults of processes and moments: workers that die or hang, marks to send a signal at."""

import ctypes
import errno
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def mark() -> None:
    """Tell the test that the moment has come."""
    Path("mark").touch()


def hang() -> None:
    mark()
    while True:
        time.sleep(3600)


def crash() -> None:
    """Read address 0: a true segmentation fault."""
    ctypes.string_at(0)


DEATHS: dict[str, Callable[[], Any]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crashes": crash,
    "leaves": lambda: sys.exit(0),
    "hangs": hang,
}


def _reading(argument: str) -> None:
    """``reading:hangs/5``: the process that reads sample 5 of a split hangs there."""
    from segkit.data import loader

    death, _, index = argument.partition("/")
    sample = loader.read_sample

    def hurt(dataset: Any, at: int) -> Any:
        if at == int(index):
            DEATHS[death]()
        return sample(dataset, at)

    loader.read_sample = hurt


def _crf(argument: str) -> None:
    """``crf:SIGKILL``: every process of the CRF pool gets the signal as the first image comes."""
    from segkit.inference.crf_pool import CrfPool

    submit = CrfPool.submit

    def hurt(self: Any, sample: Any, probabilities: Any) -> None:
        for worker in self._workers:
            os.kill(worker._process.pid, signal.Signals[argument])
        CrfPool.submit = submit  # type: ignore[method-assign]
        submit(self, sample, probabilities)

    CrfPool.submit = hurt  # type: ignore[method-assign]


# Where a function of segkit is in the middle of something, as (module, function).
MOMENTS = {
    "weights": ("segkit.start", "load_backbone"),
    "opening": ("segkit.engine.record", "_create"),
    "first": ("segkit.engine.loop", "_tune"),
    "step": ("segkit.engine.loop", "Update.__call__"),
    "save": ("segkit.engine.checkpoint", "_read_back"),
    "scoring": ("segkit.metrics.confusion", "ConfusionMatrix.update"),
    "predict": ("segkit.segmenting", "tensor"),
}


def _pause(argument: str) -> None:
    """``pause:save/5/2``: the fifth time that a save is under way, tell so and wait two seconds."""
    moment, number, seconds = argument.split("/")
    module, name = MOMENTS[moment]
    *classes, function = name.split(".")
    place: Any = importlib.import_module(module)
    for part in classes:
        place = getattr(place, part)
    original = getattr(place, function)
    left = [int(number)]

    def slow(*args: Any, **given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            mark()
            time.sleep(float(seconds))
        return original(*args, **given)

    setattr(place, function, slow)


def _memory(mebibytes: str) -> None:
    """``memory:150``: from here on, so many MiB more than now may be mapped."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = mapped + int(mebibytes) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _files(count: str) -> None:
    """``files:3``: so many more files than now may be open."""
    most = max(map(int, os.listdir("/proc/self/fd"))) + int(count)  # noqa: PTH208 - names only
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _processes(_: str) -> None:
    """What fork says at the limit of processes, which root does not have."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = refuse


def _logits(value: str) -> None:
    """``logits:70000``: the first class of the odd columns gets so much, in the precision used."""
    from segkit.models.segmenter import Segmenter

    scores = Segmenter.scores

    def large(self: Any, images: Any) -> Any:
        found = scores(self, images)
        out = found["out"].clone()
        out[:, 0, :, ::2] += float(value)
        return {**found, "out": out}

    Segmenter.scores = large  # type: ignore[method-assign]


INJECTORS: dict[str, Callable[[str], None]] = {
    "logits": _logits,
    "memory": _memory,
    "files": _files,
    "processes": _processes,
    "reading": _reading,
    "crf": _crf,
    "pause": _pause,
}
