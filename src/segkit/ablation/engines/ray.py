"""On a Ray cluster, or a Ray of this machine alone: one task for each training.

The options are hydra-ray-launcher's: ``init`` goes to ``ray.init``, ``remote`` to ``ray.remote``. A
task runs the command of ``alone`` in a process of its own, and that process ends with it.
"""

import importlib
import inspect
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segkit import ranks
from segkit.ablation import submissions
from segkit.ablation.alone import words_of
from segkit.ablation.engines import Told
from segkit.ablation.engines.local import code_of
from segkit.ablation.jobs import Job
from segkit.ablation.state import (
    folder_of,
    is_held,
    lock_path,
    log_path,
    read_record,
    write_record,
)
from segkit.ablation.submissions import failed
from segkit.ablation.work import Outcome
from segkit.conf_files import nearest
from segkit.engine.signals import Stop
from segkit.errors import ConfigError, EnvironmentFault, ExitCode, SegkitError, one_line
from segkit.lock import held
from segkit.whole_files import faults

LOOK_SECONDS = 0.5
# What stopped trainings may take to save.
STOP_SECONDS = 120.0
BUSY = Outcome("busy", int(ExitCode.ENVIRONMENT), "another process works on it")
# For a Ray of our own: no web page, and as little shared memory as hydra-ray-launcher takes.
OWN_RAY = {"include_dashboard": False, "object_store_memory": 78643200, "log_to_driver": False}
# Nothing is sent unless asked for; a busy machine takes more than half a minute to start a Ray.
SURROUNDINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "90"}
# What a task's process must know of the machine that planned it.
TOLD_ALONG = ("SEGKIT_DATA", "SEGKIT_WEIGHTS", "SEGKIT_TRACE")


def run(jobs: Sequence[Job], values: Mapping[str, Any], *, stop: Stop, told: Told) -> list[Outcome]:
    """Do ``jobs``, as many at once as Ray has room for.

    Raises EnvironmentFault without Ray or where it does not start, ConfigError for an option.
    """
    if not jobs:
        return []
    options = checked(values["engine"]["options"])
    with started(options["init"]) as ray:
        task = ray.remote(**resources(ray, values, options["remote"]))(do_alone)
        tasks = Tasks(ray, task, jobs, bool(values["scale"]["keep_weights"]), told)
        tasks.begin()
        tasks.wait(stop)
    return [tasks.outcomes[job.name] for job in jobs]


