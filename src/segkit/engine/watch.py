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
from segkit.limits import fault_of

LOOK_SECONDS = 0.5
# A dead member's line stands still; a living one's moves within two looks.
STILL_SECONDS = 3.0
# Named phases (a save, a validation, a first step) may take this many timeouts.
PATIENCE = 10.0
# A member whose longest step took t seconds may take so many times t for another.
SLACK = 3.0
# After a fault the process should leave by itself; a wait inside a library may not let it. One
# that is on its way out may still have workers to end and an error to record.
LEAVE_SECONDS = 6.0
UNWIND_SECONDS = 60.0
FAULT = "fault"


@dataclass
class Line:
    """What a member said last, and since when its parts have not changed (monotonic seconds).

    ``calls`` counts the collectives it has begun, ``longest`` is its longest stretch of work, and
    ``left`` says that it is through.
    """

    looks: int = -1
    work: int = -1
    calls: int = 0
    step: int = 0
    longest: float = 0.0
    phase: str = ""
    waits: str = ""
    left: bool = False
    pid: int = 0
    host: str = ""
    moved: float = 0.0
    worked: float = 0.0


class Watch:
    """``timeout``: seconds without progress after which a member counts as hanging."""

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        now = time.monotonic()
        self._mine = Line(phase="starting", pid=os.getpid(), host=_host(), worked=now)
        self._lines = {r: Line(moved=now, worked=now) for r in range(size)}
        self.on_leave: Callable[[SegkitError], None] = lambda _: None
        self._looked = now
        self._unwinding = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._publish()  # from here on its silence would be noticed
        self._thread.start()

    def stop(self) -> None:
        """Say that this member is through, and look no more."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._mine.left = True
        with suppress(RuntimeError):
            self._publish()

    # -- what this member does -------------------------------------------------------------------

    def beat(self, step: int | None = None) -> None:
        """A stretch of work is done; ``step``: updates so far, where it is one."""
        now, mine = time.monotonic(), self._mine
        if not mine.phase:  # a phase has its own patience and says nothing about a step
            mine.longest = max(mine.longest, now - mine.worked)
        mine.work += 1
        mine.worked = now
        if step is not None:
            mine.step = step
        if mine.phase == "starting":
            mine.phase = ""

    def call(self) -> None:
        """A collective begins: who has begun the fewest keeps the others waiting."""
        self._mine.calls += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before, self._mine.phase = self._mine.phase, name
        try:
            yield
        finally:
            self.beat()
            self._mine.phase = before

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Inside, this process waits for the others."""
        self.call()
        self._mine.waits = what
        try:
            yield
            # Not in `finally`: after an error the others must not think that this one works on.
            self._mine.work += 1
            self._mine.worked = time.monotonic()
        finally:
            self._mine.waits = ""

    # -- faults ----------------------------------------------------------------------------------

    def tell(self, error: BaseException) -> None:
        """Write ``error`` down as the fault of all, unless one is written already."""
        self._unwinding = True
        if isinstance(error, Interrupted) or self.fault() is not None:
            return
        found = error if isinstance(error, SegkitError) else fault_of(error)
        if found is not None:
            kind = next(c.__name__ for c in type(found).__mro__ if hasattr(errors, c.__name__))
            words = [found.name, found.where, found.what, found.fix]
        else:  # a bug, as the command line calls it
            kind, what = "SegkitError", f"{type(error).__name__}: {error}"
            words = ["PEER", f"rank {self._rank}", what, "its traceback stands above"]
        self._write(kind, words, [self._rank])

    def fault_of_others(self) -> SegkitError | None:
        """What another member wrote down, or its silent death; waits a moment for either."""
        self._unwinding = True
        end = time.monotonic() + 2 * STILL_SECONDS
        while time.monotonic() < end and not self._done.is_set():
            fault = self.fault()
            if fault is not None:
                own = fault["by"] == self._rank and fault["ranks"] == [self._rank]
                return None if own else _raised(fault)
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
                if (fault := self.fault()) is not None:
                    self._make_leave(fault)
                elif not self._was_suspended():
                    self._judge()

    def _publish(self) -> None:
        self._mine.looks += 1
        said = {k: v for k, v in vars(self._mine).items() if k not in ("moved", "worked")}
        self._store.set(f"line/{self._rank}", json.dumps(said))

    def _read(self) -> None:
        now = time.monotonic()
        for rank, line in self._lines.items():
            if not self._store.check([f"line/{rank}"]):
                continue
            said = json.loads(self._store.get(f"line/{rank}"))
            if said["looks"] != line.looks:
                line.moved = now
            if (said["work"], said["waits"]) != (line.work, line.waits):
                line.worked = now
            for name, value in said.items():
                setattr(line, name, value)

    def _was_suspended(self) -> bool:
        """Whether this process itself was stopped since its last look: then the others were, too,
        and wake at their own time.
        """
        now = time.monotonic()
        gap, self._looked = now - self._looked, now
        if gap < STILL_SECONDS:
            return False
        for line in self._lines.values():
            line.moved = line.worked = now
        return True

    def _judge(self) -> None:
        now = time.monotonic()
        here = {r: line for r, line in self._lines.items() if line.looks >= 0 and not line.left}
        still = [r for r, line in here.items() if now - line.moved > _still(line, self._timeout)]
        if still and self._rank not in still:
            self._declare(still, "PEER-DIED", "died or was stopped without a word")
            return
        late = [r for r, line in here.items() if now - line.worked > self._limit(line)]
        hung = [r for r in late if not here[r].waits]
        if hung:
            # A wait inside DDP's backward is not marked: those that wait there have begun the
            # collective that the hanging one has not.
            fewest = min(here[r].calls for r in hung)
            hung = [r for r in hung if here[r].calls == fewest]
            self._declare(hung, "PEER-HUNG", f"made no progress for {self._timeout:g} s")
        elif late and len(late) == self._size:
            waits = "; ".join(f"rank {r} for {line.waits}" for r, line in here.items())
            self._declare(late, "PEER-HUNG", f"everyone waits: {waits}")

    def _limit(self, line: Line) -> float:
        return max(self._timeout * (PATIENCE if line.phase else 1.0), SLACK * line.longest)

    def _declare(self, ranks: list[int], name: str, what: str) -> None:
        who = "rank " + ", ".join(map(str, ranks))
        line = self._lines[ranks[0]]
        phase = f", {line.phase}" if line.phase else ""
        host = line.host.partition("/")[0]
        at = f"{what}; last seen at step {line.step}{phase} (pid {line.pid} on {host})"
        fix = "its lines and RUN/logs say more; go on with resume=true"
        self._write("DistributedFault", [name, who, at, fix], ranks)

    def _make_leave(self, fault: dict[str, Any]) -> None:
        """The fault is known: this process must end, by itself or by force."""
        for rank in fault["ranks"]:
            line = self._lines.get(rank)
            near = line is not None and line.host == self._mine.host and rank != self._rank
            if line and near and _is_stopped(line.pid):  # SIGSTOP: it cannot leave by itself
                with suppress(OSError):
                    os.kill(line.pid, signal.SIGKILL)
        hangs = self._rank in fault["ranks"] and fault["by"] != self._rank
        if self._done.wait(1.0 if hangs else LEAVE_SECONDS):
            return
        if self._unwinding and self._done.wait(UNWIND_SECONDS):
            return
        error = _raised(fault)
        if not self._unwinding:  # else the record is being written already
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


def _host() -> str:
    """This machine, and the process ids that hold here: containers share names and numbers."""
    try:
        return f"{platform.node()}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return platform.node()


def _still(line: Line, timeout: float) -> float:
    """How long a line may stand still: a process that no longer exists here is dead at once."""
    if line.host == _host() and not _exists(line.pid):
        return STILL_SECONDS
    return max(STILL_SECONDS, min(timeout, 30.0))


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
