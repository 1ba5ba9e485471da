"""One save, killed or failed at each of its file-system calls. Run by test_saves.py.

    python save_crashes.py FOLDER calls|strace

Every trial is a fork of this process, which has the imports behind it. The fault is laid over
Python's own calls, or by strace over the system's.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # seconds of imports at the first optimiser: here once
from torch import nn

from segkit.engine import checkpoint
from segkit.engine.record import Run
from segkit.engine.saving import Saving
from segkit.errors import EnvironmentFault

OLD, NEW = 2, 3
KILL = "SIGKILL"
# In Python, and as the system calls them on one machine or another.
CALLS = {
    "calls": ("open", "mkdir", "write", "fsync", "rename", "replace", "unlink", "rmdir"),
    "strace": (
        *("openat", "?mkdir,?mkdirat", "write", "fsync", "?rename,?renameat,?renameat2"),
        *("?unlink", "unlinkat", "?rmdir"),
    ),
}
# Calls that may also fail: the others only read, or clean up.
FAILING = ("write", "fsync", "rename", "replace", "mkdir")


def open_run(folder: Path, notices: list[str], *, resume: bool) -> Run:
    return Run.open(
        folder,
        resume=resume,
        run_id="r",
        config_text="",
        environment={},
        config={},
        labels={},
        notice=notices.append,
        tensorboard=False,
    )


def save(run: Run, step: int) -> None:
    """What the loop does at a new best score, in a thread beside it."""
    net = nn.Conv2d(3, 4, 3)
    nn.init.constant_(net.weight, step)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    nn.init.constant_(net.weight, step)
    point = run.checkpoints / f"step-{step:08d}"
    mark = partial(checkpoint.mark_best, point)
    run.log_metrics([{"step": step, "loss": 0.5}])
    with Saving(run, keep=1, on_error="stop", saved=mark, background=True) as saving:
        saving(net, optimizer, step, 0, must=False)


def prepare(folder: Path) -> None:
    """A run that stands at ``OLD``."""
    with open_run(folder, [], resume=False) as run:
        run.begin(0)
        save(run, OLD)


def fork(work: Callable[[], None]) -> int:
    """The id of a process that does ``work``: it ends with 0, or with 6 at an EnvironmentFault."""
    if pid := os.fork():
        return pid
    try:
        work()
    except EnvironmentFault as fault:
        os._exit(6 if fault.where else 7)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


# -- the two ways to lay a fault over the K-th call ----------------------------------------------


def by_calls(folder: Path, call: str, fault: str, at: int) -> tuple[int, bool]:
    """Wait status, and whether the fault came at all."""
    came = folder / "came"

    def work() -> None:
        run = open_run(folder, [], resume=True)
        run.begin(OLD)
        real, count = getattr(os, call), 0

        def hurt(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count != at:
                return real(*args, **kwargs)
            setattr(os, call, real)
            came.touch()
            if fault == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))

        setattr(os, call, hurt)
        save(run, NEW)

    _, status = os.waitpid(fork(work), 0)
    hit = came.exists()
    came.unlink(missing_ok=True)
    return status, hit


def by_strace(folder: Path, call: str, fault: str, at: int) -> tuple[int, bool]:
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        allow_tracing()
        run = open_run(folder, [], resume=True)
        run.begin(OLD)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        save(run, NEW)

    pid = fork(work)
    os.read(ready[0], 1)
    how = f"signal={KILL}" if fault == KILL else f"error={fault}"
    log = folder.with_suffix(".strace")
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-p", str(pid), "-o", log),
            *("-e", f"trace={call}", "-e", f"inject={call}:{how}:when={at}"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr
    assert "attached" in (said := tracer.stderr.readline()), said
    os.write(go[1], b"x")
    _, status = os.waitpid(pid, 0)
    tracer.communicate()
    for handle in (*ready, *go):
        os.close(handle)
    return status, "INJECTED" in log.read_text() or os.WIFSIGNALED(status)


def allow_tracing() -> None:
    """Where only descendants may be traced (Yama), let everybody trace this process."""
    import ctypes

    pr_set_ptracer = 0x59616D61
    ctypes.CDLL(None).prctl(pr_set_ptracer, -1, 0, 0, 0)


# -- trials --------------------------------------------------------------------------------------


@dataclass
class Report:
    """``points`` that were hit by fault and call, and what was ``wrong`` afterwards."""

    points: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def faults_of(call: str) -> Iterator[str]:
    yield KILL
    if any(call == name or f"?{name}," in call for name in FAILING):
        yield from ("ENOSPC", "EIO", "EDQUOT")


def look(run: Path, status: int, fault: str) -> str:
    """What is wrong with a run after a save that was hurt; "" if nothing is."""
    if fault == KILL and not os.WIFSIGNALED(status):
        return f"ended with {status}"
    if fault != KILL and os.waitstatus_to_exitcode(status) not in (0, 6):
        return f"ended with {os.waitstatus_to_exitcode(status)}"
    left = [p.name for p in run.rglob(".*.tmp")]
    if left and fault != KILL:
        return f"left {left}"
    found = checkpoint.load(checkpoint.newest(run, run_id="r"), run_id="r")
    if found.step not in (OLD, NEW) or bool((found.model["weight"] != found.step).any()):
        return f"holds step {found.step} with other weights"
    checkpoint.load(checkpoint.best(run), run_id="r")
    notices: list[str] = []
    with open_run(run, notices, resume=True) as again:
        again.begin(found.step)
        if [row["step"] for row in again.metrics()] != list(range(OLD, found.step + 1)):
            return f"the log of step {found.step} holds {again.metrics()}"
    told = sum("unfinished" in line for line in notices)
    if told != bool(left) or any(run.rglob(".*.tmp")):
        return f"left {left}, told {notices}"
    return ""


def main(base: Path, mode: str) -> None:
    torch.set_num_threads(1)
    inject = {"calls": by_calls, "strace": by_strace}[mode]
    began, report = time.monotonic(), Report()
    prepare(base / "good")
    for call in CALLS[mode]:
        for fault in faults_of(call):
            for at in range(1, 100):
                run = base / "run"
                shutil.copytree(base / "good", run)
                status, hit = inject(run, call, fault, at)
                if hit:
                    key = f"{fault} {call.partition(',')[0].lstrip('?')}"
                    report.points[key] = report.points.get(key, 0) + 1
                    if wrong := look(run, status, fault):
                        report.wrong.append(f"{key} {at}: {wrong}")
                shutil.rmtree(run)
                if not hit:
                    break
    print(json.dumps(vars(report) | {"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