def checked(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Both nodes of options. ConfigError names one that Ray does not know."""
    for name in given:
        if name not in ("init", "remote"):
            key, what = f"engine.options.{name}", "no such option"
            raise ConfigError("UNKNOWN-KEY", key, what + nearest(name, ("init", "remote")))
    init = dict(given.get("init") or {})
    known = [name for name in inspect.signature(package().init).parameters if name != "kwargs"]
    for name in init:
        if name not in known and not name.startswith("_"):
            key = f"engine.options.init.{name}"
            raise ConfigError("UNKNOWN-KEY", key, "no such option" + nearest(name, known))
    return {"init": init, "remote": dict(given.get("remote") or {})}


def package() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        what = f"ray cannot be imported ({error})"
        fix = "pip install 'segkit[ray]', or engine=local"
        raise EnvironmentFault("EXTRA", "engine=ray", what, fix) from error


@contextmanager
def started(init: Mapping[str, Any]) -> Iterator[Any]:
    """Ray, as it runs already or started for the time inside. Our signal handlers stay ours."""
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    ray = package()
    if ray.is_initialized():
        yield ray
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    joined = init.get("address") not in (None, "local")
    try:
        ray.init(**({} if joined else OWN_RAY) | dict(init))
    except Exception as error:
        what = f"Ray does not start ({type(error).__name__}: {one_line(str(error))})"
        fix = "see engine.options.init, or take engine=local"
        raise EnvironmentFault("RAY", "engine=ray", what, fix) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def resources(ray: Any, values: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What a task takes: its GPUs, or its share of a machine's cores. A dead worker is told."""
    at_once, devices = values["engine"]["per_device"], values["devices"]
    if values["device"] != "cpu" and ray.cluster_resources().get("GPU"):
        share: dict[str, Any] = {"num_gpus": devices if devices > 1 else 1 / at_once}
    else:
        cores = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        share = {"num_cpus": max(1, int(cores) // at_once)}
    return {**share, "max_retries": 0, **typed}


def do_alone(
    words: Sequence[str],
    folder: str,
    log: str,
    environment: Mapping[str, str],
    *after: int,  # noqa: ARG001
) -> int:
    """The task: a job's command in ``folder``; its exit code. ``after``: those that came before."""
    mine = {**os.environ, **environment, ranks.CHILD: str(os.getpid())}
    if os.environ.get("CUDA_VISIBLE_DEVICES"):  # Ray counts cores; a training on a GPU is given one
        mine.pop("OMP_NUM_THREADS", None)
    with Path(folder, log).open("ab") as file:
        child = subprocess.Popen(
            words, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=mine
        )
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # how Ray cancels a task
                child.send_signal(signal.SIGTERM)


class Tasks:
    """The tasks of a call, and what became of them."""

    def __init__(
        self, ray: Any, task: Any, jobs: Sequence[Job], keep_weights: bool, told: Told
    ) -> None:
        self.ray, self.task, self.jobs = ray, task, jobs
        self.keep_weights, self.told = keep_weights, told
        self.outcomes: dict[str, Outcome] = {}
        self._under_way: dict[Any, Job] = {}

    def begin(self) -> None:
        """All of them; Ray keeps them until there is room, and until what they begin with is."""
        along = {name: os.environ[name] for name in TOLD_ALONG if name in os.environ}
        by_run: dict[Path, Any] = {}
        for job in self.jobs:
            if is_held(job, read_record(job)):  # its record is that of who has it
                self._end(job, BUSY)
                continue
            try:
                with faults(folder_of(job), 0):
                    folder_of(job).mkdir(parents=True, exist_ok=True)
                write_record(job, "submitted", submission=None)
            except SegkitError as error:  # this job's own failure, and no other's
                self._end(job, failed(error))
                continue
            before = [by_run[job.begins]] if job.begins in by_run else []
            words = words_of(job, self.jobs, self.keep_weights)
            reference = self.task.remote(words, str(Path.cwd()), str(log_path(job)), along, *before)
            self._under_way[reference], by_run[job.run] = job, reference

    def wait(self, stop: Stop) -> None:
        asked_at: float | None = None
        while self._under_way:
            ended, _ = self.ray.wait(list(self._under_way), num_returns=1, timeout=LOOK_SECONDS)
            for reference in ended:
                self._collect(reference, stop)
            if stop and asked_at is None:
                asked_at = time.monotonic()
                for reference in self._under_way:
                    self.ray.cancel(reference)
            if asked_at is not None and time.monotonic() - asked_at > STOP_SECONDS:
                for job in self._under_way.values():
                    self._end(job, Outcome("stopped", code_of(stop), "it did not stop in time"))
                return

    def _collect(self, reference: Any, stop: Stop) -> None:
        job = self._under_way.pop(reference)
        died = ""
        try:
            code = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            code, died = None, type(error).__name__
        outcome = submissions.outcome_of(job, "done by Ray")
        if outcome is None and held(lock_path(job)):  # another call was faster
            outcome = BUSY
        if outcome is None and stop:
            outcome = Outcome("stopped", code_of(stop), "stopped")
        if outcome is None:
            what = f"its Ray worker died ({died})" if died else f"left with {code} without a word"
            fix = f"see {log_path(job)}; the same command goes on with it"
            outcome = failed(EnvironmentFault("JOB-GONE", job.run, what, fix))
            with suppress(SegkitError):
                submissions.refused(job, outcome)
        self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.name] = outcome
        self.told(job, outcome)
