"""Training, top to bottom: stages of optimiser steps, exact and resumable.

One clock: ``step`` counts the applied updates of the whole run. A stage's own callables are
given the step within the stage. Nothing random is carried from step to step (see
``segkit.randomness``), so weights, optimiser state and ``step`` are all that a resumed run needs.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from segkit.allocator import keep_freed_memory
from segkit.engine import checkpoint
from segkit.engine.average import Average, averaged
from segkit.engine.journal import Journal, Step, digest
from segkit.engine.progress import Progress
from segkit.engine.record import Run
from segkit.engine.saving import Saving
from segkit.engine.signals import Stop, StopRequested
from segkit.engine.team import ALONE, Alone
from segkit.engine.validation import Validation
from segkit.errors import CheckpointError, ConfigError, DataError, EnvironmentFault
from segkit.limits import LESS_MEMORY, is_memory
from segkit.randomness import integer


class Batch(Protocol):
    """``images`` [B, 3, h, w], ``labels`` uint8 or int32 [B, h, w]: this process's share.

    Images are what ``StagePlan.normalise`` takes: bytes, which travel faster than what they become.
    ``ids`` has one id for each image of the step, those of all processes; ``origin`` is plain data
    from which the batch can be made again.
    """

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def origin(self) -> Mapping[str, Any]: ...


class Loss(Protocol):
    """A loss whose divisor is known before it: that of the whole batch, for every micro-batch."""

    def normaliser(self, labels: Tensor) -> dict[str, Tensor]: ...
    def __call__(
        self, scores: Mapping[str, Tensor], labels: Tensor, normaliser: Mapping[str, Tensor]
    ) -> Tensor: ...


@dataclass(frozen=True)
class StagePlan:
    """A stretch of updates with one model, one optimiser and one schedule.

    ``batch`` images make one update, computed by every process in ``accumulate`` equal parts.
    ``make_model`` gives the network at ``output_stride``, with ``scores(images)`` and
    ``set_batch_norm(mode, momentum)``. ``batches(step)`` yields the batches from ``step`` of the
    stage on; ``normalise`` makes the network's input of their images, on the device.
    ``learning_rate(step)`` is the base rate, which ``set_learning_rate`` hands to the groups of
    the optimiser.
    """

    name: str
    output_stride: int
    steps: int
    batch: int
    accumulate: int
    bn: Literal["train", "frozen_stats", "frozen"]
    bn_momentum: float | None
    make_model: Callable[[], nn.Module]
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    learning_rate: Callable[[int], float]
    set_learning_rate: Callable[[torch.optim.Optimizer, float], None]
    loss: Loss
    batches: Callable[[int], Iterator[Batch]]
    normalise: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """What holds for the whole run. Periods are in updates; ``None`` is never.

    ``keep`` checkpoints stay beside the best one; ``on_save_error`` says whether a failed save
    ends the run, ``save_in_background`` whether training goes on while it is written (see
    ``Saving``). ``compile`` wraps the forward function (``torch.compile``). ``sync_bn`` trains
    batch norm over the images of all CUDA devices. ``ema`` is the decay of an average of the
    weights (None: there is none), which is what is validated unless ``validate_raw``.
    """

    seed: int
    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    validate_every: int | None = None
    save_every: int | None = None
    keep: int = 1
    on_save_error: Literal["stop", "warn"] = "stop"
    save_in_background: bool = True
    compile: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    sync_bn: bool = True
    ema: float | None = None
    validate_raw: bool = False


def train(
    run: Run,
    stages: Sequence[StagePlan],
    settings: Settings,
    *,
    stop: Stop,
    team: Alone = ALONE,
    validate: Callable[[nn.Module, int], Mapping[str, Any]] | None = None,
    on_validation: Callable[[int, Mapping[str, Any]], None] = lambda *_: None,
) -> None:
    """Train all ``stages``, from where ``run`` stands to the end.

    The run is saved at step 0, every ``save_every`` steps, at the end of each stage, at each new
    best score and when ``stop`` is set. ``validate(model, step)`` gives plain, deterministic
    values with an ``miou`` (0..1 or None), the same in every process of the ``team``; they go into
    ``metrics.jsonl``.

    Raises Interrupted (saved), NumericsError before a non-finite update, CheckpointError if the
    run cannot be taken up, EnvironmentFault, ConfigError, and DataError from the batches.
    """
    _check(stages, team.size)
    starts = [0, *accumulate(plan.steps for plan in stages)]
    point = _resume_point(run, starts, team)
    if point and point.step == starts[-1] and run.finished:
        run.notice(f"{run.folder}: already complete ({point.step} steps)")
        return
    if point and settings.ema is not None:
        averaged(point)  # before anything is recorded: what cannot go on stays what it was
    if point:
        run.notice(f"{run.folder}: resuming at step {point.step} of {starts[-1]}")
    step = point.step if point else 0
    weights = point.model if point else None
    _tune(settings.device)
    run.begin(step)
    validation = Validation(run, validate, on_validation, team)
    saving = Saving(
        run, keep=settings.keep, on_error=settings.on_save_error, saved=validation.mark_best,
        background=settings.save_in_background, step=step if point else -1,
    )  # fmt: skip

    with closing(Progress(starts[-1], step, shown=team.leads)) as progress, saving:
        journal = Journal(run, progress)
        for index, plan in enumerate(stages):
            if point and index < point.stage:
                continue
            model = _model(plan, weights, settings, point.path if point else plan.name, team)
            # The papers start each stage as a new run: weights are carried, momentum is not.
            optimizer = plan.make_optimizer(model)
            if point and index == point.stage:
                checkpoint.load_optimizer(model, optimizer, point.optimizer, point.path)
            average = Average(model, settings.ema) if settings.ema is not None else None
            if average and point and index == point.stage:
                average.resume(point)
            update = Update(model, optimizer, plan, settings, team, average)
            if index == 0 or point:
                saving.warn_of_little_room(model, optimizer, average)
            leaving = team.agree(stop)
            first: AbstractContextManager[None] | None = team.phase("the first step of a stage")

            with _closing(plan.batches(step - starts[index])) as batches:
                while True:
                    # The state after ``step`` updates: watch it, keep it, or leave with it.
                    ended = step == starts[index + 1]
                    saving.check()
                    if step % settings.log_every == 0 or ended or leaving:
                        journal.flush()
                    if _due(settings.validate_every, step, ended) and not leaving:
                        journal.flush()
                        with team.phase("saving"):
                            saving.finish()  # the best that it marks must be the best so far
                        net = average.network() if average and not settings.validate_raw else model
                        validation(net, step, plan.name, stop)
                    due = step == 0 or ended or _due(settings.save_every, step, ended)
                    due = due or validation.best_step == step
                    last = step == starts[-1]
                    leaving = leaving or (ended and not last and team.agree(stop))
                    if due or leaving:
                        journal.flush()
                        with team.phase("saving"):
                            if team.leads:
                                must = leaving or last
                                saving(model, optimizer, step, index, must=must, average=average)
                    if leaving or (last and team.agree(stop)):
                        team.meet()  # a launcher ends the others soon after the first to leave
                        raise stop.interrupted(run.folder, f"stopped and saved at step {step}",
                                               "go on with resume=true")  # fmt: skip
                    if ended:
                        break

                    # One update, by all or by none.
                    began = time.monotonic()
                    with team.phase("waiting for data"):
                        batch = _next(batches, stop)
                    waited = time.monotonic() - began
                    leaving = team.agree(stop)
                    if leaving:
                        continue
                    if batch is None:
                        what = f"the batches ended at step {step - starts[index]} of {plan.steps}"
                        raise DataError("BATCHES", f"stage {plan.name}", what)
                    with _faults(plan, index), first or nullcontext():
                        done = update(batch, index, step - starts[index])
                    step, first = step + 1, None
                    team.beat(step)
                    journal.add(_entry(step, plan, done, batch), waited)
                    if not done.applied:
                        # Raises, with the state of the step before.
                        journal.flush(last_sha256=digest(batch.images, batch.labels))

            weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    run.finish(step)


@dataclass(frozen=True)
class Done:
    """What one update left: tensors on the device, and whether it was applied (if known)."""

    rate: float
    loss: Tensor
    gradient_norm: Tensor
    pixels: Tensor
    applied: bool


class Update:
    """One update of ``model``: forward, loss, backward, finite check, optimiser step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: StagePlan,
        settings: Settings,
        team: Alone = ALONE,
        average: Average | None = None,
    ) -> None:
        self.model, self.optimizer, self.plan, self.settings = model, optimizer, plan, settings
        self.team, self._average = team, average
        scores: Any = model.scores
        self._scores = team.parallel(
            Scores(model, settings.compile(scores) if settings.compile else scores)
        )
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._device = settings.device
        # Each process has seen its own share of the batch only. Where the statistics are frozen
        # or made over all devices (SyncBatchNorm), they are the same everywhere.
        self._statistics = _own_statistics(model) if team.size > 1 and plan.bn == "train" else []
        # Once 1, always 1: after a step that is not finite none is applied, though on a GPU
        # nobody looks before the next flush.
        self._halted = torch.zeros((), device=self._device)

    def __call__(self, batch: Batch, stage: int, step: int) -> Done:
        """``step`` counts from the start of the stage."""
        own = (self.team.rank,) if self.team.rank else ()  # ranks must not drop the same units
        torch.manual_seed(integer(self.settings.seed, "step", stage, step, *own))
        rate = self.plan.learning_rate(step)
        self.plan.set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        with _kernels_searched(self._device):
            loss, pixels = self._backward(batch)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self._parameters if p.grad is not None]
        ).float()
        applied = self._apply(torch.isfinite(loss) & torch.isfinite(norm))
        self.team.mean(self._statistics)
        if self._average and applied:
            self._average.update(step, 1 - self._halted)
        return Done(rate, loss, norm, pixels, applied)

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Accumulate the gradients of ``batch``; returns its loss and the pixels it counts."""
        labels = batch.labels.to(self._device, non_blocking=True)
        normaliser = self.plan.loss.normaliser(labels)
        normaliser = {name: self.team.sum(count) for name, count in normaliser.items()}
        total = torch.zeros((), device=self._device)
        part = len(labels) // self.plan.accumulate
        parts = list(zip(batch.images.split(part), labels.split(part), strict=True))
        for number, (images, truth) in enumerate(parts, start=1):
            # Gradients travel once, with the last part.
            last = number == len(parts)
            with nullcontext() if last else self.team.apart(self._scores):
                scores = self._forward(images)
                loss = self.plan.loss(scores, truth, normaliser)
                loss.backward()
            total += loss.detach()
            self.team.beat()
        pixels = torch.stack([count.float() for count in normaliser.values()]).sum()
        return self.team.sum(total), pixels

    def _forward(self, images: Tensor) -> dict[str, Tensor]:
        # Also on the CPU: depthwise convolutions train 2 to 5 times faster in this layout.
        images = self.plan.normalise(images.to(self._device, non_blocking=True))
        images = images.contiguous(memory_format=torch.channels_last)
        half = self.settings.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=half):
            scores: dict[str, Tensor] = self._scores(images)
        return scores

    def _apply(self, finite: Tensor) -> bool:
        self._halted = torch.maximum(self._halted, (~finite).float())
        if self.optimizer.defaults.get("fused") and self._device.type != "cpu":
            # The fused kernel reads this flag on the device and leaves everything as it is.
            self.optimizer.found_inf = self._halted  # type: ignore[attr-defined]
            self.optimizer.step()
            return True
        if bool(self._halted):
            return False
        self.optimizer.step()
        return True


class Scores(nn.Module):
    """The part of a network that is trained: what DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, scores: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self._scores = model, scores

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self._scores(images)


