"""One job by itself, wherever a scheduler puts it: ``python -m segkit.ablation.alone JOB``.

JOB is the job as JSON, on the command line: what runs on another machine can be read in its batch
script and typed again, and nothing that somebody else could have changed since is loaded.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segkit import ranks
from segkit.ablation.jobs import Evaluation, Job
from segkit.lifeline import end_with_parent


def words_of(job: Job, others: Sequence[Job], keep_weights: bool) -> list[str]:
    """The command line that does ``job`` in the folder in which it was planned.

    ``others`` of the same call may begin with its network.
    """
    begun = any(other.begins == job.run for other in others)
    text = json.dumps(
        {**asdict(job), "keep_weights": keep_weights, "begun_from": begun}, default=str
    )
    return [sys.executable, "-P", "-m", "segkit.ablation.alone", text]


def read(text: str) -> tuple[Job, bool, bool]:
    """The job in ``words_of``'s last word; whether its weights are kept, and others begin there."""
    made: dict[str, Any] = json.loads(text)
    job = Job(
        run=Path(made["run"]),
        words=tuple(made["words"]),
        evaluations=tuple(map(_evaluation, made["evaluations"])),
        rows=tuple(made["rows"]),
        config_dir=made["config_dir"],
        trust=tuple(made["trust"]),
        begins=Path(made["begins"]) if made["begins"] else None,
    )
    return job, made["keep_weights"], made["begun_from"]


def _evaluation(made: dict[str, Any]) -> Evaluation:
    return Evaluation(made["name"], tuple(made["words"]), Path(made["folder"]), made["tune"])


def main(argv: Sequence[str]) -> int:
    """Do the job; its exit code. 143 asks a scheduler to have it done again."""
    from segkit.ablation.engines.local import Rules, in_this_process, safely
    from segkit.engine.signals import stopping

    if parent := os.environ.pop(ranks.CHILD, ""):
        end_with_parent(int(parent), signal.SIGTERM)
    job, keep, begun_from = read(argv[0])
    print(f"{job.name}: {', '.join(job.rows)}", flush=True)
    # One that begins here stands for all of them: what to train and to keep hangs on it.
    among = [job, *([replace(job, run=job.run / "next", begins=job.run)] if begun_from else [])]
    with stopping() as stop:
        outcome = safely(job, in_this_process, Rules(keep, among, stop))
    print(f"{job.name}: {outcome.state} ({outcome.what})", flush=True)
    if outcome.line:
        print(outcome.line, file=sys.stderr, flush=True)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
