"""What was handed to a scheduler: noted in the job's record before and after, so that nothing is
handed over twice, whatever dies in between."""

import secrets
from dataclasses import asdict, dataclass

from segkit.ablation.jobs import Job
from segkit.ablation.state import bare, read_record, write_record
from segkit.ablation.work import Outcome
from segkit.errors import SegkitError


@dataclass(frozen=True)
class Submission:
    """``token`` is in the scheduler's name of the job; ``id`` None until the scheduler said it.

    ``log`` is the file with what the job prints there.
    """

    engine: str
    token: str
    id: str | None = None
    log: str = ""


def begin(job: Job, engine: str) -> Submission:
    """Note that the job is about to be handed over."""
    submission = Submission(engine, secrets.token_hex(4))
    write_record(job, "submitting", submission=asdict(submission))
    return submission


def taken(job: Job, submission: Submission) -> None:
    """Note that the scheduler has it, unless the job has said more by itself already.

    It is then known by its token alone.
    """
    if read_record(job).get("state") == "submitting":
        write_record(job, "submitted", submission=asdict(submission))


def refused(job: Job, outcome: Outcome) -> None:
    """Note that no scheduler has it (any more), and why."""
    write_record(job, "failed", submission=None, code=outcome.code, line=outcome.line)


def outcome_of(job: Job, what: str) -> Outcome | None:
    """What the job itself said at its end; ``what`` is said of one that is done."""
    record = read_record(job)
    state = str(record.get("state"))
    if state not in ("done", "failed", "stopped"):
        return None
    code, line = int(record.get("code") or 0), str(record.get("line") or "")
    return Outcome(state, code, line, what, float(record.get("seconds") or 0))


def failed(error: SegkitError) -> Outcome:
    return Outcome("failed", int(error.code), bare(error.line()))


def last(job: Job, engine: str) -> Submission | None:
    """The last one to ``engine``, which may still be under way."""
    said = read_record(job).get("submission")
    if not isinstance(said, dict) or said.get("engine") != engine or not said.get("token"):
        return None
    number = said.get("id")
    log = str(said.get("log", ""))
    return Submission(engine, str(said["token"]), None if number is None else str(number), log)
