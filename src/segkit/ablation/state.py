"""How a job stands: what its run, its scores and its record say. Nothing here imports torch.

RUNS/jobs/RUN.json   what became of the job: state, code, the error's line, host, pid, times
RUNS/jobs/RUN.log    what its commands printed
RUNS/jobs/RUN.lock   held by whoever does the job
"""

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from segkit.ablation import scored
from segkit.ablation.jobs import Evaluation, Job, start_of
from segkit.engine.record import read_status
from segkit.errors import ConfigError, SegkitError, without_secrets
from segkit.lock import held
from segkit.stored import folder_values
from segkit.whole_files import faults, write_whole

# A job of another machine counts as running while it was heard of so lately. Its process cannot be
# asked from here, and one that was killed never says so; a training logs every few minutes.
HEARD_OF_SECONDS = 30 * 60


@dataclass(frozen=True)
class Standing:
    """How a job stands.

    ``state`` is waiting (not begun), submitted (a scheduler has it), running, stopped (the same
    command goes on), failed or done. ``step`` of ``steps`` updates are applied (0 of 0: not known);
    ``scores`` of ``evaluations`` are there. ``seconds`` of training are spent. ``code`` and
    ``line`` say what failed.
    """

    state: str
    step: int = 0
    steps: int = 0
    scores: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    code: int | None = None
    line: str = ""
    host: str = ""

    @property
    def percent(self) -> int:
        """Of the updates."""
        return 100 * self.step // self.steps if self.steps else 0


def standing(job: Job) -> Standing:
    """From the files alone."""
    record, status = read_record(job), read_status(job.run)
    scores = len(job.evaluations) - len(missing(job))
    state, why = _state(job, record, status, scores)
    step, seconds = timing_of(job.run)
    return Standing(
        state,
        step=max(step, int(status.get("step") or 0)),
        steps=steps_of(job.run),
        scores=scores,
        evaluations=len(job.evaluations),
        seconds=seconds,
        code=why.get("code"),
        line=str(why.get("line") or why.get("error_id") or ""),
        host=str(record.get("host", "")),
    )


def _state(
    job: Job, record: Mapping[str, Any], status: Mapping[str, Any], scores: int
) -> tuple[str, Mapping[str, Any]]:
    """The state, and of a failed one what holds the reason."""
    if fault := other_start(job):
        return "failed", {"code": int(fault.code), "line": bare(fault.line())}
    if scores == len(job.evaluations) and is_trained(job.run):
        return "done", {}
    if is_held(job, record):
        return "running", {}
    said = str(record.get("state", ""))
    if said == "running":  # and nobody is: it was killed
        return "stopped", {}
    if said == "submitting":  # killed before the scheduler answered; the next call asks it
        return "submitted", record
    if said in ("submitted", "failed", "stopped"):
        return said, record
    if status.get("state") == "failed":  # by a training that was typed by hand
        return "failed", status
    begun = status.get("state") in ("running", "interrupted", "preempted")
    return ("stopped" if begun else "waiting"), {}


def is_held(job: Job, record: Mapping[str, Any]) -> bool:
    """Whether somebody works on the job; another machine's word is taken for it, for a while."""
    here = record.get("host") in (None, platform.node())
    if not here and record.get("state") == "running" and quiet_seconds(job) < HEARD_OF_SECONDS:
        return True
    return is_locked(job)


def is_locked(job: Job) -> bool:
    """Whether a process of this machine works on the job, or trains its run by hand."""
    return held(lock_path(job)) or held(job.run / ".lock")


def quiet_seconds(job: Job) -> float:
    """Since the job's record, its log or its run's were written last."""
    names = ("status.json", "metrics.jsonl", "timing.jsonl", "checkpoints")
    heard = 0.0
    for path in (record_path(job), log_path(job), *(job.run / name for name in names)):
        with suppress(OSError):
            heard = max(heard, path.stat().st_mtime)
    return time.time() - heard


# -- trainings and scores --------------------------------------------------------------------------


def is_trained(run: Path) -> bool:
    return read_status(run).get("state") == "finished"


def has_weights(run: Path) -> bool:
    return any((run / "checkpoints").glob("step-*/checkpoint.json"))


def is_scored(job: Job, evaluation: Evaluation) -> bool:
    """Whether the score is there, of the network that the run has trained, and asked so."""
    if not is_trained(job.run) or other_start(job):
        return False
    try:
        score = scored.read_score(evaluation.score)
        if score is None:
            return False
        return scored.stale(scored.signature_of(score), job.run, evaluation.words) is None
    except ValueError:
        return False


