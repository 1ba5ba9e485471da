"""When a save counts, what a failed one means, and whether there is room for the next."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    times in a row; with ``"stop"`` the first is raised.

    With ``background`` training is held up by a copy of the state alone (in memory that is kept,
    see ``Copies``), and a thread writes it; at most one save is under way. What went wrong with it
    is raised or told at the next ``check``, ``finish`` or save. ``saved`` is then called by that
    thread: what it depends on must not change before ``finish``.

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
            self._begin(self._states(model, optimizer, average), step, stage)
            if must or self._copies is None:
                self._end(must)

    def check(self) -> None:
        """Raise or tell what went wrong with a save that came to its end since."""
        if self._task and self._task.ended:
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
            self._run.notice(f"step {self._asked} is not saved: {fault}")

    def _states(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
    ) -> _States:
        """What is to be written: copies, or where there is no room for them what is trained."""
        states = [model.state_dict(), checkpoint.optimizer_state(model, optimizer)]
        if average:
            states.append(average.network().state_dict())
        if self._copies is not None:
            try:
                return self._copies.take(states)
            except (MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                self._copies = None
                self._run.notice(f"saves hold up the training from here on: {error}")
        return states

    def _begin(self, states: _States, step: int, stage: int) -> None:
        self._task = Task(partial(self._save, states, step, stage))
        if self._copies is None:
            self._task.run()
        else:
            self._task.start()

    def _end(self, must: bool = False) -> None:
        assert self._task
        task, self._task = self._task, None
        try:
            task.wait()
        except EnvironmentFault as fault:
            self._judge(fault, must)
        else:
            self._holds, self._failed = self._asked, 0

    def _judge(self, fault: EnvironmentFault, must: bool) -> None:
        self._failed += 1
        if must or fault.name == "RUN-GONE" or not self._may_fail():
            raise fault
        count = f"{self._failed} in a row, {_FAILURES} are allowed"
        self._run.notice(f"step {self._asked} is not saved ({count}): {fault}")

    def _may_fail(self) -> bool:
        return self._on_error == "warn" and self._failed <= _FAILURES

    def _save(self, states: _States, step: int, stage: int) -> None:
        """Write, publish and retire: also in a thread, which shares nothing else with the loop's
        than ``run``'s status.
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
        self._saved()
        self._run.progress(step=step, last_checkpoint=path.name)
        checkpoint.retire(path, self._keep)

    def warn_of_little_room(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None = None,
    ) -> None:
        """Say so before the first step if what is to be kept will not fit."""
        count = self._keep + 2  # the best one besides, and the one being written
        one = _bytes_of(model, optimizer, average)
        there = sum(p.stat().st_size for p in self._run.checkpoints.rglob("*") if p.is_file())
        free = free_bytes(self._run.folder) + there
        if count * one > free:
            self._run.notice(
                f"{self._run.checkpoints}: up to {count} checkpoints of {one} bytes need "
                f"{count * one} bytes, {free} are free; make room, or lower checkpoint.keep "
                f"({self._keep})"
            )


def _bytes_of(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> int:
    """About the size of a checkpoint: the states, and a momentum for each trained parameter."""
    trained = (p for group in optimizer.param_groups for p in group["params"])
    states = [model, *([average.network()] if average else [])]
    return sum(t.nbytes for t in (*trained, *(t for s in states for t in s.state_dict().values())))
