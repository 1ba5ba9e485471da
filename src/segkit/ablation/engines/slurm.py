"""On a cluster: one batch job for each training, under hydra-submitit-launcher's own options.

A job is the command of ``alone``, on the command line of its batch script; nothing is pickled.
RUNS/jobs/slurm (mode 700) has the scripts and what the jobs print. What became of a job is read
from its record; that it is still under way, from the queue.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from segkit.ablation import submissions
from segkit.ablation.alone import words_of
from segkit.ablation.engines import Told
from segkit.ablation.engines.clusters import Cluster, Unclear, cluster_of
from segkit.ablation.engines.local import code_of
from segkit.ablation.jobs import Job
from segkit.ablation.state import (
    folder_of,
    is_held,
    is_locked,
    needs_training,
    read_record,
    standing,
)
from segkit.ablation.submissions import Submission, failed
from segkit.ablation.work import Outcome
from segkit.engine.signals import Stop
from segkit.errors import EnvironmentFault, ExitCode, SegkitError

ENGINE = "slurm"
ENDS = ("done", "failed")  # of a record; one that stopped is queued again
# Between two looks at the queue: more and more.
FIRST_LOOK, LAST_LOOK = 1.0, 20.0
# A record may become visible here later than its job leaves the queue.
LOOKS_WITHOUT = 3


def run(jobs: Sequence[Job], values: Mapping[str, Any], *, stop: Stop, told: Told) -> list[Outcome]:
    """Hand over what is neither done nor under way; wait for all of it, unless ``wait=false``.

    Raises EnvironmentFault without the launcher or SLURM's commands, ConfigError for an option.
    """
    if not jobs:
        return []
    cluster = cluster_of(folder_of(jobs[0]) / ENGINE, values)
    table = Submitted(cluster, jobs, bool(values["scale"]["keep_weights"]), told)
    table.take_up()
    table.hand_over(stop)
    if values["engine"]["options"].get("wait", True):
        table.wait(stop)
    table.leave(stop)
    return [table.outcomes[job.name] for job in jobs]


class Submitted:
    """The jobs of a call: those that wait for a place, those under way, those that ended."""

    def __init__(
        self, cluster: Cluster, jobs: Sequence[Job], keep_weights: bool, told: Told
    ) -> None:
        self.cluster, self.jobs, self.keep_weights, self.told = cluster, jobs, keep_weights, told
        self.waiting: list[Job] = []
        self.under_way: dict[str, tuple[Job, Submission]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._looks_without: dict[str, int] = {}
        self._said = ""

    def take_up(self) -> None:
        """See what earlier calls left: nothing is handed over twice."""
        former = {job.name: s for job in self.jobs if (s := submissions.last(job, ENGINE))}
        live, fault = self._live(list(former.values()))
        for job in self.jobs:
            submission = former.get(job.name)
            if not needs_training(job, self.jobs) and standing(job).state == "done":
                self.end(job, Outcome("done", what="nothing to do"))
            elif submission and fault and read_record(job).get("state") not in ENDS:
                # It may be under way.
                self.end(job, failed(fault))
            elif submission and submission.token in live:
                known = replace(submission, id=live[submission.token])
                self.under_way[job.name] = job, known
                self.say(f"{job.name}: is under way as {known.id}")
            elif self._is_busy(job, submission):
                what = "another process works on it"
                self.end(job, Outcome("busy", int(ExitCode.ENVIRONMENT), what))
            else:
                self.waiting.append(job)

    def _is_busy(self, job: Job, submission: Submission | None) -> bool:
        """Somebody else has it. The record of a job that left the queue is no sign of life."""
        if submission is None:
            return is_held(job, read_record(job))
        return is_locked(job)

    def hand_over(self, stop: Stop) -> None:
        """As many as there is room for, in the order of the plan."""
        for job in list(self.waiting):
            full = self.cluster.at_once is not None and len(self.under_way) >= self.cluster.at_once
            if stop or full:
                return
            before = [s for other, s in self.under_way.values() if other.run == job.begins]
            waits = any(other.run == job.begins for other in self.waiting)
            if waits or (before and not self.cluster.orders):
                continue
            self.waiting.remove(job)
            self._submit(job, [s.id for s in before if s.id])

    def _submit(self, job: Job, after: list[str]) -> None:
        words = words_of(job, self.jobs, self.keep_weights)
        try:
            submission = submissions.begin(job, ENGINE)
            try:
                submission = self.cluster.submit(job, words, submission, after)
            except Unclear as unclear:  # the record says "submitting": the next call asks the queue
                self.end(job, failed(unclear.fault))
                return
            except SegkitError as error:
                submissions.refused(job, failed(error))
                raise
            self.under_way[job.name] = job, submission
            with suppress(SegkitError):  # the token is noted; the id is for people
                submissions.taken(job, submission)
            self.say(f"{job.name}: submitted as {submission.id}")
        except SegkitError as error:  # this job's own failure, and no other's
            self.end(job, failed(error))

    def wait(self, stop: Stop) -> None:
        pause = FIRST_LOOK
        while (self.under_way or self.waiting) and not stop:
            until = time.monotonic() + pause
            while time.monotonic() < until and not stop:
                time.sleep(0.1)
            before = len(self.outcomes)
            self.look()
            self.hand_over(stop)
            pause = FIRST_LOOK if len(self.outcomes) > before else min(pause * 1.5, LAST_LOOK)

    def look(self) -> None:
        """End what has ended."""
        live, fault = self._live([submission for _, submission in self.under_way.values()])
        for job, submission in list(self.under_way.values()):
            if submission.token in live or fault:
                self._looks_without[job.name] = 0
            else:
                self._looks_without[job.name] = self._looks_without.get(job.name, 0) + 1
            ended = read_record(job).get("state") in ENDS
            if ended or self._looks_without[job.name] >= LOOKS_WITHOUT:
                del self.under_way[job.name]
                said = submissions.outcome_of(job, f"job {submission.id}")
                self.end(job, said or self._gone(job, submission))
        running = sum(standing(job).state == "running" for job, _ in self.under_way.values())
        queued_now = len(self.under_way) - running + len(self.waiting)
        blind = f" ({fault}; looking on)" if fault else ""
        ended_now = f"{len(self.outcomes)} ended{blind}"
        self.say(f"{ENGINE}: {queued_now} waiting, {running} running, {ended_now}")

    def _gone(self, job: Job, submission: Submission) -> Outcome:
        said = self.cluster.end_of(submission)
        what = f"job {submission.id} left the queue{f' as {said}' if said else ''} without a word"
        fix = f"see {submission.log}; the same command submits it again"
        outcome = failed(EnvironmentFault("JOB-GONE", job.run, what, fix))
        submissions.refused(job, outcome)
        return outcome

    def leave(self, stop: Stop) -> None:
        """What this call does not wait for stays where it is."""
        for job in self.waiting:
            self.end(job, Outcome("stopped", code_of(stop), "it was not submitted yet"))
        ids = [str(submission.id) for _, submission in self.under_way.values()]
        for job, submission in self.under_way.values():
            if stop:
                outcome = Outcome("stopped", code_of(stop), f"job {submission.id} goes on")
            else:
                outcome = Outcome("submitted", 0, f"job {submission.id}")
            self.end(job, outcome)
        if ids:
            said = f"{len(ids)} jobs go on; the same command collects them"
            self.say(f"{ENGINE}: {said}, {self.cluster.ends} {' '.join(ids)} ends them")

    def end(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.name] = outcome
        self.told(job, outcome)

    def say(self, text: str) -> None:
        """A line of how it goes, where it is another one."""
        if text != self._said:
            print(text, file=sys.stderr, flush=True)
        self._said = text

    def _live(self, asked: list[Submission]) -> tuple[dict[str, str], SegkitError | None]:
        try:
            return (self.cluster.live(asked) if asked else {}), None
        except SegkitError as error:
            return {}, error
