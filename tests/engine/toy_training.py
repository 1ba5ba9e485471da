"""A toy network, data set and run that show every way in which a resume can go wrong.

Dropout (the global random state), batch norm (buffers), momentum, two stages, accumulation,
best scores and retention: all in a few milliseconds a step.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.engine import checkpoint
from segkit.engine.loop import Settings, StagePlan, train
from segkit.engine.record import Run
from segkit.engine.signals import Stop, stopping
from segkit.errors import Interrupted as Interrupted
from segkit.losses import CrossEntropy
from segkit.optim import V3_RULES, set_learning_rate, sgd
from segkit.randomness import generator, integer
from segkit.schedules import Policy, learning_rate

CLASSES, SIDE, SAMPLES = 3, 9, 10
SEED = 7


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.drop = nn.Dropout(0.3)
        self.classifier = nn.Conv2d(6, CLASSES, 1)
        self.mode = "train"

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.stem(images)).relu()
        return {"out": self.classifier(self.drop(self.depthwise(x)))}

    def set_batch_norm(self, mode: str, momentum: float | None) -> None:
        self.mode = mode
        if momentum is not None:
            self.norm.momentum = momentum
        self.norm.requires_grad_(mode != "frozen")
        self.train(self.training)

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        if getattr(self, "mode", "train") != "train":
            self.norm.eval()
        return self


@dataclass
class ToyBatch:
    images: Tensor
    labels: Tensor
    ids: list[str]
    origin: dict[str, Any] = field(default_factory=dict)


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads on nine pixels spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_net() -> Net:
    torch.manual_seed(integer(SEED, "net"))
    return Net()


def sample(index: int) -> tuple[Tensor, Tensor]:
    draw = generator(SEED, "sample", index)
    label = torch.from_numpy(draw.integers(0, CLASSES, (SIDE, SIDE))).to(torch.uint8)
    image = torch.from_numpy(draw.normal(size=(3, SIDE, SIDE))).float() + label / 2
    label[0, :2] = 255
    return image, label


def batches(
    stage: int, size: int, steps: int, saw: Callable[[int, list[str]], None]
) -> Callable[[int], Iterator[ToyBatch]]:
    def from_step(first: int) -> Iterator[ToyBatch]:
        for step in range(first, steps):
            places = range(step * size, (step + 1) * size)
            order = [
                int(generator(SEED, "order", stage, p // SAMPLES).permutation(SAMPLES)[p % SAMPLES])
                for p in places
            ]
            images, labels = zip(*map(sample, order), strict=True)
            ids = [f"s{index}" for index in order]
            saw(step, ids)
            yield ToyBatch(torch.stack(images), torch.stack(labels), ids)

    return from_step


def plan(stage: int, steps: int, *, saw: Any = lambda *_: None, **changes: Any) -> StagePlan:
    base = (0.1, 0.02)[stage]
    made = StagePlan(
        name=("coarse", "fine")[stage],
        output_stride=(16, 8)[stage],
        steps=steps,
        batch=4,
        accumulate=1,
        bn=("train", "frozen_stats")[stage],
        bn_momentum=0.1,
        make_model=make_net,
        make_optimizer=lambda net: sgd(net, V3_RULES, lr=base, weight_decay=1e-3),
        learning_rate=lambda step: learning_rate(Policy(warmup=2), base, step, steps),
        set_learning_rate=set_learning_rate,
        loss=CrossEntropy(255),
        batches=batches(stage, 4, steps, saw),
        normalise=lambda images: images,
    )
    return replace(made, **changes)


def settings(**changes: Any) -> Settings:
    plain = Settings(
        seed=SEED,
        device=torch.device("cpu"),
        log_every=3,
        validate_every=4,
        save_every=3,
        keep=2,
    )
    return replace(plain, **changes)


def validate(model: nn.Module, step: int) -> dict[str, Any]:  # noqa: ARG001
    """The share of right pixels stands in for mIoU; draws random numbers, as a bad one might."""
    torch.rand(3)
    images, labels = zip(*map(sample, range(3)), strict=True)
    scores = model.scores(torch.stack(images))["out"]
    found = nn.functional.interpolate(scores, size=(SIDE, SIDE), mode="bilinear").argmax(1)
    return {"miou": (found == torch.stack(labels)).double().mean().item()}


def open_run(folder: Path, *, resume: bool = False, **changes: Any) -> Run:
    given = {
        "run_id": "toy",
        "config_text": "seed: 7\n",
        "environment": {"torch": torch.__version__},
        "config": {"model": {"name": "toy"}, "seed": SEED},
        "labels": {"names": ["a", "b", "c"]},
        "notice": lambda _: None,
        "tensorboard": False,
    }
    return Run.open(folder, resume=resume, **{**given, **changes})


def train_toy(
    folder: Path,
    *,
    resume: bool = False,
    stages: list[StagePlan] | None = None,
    stop: Stop | None = None,
    notice: Callable[[str], None] = lambda _: None,
    settings: Settings = settings(),  # noqa: B008
    validate: Any = validate,
    **more: Any,
) -> None:
    with open_run(folder, resume=resume, notice=notice) as run:
        train(
            run,
            stages or [plan(0, 14), plan(1, 10)],
            settings,
            stop=Stop() if stop is None else stop,
            validate=validate,
            **more,
        )


def train_toy_with_signals(folder: Path, **more: Any) -> None:
    with stopping() as stop:
        train_toy(folder, stop=stop, **more)


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of all that two equal runs must have in common."""
    last = checkpoint.load(checkpoint.newest(folder))
    parts = {f"model/{k}": _hash(v) for k, v in last.model.items()}
    parts |= {f"optimizer/{k}": _hash(v) for k, v in last.optimizer.items()}
    parts |= {f"average/{k}": _hash(v) for k, v in (last.average or {}).items()}
    parts["metrics"] = (folder / "metrics.jsonl").read_text()
    parts["step"] = str(last.step)
    parts["best"] = checkpoint.best(folder).name
    parts["kept"] = " ".join(p.name for p in checkpoint.steps(folder / "checkpoints"))
    return parts


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
