"""One job done: train, tune where asked, score what is missing; each as a command of segkit.

The commands are those that anybody can type. Killed at any moment, the same job done again does
what is missing.
"""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segkit.ablation.jobs import Evaluation, Job
from segkit.ablation.state import (
    folder_of,
    has_weights,
    is_begun_from,
    is_trained,
    lock_path,
    log_path,
    missing,
    needs_training,
    read_record,
    write_record,
)
from segkit.errors import EnvironmentFault, ExitCode
from segkit.lock import Lock, held
from segkit.whole_files import faults, write_whole

# A command's words and the file its output goes to -> its exit code.
Command = Callable[[Sequence[str], Path], int]

STOPPED = (ExitCode.SIGINT, ExitCode.SIGTERM)
# What crf tune looks for itself, or will not hear.
_NOT_TUNED = ("crf=", "densecrf.", "devices=")


@dataclass(frozen=True)
class Outcome:
    """What became of a job: ``state`` is done, failed, stopped or busy (another process has it).

    ``code`` is the exit code of the first command that failed and ``line`` its error; ``what`` says
    what was done, for people.
    """

    state: str
    code: int = 0
    line: str = ""
    what: str = ""
    seconds: float = 0.0


def commands(job: Job) -> Iterator[tuple[str, ...]]:
    """Every command of ``job`` as it is typed, without ``segkit``."""
    yield training(job)
    for evaluation in job.evaluations:
        if evaluation.tune:
            yield tuning(job, evaluation)
        yield scoring(job, evaluation)


def typed(command: Sequence[str]) -> str:
    return shlex.join(["segkit", *command])


def do(
    job: Job,
    *,
    command: Command,
    keep_weights: bool,
    should_stop: Callable[[], bool],
    among: Sequence[Job] = (),
) -> Outcome:
    """Do what is missing of ``job``, and record it. No fault of a command is raised.

    Without ``keep_weights`` the checkpoints go once all is scored, unless one of the jobs ``among``
    which it is done begins with them (``sweep_weights`` is for those). Raises EnvironmentFault
    where the record cannot be written.
    """
    with faults(folder_of(job), 0):
        folder_of(job).mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(lock_path(job), "JOB-LOCKED", "wait for it")
    except EnvironmentFault as fault:
        if fault.name != "JOB-LOCKED":
            raise
        return Outcome("busy", int(fault.code), fault.what)
    try:
        outcome = _Doing(job, command, should_stop).all(among)
        if outcome.state == "done" and not keep_weights and not is_begun_from(job, among):
            drop_weights(job.run)
        return outcome
    finally:
        lock.release()


def sweep_weights(jobs: Sequence[Job], among: Sequence[Job]) -> None:
    """Remove the checkpoints of those ``jobs`` that are done, unless one ``among`` all is still to
    begin with them, or another process works on them."""
    for job in jobs:
        if held(lock_path(job)):
            continue
        if not missing(job) and is_trained(job.run) and not is_begun_from(job, among):
            drop_weights(job.run)


