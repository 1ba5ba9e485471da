"""The run folder is the record: who ran what, how far it came, and every number on the way.

run.json            the run's id
config.yaml  environment.json
metrics.jsonl       deterministic values only: equal bytes for equal runs, also over resumes
timing.jsonl        seconds, which are never equal
status.json         how it stands or how it ended
checkpoints/  tb/  logs/
"""

import json
import math
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from segkit.engine.logs import Board, Log
from segkit.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentFault,
    ExitCode,
    Interrupted,
    SegkitError,
    without_secrets,
)
from segkit.limits import fault_of
from segkit.lock import Lock
from segkit.whole_files import clean, faults, refuse_links, write_whole

_FOLDERS = ("checkpoints", "logs", "tb")
# What an unused folder may hold: a caller may have put its log there already.
_HARMLESS = {".lock", "logs"}
# What a run killed while it was being created may have left.
_CREATED = {"config.yaml", "environment.json", "metrics.jsonl", "timing.jsonl", "checkpoints", "tb"}


class Run:
    """An open, locked run folder; a context manager that records how the run ended.

    ``config`` and ``labels`` (plain data) go into every checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        lock: Lock,
        *,
        id: str,
        resumed: bool,
        config: Mapping[str, Any],
        labels: Mapping[str, Any],
        texts: Mapping[str, bytes],
        notice: Callable[[str], None],
        tensorboard: bool,
        not_bit_exact: str,
    ) -> None:
        self.folder, self.id, self.resumed = folder, id, resumed
        self.config, self.labels = config, labels
        self.notice = notice
        self._lock, self._texts, self._tensorboard = lock, texts, tensorboard
        self._logs = {name: Log(folder / f"{name}.jsonl") for name in ("metrics", "timing")}
        self._board: Board | None = None
        self._begun = self._full = self._over = False
        # A save tells its progress from a thread of its own; a signal may come in between.
        self._status_lock = threading.RLock()
        self._not_bit_exact = not_bit_exact
        self._status: dict[str, Any] = read_status(folder)
        self._standing: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        resume: bool,
        run_id: str,
        config_text: str,
        environment: Mapping[str, Any],
        config: Mapping[str, Any],
        labels: Mapping[str, Any],
        notice: Callable[[str], None],
        tensorboard: bool = True,
        not_bit_exact: str = "",
    ) -> Self:
        """Create ``folder`` (or, with ``resume``, take up the run in it) and lock it.

        ``run_id`` names a new run; a resumed one keeps its own. ``not_bit_exact`` says what a
        resumed one has changed that can change its bits; the record keeps it. Raises ConfigError
        for a used folder without ``resume``, EnvironmentFault if another process has it or it
        cannot be written.
        """
        with faults(folder, 0):
            folder.mkdir(parents=True, exist_ok=True)
        for name in _FOLDERS:
            refuse_links(folder, folder / name)
        lock = Lock(folder / ".lock")
        try:
            known = _holds_run(folder, resume)
            texts = {
                "config.yaml": config_text.encode(),
                "environment.json": _json(environment),
            }
            if known:
                run_id = _read_id(folder / "run.json")
                _make_folders(folder)
                _clean_up(folder, notice)
                _tell_of_lost_end(folder, notice)
            else:
                if resume:
                    notice(f"{folder}: no run to resume, fresh start")
                clean(folder)
                _create(folder, texts, run_id)
        except BaseException:
            lock.release()
            raise
        return cls(
            folder,
            lock,
            id=run_id,
            resumed=known,
            config=config,
            labels=labels,
            texts=texts,
            notice=notice,
            tensorboard=tensorboard,
            not_bit_exact=not_bit_exact,
        )

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the record says that everything asked for was done."""
        return self._status.get("state") == "finished"

    @property
    def has_metrics(self) -> bool:
        """Whether any step was ever recorded."""
        return bool(_content(self.folder / "metrics.jsonl"))

    def tell(self, **facts: Any) -> None:
        """Plain ``facts`` that ``status.json`` has from the beginning to the end."""
        self._standing |= facts

    def begin(self, step: int) -> None:
        """Start or go on at ``step`` applied updates; cuts the metrics back to that step."""
        self._begun = True
        for name, text in self._texts.items():
            _replace(self.folder / name, text)  # a resumed run may have changed what it may
        for name in ("metrics.jsonl", "timing.jsonl"):
            _cut_back(self.folder / name, step)
        started = self._status.get("started_at", _now())
        last = self._status.get("last_checkpoint")
        why = [*self._status.get("not_bit_exact", []), self._not_bit_exact] if step else []
        self._status = {"run": self.id, "started_at": started, "last_checkpoint": last}
        self._status |= self._standing
        if any(why):
            self._status["not_bit_exact"] = [reason for reason in why if reason]
        self.status("running", step=step)
        if self._tensorboard:
            self._board = Board(self.folder / "tb", step)

    def check(self) -> None:
        """Raise EnvironmentFault if the folder was deleted or replaced under the run."""
        self._lock.check()

    def status(self, state: str, **values: Any) -> None:
        """Replace ``status.json``: what was there, updated. From any thread."""
        self.check()
        fresh = {"code": None, "error_id": None}
        with self._status_lock:
            self._over = state != "running"
            self._status = {**fresh, **self._status, "state": state, **values}
            write_whole(self.folder / "status.json", _json(self._status))

    def progress(self, **values: Any) -> None:
        """The status of a run that goes on, from any thread; nothing is said of one that ended."""
        with self._status_lock:
            if not self._over:
                self.status("running", **values)

    def log_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows of deterministic values, each with its ``step``, and wait for the disk.

        On a full disk they wait in memory instead, at the longest until ``settle``.
        """
        self._append(self._logs["metrics"], rows)

    def log_timing(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._append(self._logs["timing"], rows)

    def _append(self, log: Log, rows: Sequence[Mapping[str, Any]]) -> None:
        self.check()
        log.add(b"".join(map(_line, rows)))
        with self._logs_may_wait():
            log.write()

    def settle(self) -> None:
        """Put all logs on the disk. Raises EnvironmentFault if the metrics do not fit."""
        self.check()
        self._logs["metrics"].write()
        for log in (self._logs["timing"], *([self._board.log] if self._board else [])):
            with self._logs_may_wait():
                log.write()

    @contextmanager
    def _logs_may_wait(self) -> Iterator[None]:
        """A full disk inside is told once; training goes on."""
        try:
            yield
        except EnvironmentFault as fault:
            self.may_wait(fault)

    def may_wait(self, fault: EnvironmentFault) -> None:
        """Raise the ``fault`` of a log, or of the status, unless it is that the disk is full."""
        if fault.name != "DISK-FULL":
            raise fault
        if not self._full:
            self._full = True
            self.notice(f"no room for logs, they wait in memory (said once): {fault}")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole rows of ``metrics.jsonl``."""
        lines = (self.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show ``values`` in TensorBoard."""
        if self._board:
            self._board.scalars(step, values)

    def picture(self, name: str, image: Any, step: int) -> None:
        """Show ``image`` (uint8 [H, W, 3]) in TensorBoard."""
        if self._board:
            self._board.picture(name, image, step)

    def write_log(self, name: str, text: str) -> Path:
        """Put ``text`` into ``logs/name``, without what the environment gave."""
        self.check()
        safe = without_secrets(text).encode(errors="backslashreplace")
        write_whole(self.folder / "logs" / name, safe)
        return self.folder / "logs" / name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self.record_end(error)
        finally:
            self._lock.release()

    def record_end(self, error: BaseException) -> None:
        """Record that ``error`` ended the run, as far as the disk takes it.

        ``error`` is the fault to report: none is raised here.
        """
        if self._begun:
            with suppress(SegkitError):
                self.settle()
            with suppress(SegkitError):
                self.status(**end_of(fault_of(error) or error))
        if not isinstance(error, Interrupted):
            with suppress(SegkitError):
                self.write_log("error-rank0.log", "".join(traceback.format_exception(error)))

    def finish(self, step: int) -> None:
        """Record that everything asked for is done."""
        self.settle()
        self.status("finished", code=0, error_id=None, step=step, **_ended())

    def left(self) -> None:
        """Record a second signal: the run stands at its last checkpoint."""
        self.status("interrupted", code=int(ExitCode.SIGINT), error_id="STOP-SIGINT", **_ended())


def end_of(error: BaseException) -> dict[str, Any]:
    """What ``status.json`` says of a run that ``error`` ended."""
    code = error.code if isinstance(error, SegkitError) else ExitCode.BUG
    name = error.id if isinstance(error, SegkitError) else type(error).__name__
    state = _END_STATES.get(code, "failed")
    return {"state": state, "code": int(code), "error_id": name, **_ended()}


def write_end(folder: Path, error: BaseException) -> None:
    """Record the end of a run whose own process is gone."""
    write_whole(folder / "status.json", _json({**read_status(folder), **end_of(error)}))


_END_STATES = {ExitCode.SIGINT: "interrupted", ExitCode.SIGTERM: "preempted"}


def read_status(folder: Path) -> dict[str, Any]:
    """What ``status.json`` of a run folder says; {} if there is none or it is unreadable."""
    try:
        status = json.loads((folder / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _holds_run(folder: Path, resume: bool) -> bool:
    """Whether a run is there to take up; ConfigError if that or something else is in the way."""
    used = {path.name for path in folder.iterdir()} - _HARMLESS
    if used and not resume:
        fix = "continue it with resume=true, or start another with name=..."
        raise ConfigError("RUN-EXISTS", folder, "holds a run already", fix)
    known = "run.json" in used or any(folder.glob("checkpoints/step-*"))
    foreign = sorted(name for name in used - _CREATED if not name.endswith(".tmp"))
    if foreign and not known:
        what = f"is in use ({foreign[0]}), but not by a run of segkit"
        raise ConfigError("RUN-FOREIGN", folder, what, "take another folder with name=...")
    return known


def _make_folders(folder: Path) -> None:
    for name in _FOLDERS:
        with faults(folder / name, 0):
            (folder / name).mkdir(exist_ok=True)


def _create(folder: Path, texts: Mapping[str, bytes], run_id: str) -> None:
    _make_folders(folder)
    for name, text in texts.items():
        write_whole(folder / name, text)
    for name in ("metrics.jsonl", "timing.jsonl"):
        write_whole(folder / name, b"")
    # Last, for it says that the folder holds a run.
    write_whole(folder / "run.json", _json({"id": run_id}))


def _clean_up(folder: Path, notice: Callable[[str], None]) -> None:
    left = clean(folder) + clean(folder / "checkpoints") + clean(folder / "logs")
    if left:
        notice(f"{folder}: removed {len(left)} unfinished files of a killed run")


def _tell_of_lost_end(folder: Path, notice: Callable[[str], None]) -> None:
    """Every end but kill -9 and a power cut leaves a record."""
    if read_status(folder).get("state") == "running":
        rows = _content(folder / "metrics.jsonl").splitlines(keepends=True)
        step = next((json.loads(row)["step"] for row in reversed(rows) if _is_whole(row)), 0)
        notice(f"{folder}: the previous run ended without a record at step {step}")


def _read_id(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError("DAMAGED", path, "names no run id") from error


def _cut_back(path: Path, step: int) -> None:
    """Drop the rows after ``step`` and a last line torn by a kill."""
    rows = _content(path).splitlines(keepends=True)
    _replace(path, b"".join(row for row in rows if _is_up_to(row, step)))


def _replace(path: Path, data: bytes) -> None:
    if not path.is_file() or _content(path) != data:
        write_whole(path, data)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _is_up_to(row: bytes, step: float) -> bool:
    try:
        return row.endswith(b"\n") and bool(json.loads(row)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def _is_whole(row: bytes) -> bool:
    return _is_up_to(row, math.inf)


def _ended() -> dict[str, str]:
    return {"finished_at": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()