def other_start(job: Job) -> SegkitError | None:
    """What is wrong if the run began with another network than the job asks for: the run's name
    says only that it began with a file."""
    asked = start_of(job.words)
    if asked in ("", "imagenet", "none"):  # of these the name tells
        return None
    began = start_in(job.run)
    if not began or _same_start(began, asked, job.begins):
        return None
    what = f"began with {began}, and pretrained={asked} is asked for"
    return ConfigError("RUN-START", job.run, what, "train it in another folder: runs=...")


def _same_start(began: str, asked: str, run: Path | None) -> bool:
    if run is not None:  # a run is known by its name, from wherever its folder is seen
        return Path(began).name == run.name
    one, other = (os.path.realpath(Path(name).expanduser()) for name in (began, asked))
    return one == other


def start_in(run: Path) -> str:
    """What the run in the folder began with, as typed then; "" if it does not say."""
    try:
        found = (run / "config.yaml").stat()
    except OSError:
        return ""
    return _start_in(run, (found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=1024)
def _start_in(run: Path, _changed: tuple[int, int]) -> str:
    return str(folder_values(run).get("pretrained") or "")


def missing(job: Job) -> tuple[Evaluation, ...]:
    """The evaluations without a score that counts."""
    return tuple(e for e in job.evaluations if not is_scored(job, e))


def needs_training(job: Job, jobs: Iterable[Job] = ()) -> bool:
    """Whether a network is wanted that is not there: for a score, or for another of ``jobs``."""
    if is_trained(job.run) and has_weights(job.run):
        return False
    return bool(missing(job)) or is_begun_from(job, jobs) or not is_trained(job.run)


def is_begun_from(job: Job, jobs: Iterable[Job]) -> bool:
    """Whether one of ``jobs`` that is not trained yet starts from this one's network."""
    return any(other.begins == job.run and needs_training(other, jobs) for other in jobs)


def steps_of(run: Path) -> int:
    """The updates that were asked for; 0 if the run's config cannot be read."""
    try:
        return sum(int(stage["steps"]) for stage in folder_values(run)["schedule"]["stages"])
    except (KeyError, TypeError, ValueError):
        return 0


def timing_of(run: Path) -> tuple[int, float]:
    """The last step that was timed, and the seconds of training so far."""
    try:
        rows = (run / "timing.jsonl").read_bytes().splitlines()
    except OSError:
        return 0, 0.0
    step, seconds = 0, 0.0
    for row in rows:
        with suppress(ValueError, TypeError, KeyError):  # a last line torn by a kill
            timed = json.loads(row)
            step, seconds = int(timed["step"]), seconds + float(timed["seconds"])
    return step, seconds


def bare(line: str) -> str:
    """An error's line as a part of another: without the program's name."""
    return line.removeprefix("segkit: ")


# -- the job's own record --------------------------------------------------------------------------


def folder_of(job: Job) -> Path:
    """RUNS/jobs."""
    return job.run.parent / "jobs"


def record_path(job: Job) -> Path:
    return folder_of(job) / f"{job.name}.json"


def lock_path(job: Job) -> Path:
    return folder_of(job) / f"{job.name}.lock"


def log_path(job: Job) -> Path:
    return folder_of(job) / f"{job.name}.log"


def read_record(job: Job) -> dict[str, Any]:
    """{} if there is none or it is unreadable."""
    try:
        record = json.loads(record_path(job).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(job: Job, state: str, **facts: Any) -> None:
    """Replace the record: who has the job now, its rows, and ``facts``.

    ``submission`` (which scheduler was given the job, under which id) and ``weights`` stay until
    there are others.
    """
    former = read_record(job)
    kept = {key: former[key] for key in ("submission", "weights") if former.get(key)}
    document = {
        "state": state,
        "rows": list(job.rows),
        **kept,
        "host": platform.node(),
        "pid": os.getpid(),
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **facts,
    }
    _replace_record(job, document)


# Of weights that a call made which keeps none: they may go, or have gone.
PASSING, GONE = "passing", "gone"


def weights_said(job: Job) -> str:
    """What the record says of this very run's weights: ``PASSING``, ``GONE``, or "" for those that
    somebody keeps."""
    said, run = read_record(job).get("weights"), read_status(job.run).get("run")
    if not isinstance(said, dict) or run is None or said.get("run") != run:
        return ""
    return str(said.get("state", ""))


def say_weights(job: Job, state: str) -> None:
    """Note it beside what the record says already."""
    said = {"run": read_status(job.run).get("run"), "state": state}
    _replace_record(job, {**read_record(job), "weights": said})


def _replace_record(job: Job, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    with faults(folder_of(job), 0):
        folder_of(job).mkdir(parents=True, exist_ok=True)
    write_whole(record_path(job), without_secrets(text).encode())
