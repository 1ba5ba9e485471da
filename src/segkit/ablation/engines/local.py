"""On this machine: one job after another in this process, or processes side by side."""

import contextlib
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit import ranks
from segkit.ablation.engines import Told
from segkit.ablation.jobs import Job
from segkit.ablation.state import bare, has_weights, lock_path, needs_training, write_record
from segkit.ablation.work import Command, Outcome, do
from segkit.engine.signals import Stop
from segkit.errors import ExitCode, SegkitError, one_line
from segkit.lock import held

LOOK_SECONDS = 0.3

# Jobs, and what each one's end is told to -> outcomes in the order of the jobs.
Round = Callable[[Sequence[Job], Told], list[Outcome]]


def run(jobs: Sequence[Job], values: Mapping[str, Any], *, stop: Stop, told: Told) -> list[Outcome]:
    """Do ``jobs``; those that another process has are come back to when all others are done."""
    rules = Rules(bool(values["scale"]["keep_weights"]), jobs, stop)
    if not values["engine"]["isolate"]:
        return _until_free(jobs, lambda some, said: _in_turn(some, rules, said), stop, told)
    lanes = lanes_of(values)
    with Children(stop) as children, ThreadPoolExecutor(len(lanes)) as pool:
        return _until_free(jobs, SideBySide(pool, lanes, children, rules), stop, told)


def _until_free(jobs: Sequence[Job], once: Round, stop: Stop, told: Told) -> list[Outcome]:
    """Rounds over ``jobs`` until nobody else has one of them; who has it is told once."""
    outcomes: dict[str, Outcome] = {}
    waited_for: set[str] = set()

    def said(job: Job, outcome: Outcome) -> None:
        if outcome.state != "busy" or job.name not in waited_for:
            told(job, outcome)
        if outcome.state == "busy":
            waited_for.add(job.name)

    left = list(jobs)
    while left:
        for job, outcome in zip(left, once(left, said), strict=True):
            outcomes[job.name] = outcome
        left = [job for job in left if outcomes[job.name].state == "busy" and not stop]
        if left:
            time.sleep(LOOK_SECONDS)
    for name, outcome in outcomes.items():
        if outcome.state == "busy":
            outcomes[name] = Outcome("stopped", code_of(stop), "stopped while it waited")
    return [outcomes[job.name] for job in jobs]


@dataclass(frozen=True)
class Rules:
    """What all jobs of a call share."""

    keep_weights: bool
    among: Sequence[Job]
    stop: Stop


def safely(job: Job, command: Command, rules: Rules) -> Outcome:
    """``do``; what cannot be written, or is our fault, is this job's failure and no other's."""
    try:
        return _checked(job, command, rules)
    except SegkitError as error:
        return Outcome("failed", int(error.code), bare(error.line()))
    except Exception as error:
        line = f"segkit: {type(error).__name__}: {one_line(str(error))}"
        with contextlib.suppress(SegkitError):
            write_record(job, "failed", code=int(ExitCode.BUG), line=line)
        return Outcome("failed", int(ExitCode.BUG), line)


def _checked(job: Job, command: Command, rules: Rules) -> Outcome:
    """``do``, unless the job must wait or cannot begin."""
    if rules.stop:
        return Outcome("stopped", code_of(rules.stop), "stopped before it began")
    if job.begins is not None and needs_training(job) and not has_weights(job.begins):
        if any(other.run == job.begins and held(lock_path(other)) for other in rules.among):
            return Outcome("busy", int(ExitCode.ENVIRONMENT), f"waits for {job.begins.name}")
        line = f"begins with {job.begins}, which is not trained"
        return Outcome("failed", int(ExitCode.CHECKPOINT), line)
    return do(
        job,
        command=command,
        keep_weights=rules.keep_weights,
        should_stop=rules.stop,
        among=rules.among,
    )


def code_of(stop: Stop) -> int:
    return int(ExitCode.SIGINT if stop.signal == signal.SIGINT else ExitCode.SIGTERM)


# -- in this process -------------------------------------------------------------------------------


