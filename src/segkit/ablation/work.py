"""One job done: train, tune where asked, score what is missing; each as a command of segkit.

The commands are those that anybody can type. Killed at any moment, the same job done again does
what is missing.
"""

import json
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segkit.ablation.jobs import Evaluation, Job
from segkit.ablation.state import (
    GONE,
    PASSING,
    bare,
    folder_of,
    has_weights,
    is_begun_from,
    is_trained,
    lock_path,
    log_path,
    missing,
    needs_training,
    other_start,
    read_record,
    say_weights,
    weights_said,
    write_record,
)
from segkit.ablation.weights import drop_weights, linked, put_back, start_afresh
from segkit.errors import CheckpointError, EnvironmentFault, ExitCode, SegkitError, one_line
from segkit.lock import Lock
from segkit.whole_files import faults

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

    Without ``keep_weights`` the checkpoints of a run that such a call trained go once all is
    scored, unless one of the jobs ``among`` which it is done begins with them (``sweep_weights`` is
    for those). Raises EnvironmentFault where the record cannot be written.
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
        outcome = _Doing(job, command, should_stop, keep_weights).all(among)
        if outcome.state == "done" and not keep_weights and not is_begun_from(job, among):
            drop_weights(job)
        return outcome
    finally:
        lock.release()


class _Doing:
    def __init__(
        self, job: Job, command: Command, should_stop: Callable[[], bool], keep_weights: bool
    ) -> None:
        self.job, self.command, self.should_stop = job, command, should_stop
        self.keep_weights = keep_weights
        self.failed: dict[str, dict[str, object]] = {}
        self.done: list[str] = []
        self.began = time.monotonic()

    def all(self, among: Sequence[Job]) -> Outcome:
        put_back(self.job.run)
        left, other = missing(self.job), other_start(self.job)
        begun = bool(left) or other is not None or needs_training(self.job, among)
        if begun:
            write_record(self.job, "running")
            try:
                if other is not None:
                    raise other
                if self.train():
                    for evaluation in left:
                        self.score(evaluation)
            except Exception as error:  # whatever it is, the other jobs go on
                self.take("job", error)
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
        # A run that somebody else began stays his.
        mine = bool(weights_said(self.job)) or not (run / "run.json").exists()
        if again:
            self.check_gone()
            start_afresh(run)
        try:
            trained = self.run("train", training(self.job))
        finally:
            put_back(run)
        if mine and (run / "status.json").exists():
            say_weights(self.job, "" if self.keep_weights else PASSING)
        if not trained:
            return False
        self.done.append("trained again, for its weights were gone" if again else "trained")
        return True

    def check_gone(self) -> None:
        """Raise CheckpointError unless a call like this one removed the weights itself: a finished
        training is not thrown away because its disk is not there today."""
        run = self.job.run
        if weights_said(self.job) == GONE and not self.keep_weights and not linked(run):
            return
        fix = f"bring {run / 'checkpoints'} back, or remove {run} to train it again"
        if weights_said(self.job) == GONE and self.keep_weights:
            fix = f"remove {run} to train it again, or type scale.keep_weights=false"
        raise CheckpointError("WEIGHTS-GONE", run, "is trained, and its weights are gone", fix)

    def score(self, evaluation: Evaluation) -> None:
        name = evaluation.name
        found: tuple[str, ...] = ()
        if evaluation.tune:
            if not self.run(name, tuning(self.job, evaluation)):
                return
            try:
                found = tuned_words(evaluation)
            except SegkitError as error:
                self.take(name, error)
                return
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

    def take(self, name: str, error: Exception) -> None:
        """Note that ``error`` ended the step ``name``."""
        code, line = int(ExitCode.BUG), f"segkit: {type(error).__name__}: {one_line(str(error))}"
        if isinstance(error, SegkitError):
            code, line = int(error.code), bare(error.line())
        else:
            with suppress(OSError), log_path(self.job).open("a", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
        self.failed[name] = {"code": code, "line": line}

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
    """What the search found, as words. EnvironmentFault for a file that does not say."""
    path = tuning_folder(evaluation) / "tune.json"
    try:
        node = json.loads(path.read_bytes())["densecrf"]
        return tuple(
            f"densecrf.{key}={f'{value:g}' if isinstance(value, float) else value}"
            for key, value in node.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"does not say what the search found ({type(error).__name__})"
        raise EnvironmentFault("TUNE", path, what, "remove it; the same command goes on") from error


def _whose(job: Job) -> tuple[str, ...]:
    """The user's own configs and classes."""
    folder = ("--config-dir", job.config_dir) if job.config_dir else ()
    return (*folder, *(word for module in job.trust for word in ("--trust", module)))


def last_error(log: Path, begin: int) -> str:
    """The last line that a command put into ``log`` as its error, after byte ``begin``."""
    with faults(log, 0), log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    said = [line for line in lines if line.startswith("segkit: error[")]
    return bare(said[-1]) if said else ""
