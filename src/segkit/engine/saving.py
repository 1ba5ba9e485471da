"""When a save counts, what a failed one means, and whether there is room for the next."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch
from torch import Tensor, nn

from segkit.engine import checkpoint
from segkit.engine.average import Average
from segkit.engine.background import Copies, Task
from segkit.engine.record import Run
from segkit.errors import EnvironmentFault
from segkit.limits import is_memory
from segkit.whole_files import free_bytes

_States = Sequence[Mapping[str, Tensor]]
_FAILURES = 3
"""So many saves in a row may fail with ``on_error=warn``."""


class Saving:
    """Saves ``run``, keeps the ``keep`` newest checkpoints, and calls ``saved`` after each.

    With ``on_error="warn"`` a full or failing disk is told and training goes on, up to three
    times in a row; with ``"stop"`` the first is raised. A checkpoint counts once it is published,
    also where what follows fails: pointers, ``saved``, the removal of older ones.

    With ``background`` training is held up by a copy of the state alone (in memory that is kept,
    see ``Copies``), and a thread writes it; at most one save is under way. What went wrong with it
    is raised or told at the next ``check``, ``finish`` or save. ``saved`` is then called by that
    thread: what it reads must not change before ``finish``, and it prints nothing.

    A context manager: whatever ends what is inside, the save that is under way is brought to its
    end. ``step``: that of the checkpoint which the run was taken up at.
    """

    def __init__(
        self,
        run: Run,
        *,
        keep: int,
        on_error: Literal["stop", "warn"],
        saved: Callable[[], None],
        background: bool = False,
        step: int = -1,
    ) -> None:
        self._run, self._keep, self._on_error, self._saved = run, keep, on_error, saved
        self._copies = Copies() if background else None
        self._task: Task | None = None
        self._asked = self._holds = step
        self._failed = 0
        self._behind: Path | None = None  # what follows failed for this checkpoint, the newest
        self._unmarked: set[str] = set()  # published since ``saved`` last went well
        self._late: EnvironmentFault | None = None  # the status has no room, which may wait

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        stage: int,
        *,
        must: bool,
        average: Average | None = None,
    ) -> None:
        """Save the state after ``step`` updates; nothing is done if that was asked for already.

        ``must``: nothing comes after it, so that it is waited for, tried again if it failed before,
        and a failure is raised whatever ``on_error`` says.
        """
        if step == self._asked and not must:
            return
        self.finish()
        if step == self._holds:
            if must and self._behind is not None:
                self._follow(self._behind, step)
                self._tell_late()
            return
        self._asked = step
        self._run.check()
        try:
            # A checkpoint counts on the rows up to its step: the resumed run does not write them
            # again.
            self._run.settle()
        except EnvironmentFault as fault:
            self._judge(fault, must)
        else:
            states = _states(model, optimizer, average)
            # A copy is of no use where training does not go on.
            taken = None if must else self._copied(states, model, optimizer, average)
            self._task = Task(partial(self._save, taken or states, step, stage))
            if taken:
                self._task.start()
            else:
                self._task.run()
                self._end(must)

    def check(self) -> None:
        """Raise or tell what went wrong with a save that came to its end since.

        Waits for the first one of a run: rows without any checkpoint are a run that lost its own,
        and whoever was killed there could not go on.
        """
        if self._task and (self._task.ended or self._holds < 0):
            self._end()

    def finish(self) -> None:
        """Wait for the save that is under way; then as ``check``."""
        if self._task:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.finish()
        except Exception as fault:
            if error is None:
                raise
            self._run.notice(f"{self._outcome}: {fault}")

    def _copied(
        self,
        states: _States,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
    ) -> _States | None:
        """Copies of ``states``; None where they are not wanted, or there is no room for them."""
        if self._copies is None:
            return None
        try:
            return self._copies.take(states, _tensors_of(model, optimizer, average))
        except (MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            self._copies = None
            self._run.notice(f"saves hold up the training from here on: {error}")
        return None

    def _end(self, must: bool = False) -> None:
        assert self._task
        task, self._task = self._task, None
        try:
            task.wait()
        except EnvironmentFault as fault:
            self._judge(fault, must)
        else:
            self._failed = 0
        self._tell_late()

    def _tell_late(self) -> None:
        late, self._late = self._late, None
        if late:
            self._run.may_wait(late)

    @property
    def _outcome(self) -> str:
        if self._holds == self._asked:
            return f"step {self._asked} is saved, but not all that follows is done"
        return f"step {self._asked} is not saved"

    def _judge(self, fault: EnvironmentFault, must: bool) -> None:
        self._run.check()  # a folder that went meanwhile fails in many ways: this one says why
        self._failed += 1
        if must or fault.name == "RUN-GONE" or not self._may_fail():
            raise fault
        count = f"{self._failed} in a row, {_FAILURES} are allowed"
        self._run.notice(f"{self._outcome} ({count}): {fault}")

    def _may_fail(self) -> bool:
        return self._on_error == "warn" and self._failed <= _FAILURES

    def _save(self, states: _States, step: int, stage: int) -> None:
        """Write and publish, and what follows. Also in a thread: it shares ``run``'s status and
        what ``saved`` reads with the loop's, which leaves the fields of this object to it until its
        end.
        """
        if self._copies is not None:
            self._copies.wait()
        path = checkpoint.save(
            self._run.checkpoints,
            run=self._run.id,
            step=step,
            stage=stage,
            model=states[0],
            optimizer=states[1],
            average=states[2] if len(states) > 2 else None,
            config=self._run.config,
            labels=self._run.labels,
        )
        self._holds = step
        self._follow(path, step)

    def _follow(self, path: Path, step: int) -> None:
        """Name the checkpoint ``path``, then remove older ones. Each is tried, also on a disk that
        is full: removing makes room. Raises the first fault.
        """
        self._unmarked.add(path.name)
        found: list[EnvironmentFault] = []
        for act in (
            lambda: checkpoint.mark_latest(path),
            self._mark,
            lambda: self._record(path, step),
            # The best may be among those that are not marked yet.
            lambda: checkpoint.retire(path, self._keep, self._unmarked),
        ):
            try:
                act()
            except EnvironmentFault as fault:
                found.append(fault)
        self._behind = path if found else None
        if found:
            raise found[0]

    def _mark(self) -> None:
        self._saved()
        self._unmarked.clear()

    def _record(self, path: Path, step: int) -> None:
        try:
            self._run.progress(step=step, last_checkpoint=path.name)
        except EnvironmentFault as fault:
            if fault.name != "DISK-FULL":
                raise
            self._late = fault  # told by the loop's thread

    def warn_of_little_room(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None = None,
    ) -> None:
        """Say so before the first step if what is to be kept will not fit."""
        count = self._keep + 2  # the best one besides, and the one being written
        one = sum(tensor.nbytes for tensor in _tensors_of(model, optimizer, average))
        there = _bytes_in(self._run.checkpoints)
        free = free_bytes(self._run.folder) + there
        if count * one > free:
            self._run.notice(
                f"{self._run.checkpoints}: up to {count} checkpoints of {one} bytes need "
                f"{count * one} bytes, {free} are free; make room, or lower checkpoint.keep "
                f"({self._keep})"
            )


def _bytes_in(folder: Path) -> int:
    """Of all files under it; what a save in the background renames or removes is not missed."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over a folder that is gone
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def _states(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> list[Mapping[str, Tensor]]:
    states: list[Mapping[str, Tensor]] = [
        model.state_dict(),
        checkpoint.optimizer_state(model, optimizer),
    ]
    if average:
        states.append(average.network().state_dict())
    return states


def _tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> list[Tensor]:
    """Tensors like those of a checkpoint: a momentum, too, for each trained parameter."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    networks = [model, *([average.network()] if average else [])]
    return [*trained, *(t for network in networks for t in network.state_dict().values())]