def _in_turn(jobs: Sequence[Job], rules: Rules, told: Told) -> list[Outcome]:
    outcomes, stop = [], rules.stop
    for job in jobs:
        outcome = safely(job, in_this_process, rules)
        if outcome.state == "stopped" and not stop:
            # The command took the signal, in this very process: it is meant for all of them.
            sigint = outcome.code == ExitCode.SIGINT
            stop.request(signal.SIGINT if sigint else signal.SIGTERM)
        told(job, outcome)
        outcomes.append(outcome)
    return outcomes


def in_this_process(words: Sequence[str], log: Path) -> int:
    """Run a command of segkit here, its output at the end of ``log``; the exit code."""
    from segkit.cli import main

    with (
        log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        code = main(words)
    _free_memory()
    return code


def _free_memory() -> None:
    """The next training begins with what this one leaves."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


# -- processes -------------------------------------------------------------------------------------


def lanes_of(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """The environment of each process that may run at the same time: its cards, its threads."""
    from segkit.parts import cores, device_count

    at_once, device = values["engine"]["per_device"], str(values["device"])
    cards = None if ":" in device else device_count(device)
    if not cards:
        if at_once == 1 or device.startswith("cuda") or "OMP_NUM_THREADS" in os.environ:
            return [{} for _ in range(at_once)]
        return [{"OMP_NUM_THREADS": str(max(1, cores() // at_once))} for _ in range(at_once)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(card) for card in range(cards)]
    size = min(values["devices"], cards)
    groups = [names[i : i + size] for i in range(0, cards - size + 1, size)]
    # Card by card: the first jobs spread over all of them.
    return [{"CUDA_VISIBLE_DEVICES": ",".join(g)} for _ in range(at_once) for g in groups]


class SideBySide:
    """A round of jobs, as many at once as there are lanes."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        lanes: Sequence[dict[str, str]],
        children: "Children",
        rules: Rules,
    ) -> None:
        self.pool, self.children, self.rules = pool, children, rules
        self.free: queue.Queue[dict[str, str]] = queue.Queue()
        for lane in lanes:
            self.free.put(lane)

    def __call__(self, jobs: Sequence[Job], told: Told) -> list[Outcome]:
        begun: dict[Path | None, Future[Outcome]] = {}
        for job in jobs:  # those that others begin with come first
            begun[job.run] = self.pool.submit(self.one, job, begun.get(job.begins))
        of = {begun[job.run]: job for job in jobs}
        left = set(of)
        while left:
            ended, left = wait(left, LOOK_SECONDS, FIRST_COMPLETED)
            for future in ended:
                told(of[future], future.result())
            if self.rules.stop:
                self.children.pass_on()
        return [begun[job.run].result() for job in jobs]

    def one(self, job: Job, before: "Future[Outcome] | None") -> Outcome:
        if before is not None:
            before.result()
        lane = self.free.get()
        try:
            return safely(job, self.children.command(lane), self.rules)
        finally:
            self.free.put(lane)


class Children:
    """The commands under way. A stop is passed on to them, once; none outlives this process."""

    def __init__(
        self, stop: Stop, program: Sequence[str] = (sys.executable, "-P", "-m", "segkit")
    ) -> None:
        self._program = program
        self._stop, self._lock = stop, threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._passed_on = False

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *why: object) -> None:
        with self._lock:
            for child in self._running:  # none, unless something here went wrong
                child.terminate()

    def pass_on(self) -> None:
        with self._lock:
            if self._passed_on or self._stop.signal is None:
                return
            self._passed_on = True
            for child in self._running:
                child.send_signal(self._stop.signal)

    def command(self, lane: Mapping[str, str]) -> Command:
        """A command as a process of its own, with ``lane`` in its environment."""

        def run(words: Sequence[str], log: Path) -> int:
            environment = {**os.environ, **lane, ranks.CHILD: str(os.getpid())}
            with log.open("ab") as file, self._lock:
                if self._stop:
                    return code_of(self._stop)
                # A group of its own: a terminal's Ctrl-C comes once, by way of ``pass_on``.
                child = subprocess.Popen(
                    [*self._program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    process_group=0,
                )
                self._running.add(child)
            try:
                code = child.wait()
            finally:
                with self._lock:
                    self._running.discard(child)
            return code if code >= 0 else 128 - code  # as a shell has it: 137 for a SIGKILL

        return run
