"""Looking at a model in training without changing anything about the training."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from segkit.engine import checkpoint
from segkit.engine.record import Run
from segkit.engine.signals import Stop, StopRequested
from segkit.engine.team import Alone
from segkit.errors import CheckpointError, ConfigError


class Validation:
    """Validates, records, and knows the best score so far.

    All it knows it reads from ``metrics.jsonl``: a resumed run knows what the killed one did.
    """

    def __init__(
        self,
        run: Run,
        validate: Callable[[nn.Module, int], Mapping[str, Any]] | None,
        on_validation: Callable[[int, Mapping[str, Any]], None],
        team: Alone,
    ) -> None:
        self._run, self._validate, self._on_validation = run, validate, on_validation
        self.best_step, self._best = -1, -math.inf
        self._last, self._team = -1, team
        for row in run.metrics():
            if "validation" in row:
                self._remember(row["step"], row["validation"])
        self._last, self.best_step, self._best = team.share(
            (self._last, self.best_step, self._best)
        )
        self.mark_best()

    def __call__(self, model: nn.Module, step: int, stage: str, stop: Stop) -> None:
        """Validate ``model`` after ``step`` updates, unless that is done; gives up on ``stop``."""
        if self._validate is None or step == self._last:
            return
        try:
            with watching(model), self._team.phase("validation"):
                score = _plain(stop.wait(self._validate, model, step))
        except StopRequested:
            return  # the run that is resumed here does it
        if "miou" not in score:
            raise ConfigError("METRIC", "validation", "gives no miou", "the best goes by miou")
        self._run.log_metrics([{"step": step, "stage": stage, "validation": score}])
        self._remember(step, score)
        if score["miou"] is not None:
            self._run.scalars(step, {"validation/miou": score["miou"]})
        with watching(model):
            self._on_validation(step, score)

    def _remember(self, step: int, score: Mapping[str, Any]) -> None:
        self._last = step
        miou = score.get("miou")
        if miou is not None and miou > self._best:  # so the first wins a tie
            self.best_step, self._best = step, miou

    def mark_best(self) -> None:
        """Point ``best.json`` at the best checkpoint, if it does not yet."""
        if not self._team.leads:
            return
        path = self._run.checkpoints / f"step-{self.best_step:08d}"
        with suppress(CheckpointError):
            if checkpoint.best(self._run.folder) == path:
                return
        if path.is_dir():
            checkpoint.mark_best(path)


@contextmanager
def watching(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` inside: modes, buffers and random state are as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode  # not .train(mode), which reaches into the children
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def _plain(value: Any) -> Any:
    """``value`` with NaN and infinities as None, which is how JSON says them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
