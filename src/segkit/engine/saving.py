"""When a save counts, what a failed one means, and whether there is room for the next."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from segkit.engine import checkpoint
from segkit.engine.average import Average
from segkit.engine.record import Run
from segkit.errors import EnvironmentFault
from segkit.whole_files import free_bytes

_FAILURES = 3
"""So many saves in a row may fail with ``on_error=warn``."""


class Saving:
    """Saves ``run``, keeps the ``keep`` newest checkpoints, and calls ``saved`` after each.

    With ``on_error="warn"`` a full or failing disk is told and training goes on, up to three
    times in a row; with ``"stop"`` the first is raised.
    """

    def __init__(
        self,
        run: Run,
        *,
        keep: int,
        on_error: Literal["stop", "warn"],
        saved: Callable[[], None],
    ) -> None:
        self._run, self._keep, self._on_error, self._saved = run, keep, on_error, saved
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
        """Save the state after ``step`` updates.

        ``must``: nothing comes after it, so that a failure is raised whatever ``on_error`` says.
        """
        self._run.check()
        try:
            self._save(model, optimizer, step, stage, average)
        except EnvironmentFault as fault:
            self._failed += 1
            if must or fault.name == "RUN-GONE" or not self._may_fail():
                raise
            count = f"{self._failed} in a row, {_FAILURES} are allowed"
            self._run.notice(f"step {step} is not saved ({count}): {fault}")
        else:
            self._failed = 0

    def _may_fail(self) -> bool:
        return self._on_error == "warn" and self._failed <= _FAILURES

    def _save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        stage: int,
        average: Average | None,
    ) -> None:
        # A checkpoint counts on the rows up to its step: the resumed run does not write them again.
        self._run.settle()
        path = checkpoint.save(
            self._run.checkpoints,
            run=self._run.id,
            step=step,
            stage=stage,
            model=model.state_dict(),
            optimizer=checkpoint.optimizer_state(model, optimizer),
            average=average.network().state_dict() if average else None,
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
