"""The weights of a table's trainings: when they go, and how a training begins again without them.

Only those go that a call trained which keeps none (``scale.keep_weights=false``); what was trained
by hand, or to be kept, stays.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from segkit.ablation.jobs import Job
from segkit.ablation.state import (
    GONE,
    is_begun_from,
    is_trained,
    lock_path,
    missing,
    say_weights,
    weights_said,
)
from segkit.errors import EnvironmentFault, SegkitError
from segkit.lock import Lock
from segkit.whole_files import faults

# What says that a run is trained, and how; the first of them alone decides.
_TOLD = ("status.json", "metrics.jsonl", "timing.jsonl")


def sweep_weights(jobs: Sequence[Job], among: Sequence[Job]) -> None:
    """Remove the checkpoints of those ``jobs`` that are done, unless one ``among`` all is still to
    begin with them, or another process works on them. Those that were trained by hand, or by a call
    that keeps weights, stay."""
    for job in jobs:
        if not weights_said(job):
            continue
        try:
            lock = Lock(lock_path(job), "JOB-LOCKED", "wait for it")
        except EnvironmentFault:
            continue
        try:
            if not missing(job) and is_trained(job.run) and not is_begun_from(job, among):
                drop_weights(job)
        finally:
            lock.release()


def linked(run: Path) -> bool:
    """Whether the checkpoints lie elsewhere, on a disk that may not be there now."""
    return run.is_symlink() or (run / "checkpoints").is_symlink()


def drop_weights(job: Job) -> None:
    """Remove the checkpoints that a call made which keeps none; what the run recorded and its
    scores stay."""
    left = sorted((job.run / "checkpoints").glob("*"))
    if not left or linked(job.run) or not weights_said(job):
        return
    with suppress(SegkitError):  # unsaid, they stay
        say_weights(job, GONE)
        for path in left:
            remove_checkpoint(path)


def remove_checkpoint(path: Path) -> None:
    """Its manifest first: killed on the way, what is left is no checkpoint."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        (path / "checkpoint.json").unlink(missing_ok=True)
        shutil.rmtree(path)


def start_afresh(run: Path) -> None:
    """Have the next ``resume=true`` train the run from its first step. ``put_back`` undoes it where
    that one does not come to its beginning."""
    for path in (run / "checkpoints").glob("*"):
        remove_checkpoint(path)
    aside = run / "before"
    with faults(aside, 0):
        aside.mkdir(exist_ok=True)
        for name in _TOLD:
            if (run / name).exists():
                (run / name).replace(aside / name)


def put_back(run: Path) -> None:
    """End a ``start_afresh``: without a status of its own, the new training has not begun."""
    aside = run / "before"
    if not aside.is_dir():
        return
    with faults(aside, 0):
        if not (run / "status.json").exists():
            for name in reversed(_TOLD):  # the status last
                if (aside / name).exists():
                    (aside / name).replace(run / name)
        shutil.rmtree(aside)