class _Doing:
    def __init__(self, job: Job, command: Command, should_stop: Callable[[], bool]) -> None:
        self.job, self.command, self.should_stop = job, command, should_stop
        self.failed: dict[str, dict[str, object]] = {}
        self.done: list[str] = []
        self.began = time.monotonic()

    def all(self, among: Sequence[Job]) -> Outcome:
        left = missing(self.job)
        begun = bool(left) or needs_training(self.job, among)
        if begun:
            write_record(self.job, "running")
            if self.train():
                for evaluation in left:
                    self.score(evaluation)
            if not self.failed and missing(self.job):
                line = f"no score came of it; see {log_path(self.job)}"
                self.failed["eval"] = {"code": int(ExitCode.BUG), "line": line}
        outcome = self.outcome()
        if begun or read_record(self.job).get("state") != outcome.state:
            facts = {"code": outcome.code, "line": outcome.line, "failed": self.failed}
            write_record(self.job, outcome.state, seconds=round(outcome.seconds, 3), **facts)
        return outcome

    def train(self) -> bool:
        """Whether there is a trained network now."""
        run = self.job.run
        if is_trained(run) and has_weights(run):
            return True
        again = is_trained(run)
        if again:
            start_afresh(run)
        if not self.run("train", training(self.job)):
            return False
        self.done.append("trained again, for its weights were gone" if again else "trained")
        return True

    def score(self, evaluation: Evaluation) -> None:
        name = evaluation.name
        found: tuple[str, ...] = ()
        if evaluation.tune:
            if not self.run(name, tuning(self.job, evaluation)):
                return
            found = tuned_words(evaluation)
        if self.run(name, scoring(self.job, evaluation, found)):
            self.done.append("scored")

    def run(self, name: str, words: tuple[str, ...]) -> bool:
        """Whether the command went well; nothing is begun once somebody asked to stop."""
        if self.should_stop() or self.stopped():
            self.failed.setdefault("stop", {"code": int(ExitCode.SIGINT), "line": "stopped"})
            return False
        log = log_path(self.job)
        with faults(log, 0), log.open("ab") as file:
            file.write(f"$ {typed(words)}\n".encode())
            begin = file.tell()
        code = self.command(words, log)
        if code:
            line = last_error(log, begin) or f"segkit {words[0]} left with {code}; see {log}"
            self.failed[name] = {"code": code, "line": line, "command": typed(words)}
        return not code

    def stopped(self) -> bool:
        return any(fault["code"] in STOPPED for fault in self.failed.values())

    def outcome(self) -> Outcome:
        seconds = time.monotonic() - self.began
        scores = self.done.count("scored")
        what = [word for word in self.done if word != "scored"]
        what += [f"{scores} score{'s' if scores > 1 else ''}"] if scores else []
        told = ", ".join(what) or "nothing to do"
        if not self.failed:
            return Outcome("done", 0, "", told, seconds)
        stops = [fault for fault in self.failed.values() if fault["code"] in STOPPED]
        first = stops[0] if stops else next(iter(self.failed.values()))
        state = "stopped" if stops else "failed"
        return Outcome(state, int(str(first["code"])), str(first["line"]), told, seconds)


# -- the commands ----------------------------------------------------------------------------------


def training(job: Job) -> tuple[str, ...]:
    """The training. What is the default is not typed: with --config-dir . a folder ``runs`` in it
    would be taken for a group."""
    home = str(job.run.parent)
    runs = (f"runs={home}",) if home != "runs" else ()
    return ("train", *job.words, *runs, "resume=true", *_whose(job))


def scoring(job: Job, evaluation: Evaluation, found: Sequence[str] = ()) -> tuple[str, ...]:
    """The evaluation; ``found`` are the CRF's parameters from a search before."""
    asked = evaluation.words
    if evaluation.tune:
        given = {word.partition("=")[0] for word in found}
        asked = tuple(word for word in asked if word.partition("=")[0] not in given)
    out = f"out={evaluation.folder}"
    return ("eval", f"ckpt={job.run}", *asked, *found, out, *_whose(job))


def tuning(job: Job, evaluation: Evaluation) -> tuple[str, ...]:
    asked = [word for word in evaluation.words if not word.startswith(_NOT_TUNED)]
    asked += [w for w in evaluation.words if w.startswith(("densecrf.backend", "densecrf.iter"))]
    size, out = f"n={evaluation.tune}", f"out={tuning_folder(evaluation)}"
    return ("crf", "tune", f"ckpt={job.run}", *asked, size, out, *_whose(job))


def tuning_folder(evaluation: Evaluation) -> Path:
    return evaluation.folder / "tune"


def tuned_words(evaluation: Evaluation) -> tuple[str, ...]:
    """What the search found, as words."""
    node = json.loads((tuning_folder(evaluation) / "tune.json").read_bytes())["densecrf"]
    return tuple(
        f"densecrf.{key}={f'{value:g}' if isinstance(value, float) else value}"
        for key, value in node.items()
    )


def _whose(job: Job) -> tuple[str, ...]:
    """The user's own configs and classes."""
    folder = ("--config-dir", job.config_dir) if job.config_dir else ()
    return (*folder, *(word for module in job.trust for word in ("--trust", module)))


def last_error(log: Path, begin: int) -> str:
    """The last line that a command put into ``log`` as its error, after byte ``begin``."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    said = [line for line in lines if line.startswith("segkit: error[")]
    return said[-1] if said else ""


# -- weights ---------------------------------------------------------------------------------------


def drop_weights(run: Path) -> None:
    """Remove the checkpoints; what the run recorded and its scores stay."""
    for path in (run / "checkpoints").glob("*"):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def start_afresh(run: Path) -> None:
    """Have the next ``resume=true`` train the run from its first step."""
    drop_weights(run)
    for name in ("metrics.jsonl", "timing.jsonl"):
        write_whole(run / name, b"")
    (run / "status.json").unlink(missing_ok=True)