@contextmanager
def _kernels_searched(device: torch.device) -> Iterator[None]:
    """cuDNN measures which kernel is fastest for each size it meets.

    Worth it for crops, which are all of one size, and not for the pictures of a validation. Which
    one wins may differ from run to run, and with it the last bits.
    """
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _own_statistics(model: nn.Module) -> list[Tensor]:
    norms = (m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    return [b for norm in norms for b in norm.buffers() if b.is_floating_point()]


def _next(batches: Iterator[Batch], stop: Stop) -> Batch | None:
    """The next batch; None at their end, or when a signal came: loaders may end at one, too."""
    try:
        return stop.wait(next, batches, None)
    except StopRequested:
        return None


def _entry(step: int, plan: StagePlan, done: Done, batch: Batch) -> Step:
    return Step(
        step, plan.name, done.rate, done.loss, done.gradient_norm, done.pixels, batch.ids,
        batch.origin,
    )  # fmt: skip


def _check(stages: Sequence[StagePlan], ranks: int) -> None:
    for index, plan in enumerate(stages):
        key = f"schedule.stages.{index}"
        if plan.steps < 1:
            raise ConfigError("VALUE", f"{key}.steps", f"{plan.steps}", "at least 1")
        if plan.accumulate < 1 or plan.batch < 1 or plan.batch % (plan.accumulate * ranks):
            among = f" on {ranks} devices" if ranks > 1 else ""
            what = f"{plan.batch} images cannot be split into {plan.accumulate} equal parts{among}"
            raise ConfigError("VALUE", f"{key}.accumulate", what, f"a divisor of {key}.batch")


def _resume_point(run: Run, starts: Sequence[int], team: Alone) -> checkpoint.Checkpoint | None:
    """The newest sound checkpoint, or None for a run that never had one. Rank 0 chooses it."""
    name = team.share(_newest(run) if team.leads else None)
    if name is None:
        return None
    path = run.checkpoints / name
    point = checkpoint.load(path, run_id=run.id)
    stage, step = point.stage, point.step
    if not (stage < len(starts) - 1 and starts[stage] <= step <= starts[stage + 1]):
        what = f"step {step} of stage {stage} does not fit stages ending at {starts[1:]}"
        raise CheckpointError("SCHEDULE", path, what, "resume with the schedule it was made with")
    return point


def _newest(run: Run) -> str | None:
    if not run.resumed:
        return None
    if not checkpoint.steps(run.checkpoints) and not run.has_metrics:
        run.notice(f"{run.folder}: killed before its first step, fresh start")
        return None
    skipped = lambda error: run.notice(f"skipped: {error}")  # noqa: E731
    return checkpoint.newest(run.folder, skipped, run_id=run.id).name


def _tune(device: torch.device) -> None:
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in fp32
        torch.backends.cudnn.allow_tf32 = True


def _model(
    plan: StagePlan,
    weights: Mapping[str, Tensor] | None,
    settings: Settings,
    where: object,
    team: Alone,
) -> nn.Module:
    model = plan.make_model()
    if weights is not None:
        checkpoint.load_weights(model, weights, where)
    model.train()
    # Before the optimiser is made: `frozen` takes parameters out of it.
    model.set_batch_norm(plan.bn, plan.bn_momentum)  # type: ignore[operator]
    if team.size > 1 and plan.bn == "train" and settings.sync_bn and settings.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _due(every: int | None, step: int, ended: bool) -> bool:
    return every is not None and step > 0 and (step % every == 0 or ended)


@contextmanager
def _closing(batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """Loader workers end with the stage, however it ends."""
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


@contextmanager
def _faults(plan: StagePlan, index: int) -> Iterator[None]:
    """Translate what torch says of a batch too small for batch norm or too large for memory."""
    key = f"schedule.stages.{index}"
    part = plan.batch // plan.accumulate
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "BATCH-NORM",
            f"{key}.batch",
            f"batch norm cannot be trained on {part} image at a time (image pooling leaves one "
            "value per channel)",
            f"raise {key}.batch, lower {key}.accumulate, or set {key}.bn=frozen_stats",
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_memory(error):
            raise
        raise EnvironmentFault(
            "MEMORY",
            f"{key}.accumulate",
            f"out of memory with {part} images at a time at output stride {plan.output_stride}",
            f"raise {key}.accumulate (now {plan.accumulate}), or {LESS_MEMORY}",
        ) from error
