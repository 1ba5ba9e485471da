"""A place where segkit can be hurt: every folder it may write to lies inside, and is looked at.

A ``Sandbox`` starts commands of segkit, in a session of their own, from a fork server that has the
imports behind it (a tenth of a second each), or with ``fresh=True`` as a new interpreter.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fork_server import ForkServer

HERE = Path(__file__).parent
CANARY = "canary"
"""The file that no payload may make: a crafted artefact that ran would leave it in the sandbox."""

# Eight pictures of 33x33 and a network of a few thousand weights: a run of about a second.
TINY = (
    *("train", "experiment=quickstart", "name=x", "log.tensorboard=false", "workers=0"),
    *("dataset.size=33", "dataset.count=8", "dataset.val.count=2", "augment.crop=33"),
    *("schedule.batch=4", "schedule.stages.0.steps=4", "schedule.stages.1.steps=2"),
    *("eval.every=3", "checkpoint.every=2", "log.every=1", "log.images=0"),
)


@dataclass
class Result:
    """How a command ended; ``seconds`` from its start."""

    pid: int
    code: int
    out: str
    err: str
    seconds: float

    @property
    def last_line(self) -> str:
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Running:
    """A command under way; its process id is also the id of its session."""

    pid: int
    out: Path
    err: Path
    began: float
    poll: Callable[[], int | None]

    def wait(self, timeout: float = 120.0) -> Result:
        """Its end; AssertionError (and SIGKILL) after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.show_stacks()
                self.kill()
                raise AssertionError(f"still running after {timeout:g} s:\n{self.err.read_text()}")
            time.sleep(0.01)
        seconds = time.monotonic() - self.began
        out, err = (path.read_text(errors="replace") for path in (self.out, self.err))
        return Result(self.pid, code, out, err, seconds)

    def show_stacks(self) -> None:
        """Have all processes that work where this one does print where they hang, and end."""
        where = Path(f"/proc/{self.pid}/cwd").readlink()
        for pid in working_in(where):
            os.kill(pid, signal.SIGABRT)
        time.sleep(1)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 60.0) -> bool:
        """Whether ``condition`` came true before the end of the command."""
        end = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.005)
        return condition()


@dataclass
class Sandbox:
    """``root`` holds home/, tmp/, work/ (the working directory, with runs/) and nothing else."""

    root: Path
    server: ForkServer
    env: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "work", "console"):
            (self.root / name).mkdir(parents=True)
        kept = (
            "PATH",
            "LANG",
            "PYTHONPATH",
            "SEGKIT_DATA",
            "SEGKIT_WEIGHTS",
            "COVERAGE_PROCESS_START",
        )
        self.env = {name: os.environ[name] for name in kept if name in os.environ}
        self.env |= {
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "XDG_CACHE_HOME": str(self.root / "home/.cache"),
            "XDG_CONFIG_HOME": str(self.root / "home/.config"),
            "TORCH_HOME": str(self.root / "home/.torch"),
            "MPLCONFIGDIR": str(self.root / "home/.mpl"),
            "OMP_NUM_THREADS": "1",
            "GOMP_SPINCOUNT": "1000",
        }

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def run_folder(self) -> Path:
        """The folder of the run that ``TINY`` names."""
        return self.work / "runs/x"

    @property
    def canary(self) -> Path:
        return self.root / CANARY

    def start(
        self,
        *words: str,
        inject: str = "",
        fresh: bool = False,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Running:
        """``segkit WORDS`` in ``work``; ``inject`` names faults of ``injectors``.

        ``prefix`` (with ``fresh``) goes before the interpreter: ``["prlimit", "--as=..."]``.
        """
        self._count += 1
        out, err = (self.root / "console" / f"{self._count}.{name}" for name in ("out", "err"))
        given = {**self.env, **(env or {})}
        if inject:
            given["SEGKIT_FAULT"] = inject
        began = time.monotonic()
        if fresh or prefix:
            # -m on a module of ours that installs the faults and then is segkit.
            argv = [*prefix, sys.executable, str(HERE / "faulty_segkit.py"), *words]
            self._count -= 1
            return self.start_program(argv, given)
        pid = self.server.start(list(words), self.work, given, out, err)
        return Running(pid, out, err, began, lambda: self.server.poll(pid))

    def start_program(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Running:
        """Any program, as ``start`` starts segkit."""
        self._count += 1
        out, err = (self.root / "console" / f"{self._count}.{name}" for name in ("out", "err"))
        with out.open("wb") as o, err.open("wb") as e:
            process = subprocess.Popen(
                argv,
                cwd=self.work,
                env={**self.env, **(env or {})},
                stdout=o,
                stderr=e,
                start_new_session=True,
            )
        return Running(process.pid, out, err, time.monotonic(), process.poll)

    def run(self, *words: str, timeout: float = 120.0, **how: Any) -> Result:
        return self.start(*words, **how).wait(timeout)

    def ok(self, *words: str, **how: Any) -> Result:
        """A command that must succeed."""
        result = self.run(*words, **how)
        assert result.code == 0, f"{' '.join(words)}\n{result.err}"
        return result

    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.run_folder / "status.json").read_text()))

    def steps_logged(self) -> int:
        """How many updates the run has recorded so far."""
        log = self.run_folder / "metrics.jsonl"
        return log.read_bytes().count(b'"loss"') if log.exists() else 0


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by relative name of every file in ``folder``."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def outcome(run: Path) -> dict[str, str]:
    """What two equal runs must have in common: weights, buffers, optimiser, log, sample order."""
    last = max((run / "checkpoints").glob("step-*"))
    files = [*last.glob("*.safetensors"), run / "metrics.jsonl"]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files} | {"at": last.name}


def living(session: int, seconds: float = 5.0) -> list[int]:
    """Processes of a session that are alive ``seconds`` from now; [] as soon as none is."""
    end = time.monotonic() + seconds
    while (alive := _members(session)) and time.monotonic() < end:
        time.sleep(0.02)
    return alive


def _members(session: int) -> list[int]:
    return [
        int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _is_in(stat, session)
    ]


def working_in(folder: Path) -> list[int]:
    """Living processes whose working directory is ``folder``."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if place.readlink() == folder:
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def _is_in(stat: Path, session: int) -> bool:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == session and fields[0] != "Z"
