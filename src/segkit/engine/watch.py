"""Who of the members is alive, working or waiting: a thread that looks twice a second.

Every member publishes a line in the launcher's store: a counter of its own looks (frozen when the
process is dead or stopped), a counter of its work, and what it waits for. A member that neither
works nor waits for the timeout hangs. Whoever sees a fault first writes it down, once, for all.
"""

import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from segkit import errors, ranks
from segkit.errors import DistributedFault, Interrupted, SegkitError

LOOK_SECONDS = 0.5
# A dead member's line stands still; a living one's moves within two looks.
STILL_SECONDS = 3.0
# Named phases (a save, a validation, compiling) may take this many timeouts.
PATIENCE = 10.0
# After a fault the process should leave by itself; a wait inside a library may not let it.
LEAVE_SECONDS = 6.0
FAULT = "fault"


@dataclass
class Line:
    """What a member said last, and since when its parts have not changed (monotonic seconds)."""

    looks: int = -1
    work: int = -1
    step: int = -1
    phase: str = ""
    waits: str = ""
    pid: int = 0
    host: str = ""
    moved: float = 0.0
    worked: float = 0.0


class Watch:
    """``timeout``: seconds without progress after which a member counts as hanging."""

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._mine = {"work": 0, "step": 0, "phase": "starting", "waits": ""}
        self._mine |= {"pid": os.getpid(), "host": platform.node()}
        self._looks = 0
        now = time.monotonic()
        self._lines = {r: Line(moved=now, worked=now) for r in range(size)}
        self.on_leave: Callable[[SegkitError], None] = lambda _: None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._publish()  # from here on its silence would be noticed
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def beat(self, step: int) -> None:
        self._mine["work"] += 1  # type: ignore[operator]
        self._mine |= {"step": step, "phase": ""}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = self._mine["phase"]
        self._mine["phase"] = name
        try:
            yield
        finally:
            self._mine["phase"] = before
            self._mine["work"] += 1  # type: ignore[operator]

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Inside, this process waits for the others."""
        self._mine["waits"] = what
        try:
            yield
            # Not in `finally`: after an error the others must not think that this one works on.
            self._mine["work"] += 1  # type: ignore[operator]
        finally:
            self._mine["waits"] = ""

    # -- faults ----------------------------------------------------------------------------------

    def tell(self, error: BaseException) -> None:
        """Write ``error`` down as the fault of all, unless one is written already."""
        if isinstance(error, Interrupted) or self.fault() is not None:
            return
        if isinstance(error, SegkitError):
            kind = next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
            words = [error.name, error.where, error.what, error.fix]
        else:
            kind = "DistributedFault"
            what = f"failed with {type(error).__name__}: {error}"
            words = ["PEER-FAILED", f"rank {self._rank}", what, "see its own lines above"]
        self._write(kind, words, [self._rank])

    def fault_of_others(self) -> SegkitError | None:
        """What another member wrote down, or its silent death; waits a moment for either."""
        end = time.monotonic() + 2 * STILL_SECONDS
        while time.monotonic() < end and not self._done.is_set():
            fault = self.fault()
            if fault is not None:
                return None if fault["ranks"] == [self._rank] else _raised(fault)
            if not self._thread.is_alive():
                return DistributedFault("LAUNCHER-GONE", "launcher", "its store is gone")
            time.sleep(0.05)
        return None

    @property
    def gone(self) -> set[int]:
        """The ranks named by the fault."""
        fault = self.fault()
        return set(fault["ranks"]) if fault else set()

    def _write(self, kind: str, words: list[str], ranks: list[int]) -> None:
        text = json.dumps({"kind": kind, "words": words, "ranks": ranks, "by": self._rank})
        with suppress(RuntimeError):
            self._store.compare_set(FAULT, "", text)

    def fault(self) -> dict[str, Any] | None:
        """What is written down, if anything: the kind, words and ranks of the first fault."""
        try:
            if not self._store.check([FAULT]):
                return None
            found: dict[str, Any] = json.loads(self._store.get(FAULT))
        except (RuntimeError, ValueError):
            return None
        return found

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        with suppress(RuntimeError):  # the launcher and its store are gone; so are its processes
            while not self._done.wait(LOOK_SECONDS):
                self._publish()
                self._read()
                if (fault := self.fault()) is None:
                    self._judge()
                else:
                    self._make_leave(fault)

    def _publish(self) -> None:
        self._looks += 1
        line = {"looks": self._looks, **self._mine}
        self._store.set(f"line/{self._rank}", json.dumps(line))

    def _read(self) -> None:
        now = time.monotonic()
        for rank, line in self._lines.items():
            if not self._store.check([f"line/{rank}"]):
                continue
            said = json.loads(self._store.get(f"line/{rank}"))
            if said["looks"] != line.looks:
                line.moved = now
            if said["work"] != line.work or said["waits"] != line.waits:
                line.worked = now
            for name, value in said.items():
                setattr(line, name, value)

    def _judge(self) -> None:
        now = time.monotonic()
        begun = [r for r, line in self._lines.items() if line.looks >= 0]
        frozen = [r for r in begun if now - self._lines[r].moved > STILL_SECONDS]
        if frozen and self._rank not in frozen:
            # A process that is merely starved of CPU time looks again; a dead one never does.
            if all(now - self._lines[r].moved > self._still(r) for r in frozen):
                self._declare(frozen, "PEER-DIED", "died or was stopped without a word")
            return
        idle = {r: now - self._lines[r].worked for r in begun}
        hung = [r for r in begun if not self._lines[r].waits and idle[r] > self._limit(r)]
        if hung:
            self._declare(hung, "PEER-HUNG", f"made no progress for {self._timeout:g} s")
        elif len(begun) == self._size and all(idle[r] > self._limit(r) for r in begun):
            waits = "; ".join(f"rank {r} for {self._lines[r].waits}" for r in begun)
            self._declare(begun, "PEER-HUNG", f"everyone waits: {waits}")

    def _still(self, rank: int) -> float:
        """A process on this host that no longer exists is dead at once; else give it time."""
        line = self._lines[rank]
        if line.host == platform.node() and not _exists(line.pid):
            return STILL_SECONDS
        return max(STILL_SECONDS, min(self._timeout, 30.0))

    def _limit(self, rank: int) -> float:
        return self._timeout * (PATIENCE if self._lines[rank].phase else 1.0)

    def _declare(self, ranks: list[int], name: str, what: str) -> None:
        who = "rank " + ", ".join(map(str, ranks))
        line = self._lines[ranks[0]]
        phase = f", {line.phase}" if line.phase else ""
        at = f"{what}; last seen at step {line.step}{phase} (pid {line.pid} on {line.host})"
        fix = "its lines and RUN/logs say more; go on with resume=true"
        self._write("DistributedFault", [name, who, at, fix], ranks)

    def _make_leave(self, fault: dict[str, Any]) -> None:
        """The fault is known: this process must end, by itself or by force."""
        for rank in fault["ranks"]:
            line = self._lines.get(rank)
            near = line is not None and line.host == platform.node() and rank != self._rank
            if line and near and _is_stopped(line.pid):  # SIGSTOP: it cannot leave by itself
                with suppress(OSError):
                    os.kill(line.pid, signal.SIGKILL)
        hangs = self._rank in fault["ranks"] and fault["by"] != self._rank
        if self._done.wait(1.0 if hangs else LEAVE_SECONDS):
            return
        error = _raised(fault)
        with suppress(Exception):
            self.on_leave(error)
        leave(error)


@contextmanager
def deadline(seconds: float, error: SegkitError) -> Iterator[None]:
    """End the process with ``error`` if what is inside takes longer; libraries may not end."""
    timer = threading.Timer(seconds, leave, [error])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def leave(error: SegkitError) -> None:
    """End this process from any thread, with the line and the code of ``error``."""
    ranks.tell(error.line(), error.code)
    if not ranks.launched():
        print(error.line(), file=sys.stderr, flush=True)
    os._exit(error.code)


def _raised(fault: dict[str, Any]) -> SegkitError:
    """The fault as the error it was; ConfigErrors and the like come back as their base class."""
    kind = getattr(errors, str(fault["kind"]), DistributedFault)
    if not (isinstance(kind, type) and issubclass(kind, SegkitError)):
        kind = DistributedFault
    found: SegkitError = kind(*fault["words"])
    return found


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return _state(pid) != "Z"


def _is_stopped(pid: int) -> bool:
    return _state(pid) in ("T", "t")


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""
