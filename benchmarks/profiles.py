"""Where a training step and an evaluation spend their time: by what is done, on one core's clock.

    python benchmarks/profiles.py [--rounds 3] [--out docs/results/bench/cpu/profiles.json]

``plain`` is the step of torchvision's references on the same network (NCHW, full-size logits);
``exact`` is ours with ``deterministic=true``; ``fast`` is ours as it runs. A part is the time that
torch's profiler gives its operators themselves, the median over rounds; ``steps`` and the loss are
told apart by whom an operator was called for. docs/performance.md draws these figures.
"""

import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does: see segkit.cli

from common import Row, run
from evaluation import CPU_NETWORK, Port, network, photo, predictor, values_of
from torch import nn
from torch.profiler import ProfilerActivity, profile
from train_step import CPU_CASES, Case

from segkit import parts
from segkit.inference.predictor import Predictor
from segkit.protocol import scales_of

TITLE = "where the time goes"
SECONDS = 60

# By the operator, or by whom it works for; the first that matches.
CALLERS = (
    ("loss", ("CrossEntropy", "_Banded", "LogSoftmax", "NllLoss", "cross_entropy", "nll_loss")),
    ("optimiser", ("Optimizer.step", "Optimizer.zero_grad")),
)
OPERATORS = (
    ("convolutions, backward", ("convolution_backward",)),
    ("convolutions", ("convolution", "conv2d", "addmm")),
    ("batch norm", ("batch_norm",)),
    ("activations", ("threshold_backward", "clamp", "hardtanh", "relu")),
    ("resizing", ("upsample",)),
    ("softmax and argmax", ("softmax", "max", "bmm", "matmul", "div")),
    ("copies", ("copy_", "clone", "contiguous", "cat", "fill_", "zero_")),
)


def rows(rounds: int, device: str) -> list[Row]:
    """Nothing on CUDA: the figures are the processor's."""
    if device != "cpu":
        return []
    found = []
    for case in CPU_CASES[:2]:
        found += of_training(case, rounds)
    return found + of_evaluation(rounds)


def of_training(case: Case, rounds: int) -> list[Row]:
    found = written(f"{case.name}, plain", case.theirs(), rounds)
    with deterministic():
        found += written(f"{case.name}, exact", case.ours(), rounds)
    return found + written(f"{case.name}, fast", case.ours(), rounds)


def of_evaluation(rounds: int) -> list[Row]:
    values, net, image = values_of(CPU_NETWORK, "cpu"), network(CPU_NETWORK), photo(0)
    port = Port(net, scales_of(values))
    name = "evaluation, v3 MobileNetV2 OS8"
    found = written(f"{name}, plain", lambda: port.labels(image), rounds)
    with deterministic():  # made inside: what batch norms are folded into asks for it when made
        exact = predictor(net, values)
        assert batch_norms(exact), "the exact path is folded"
        found += written(f"{name}, exact", lambda: exact.labels([image]), rounds)
    fast = predictor(net, values)
    assert not batch_norms(fast), "the fast path is not folded"
    return found + written(f"{name}, fast", lambda: fast.labels([image]), rounds)


def batch_norms(predictor: Predictor) -> int:
    """How many the network has that ``predictor`` asks."""
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in predictor.net.modules())


def written(name: str, work: Callable[[], object], rounds: int) -> list[Row]:
    """A row for each part, largest first, with its share."""
    work()
    each = [parts_of(work) for _ in range(rounds)]
    names = {part for parts in each for part in parts}
    seconds = {part: statistics.median(p.get(part, 0.0) for p in each) for part in names}
    whole = sum(seconds.values())
    order = sorted(seconds, key=lambda part: -seconds[part])
    return [
        Row(f"{name}: {part}", seconds=seconds[part], note=f"{100 * seconds[part] / whole:.0f} %")
        for part in order
    ]


def parts_of(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of each part of one call of ``work``."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    seconds: dict[str, float] = defaultdict(float)
    for event in seen.events() or []:
        seconds[part_of(event)] += event.self_cpu_time_total / 1e6
    return seconds


def part_of(event: Any) -> str:
    callers = list(_callers(event))
    for part, words in CALLERS:
        if any(word in caller for caller in callers for word in words):
            return part
    for part, words in OPERATORS:
        if any(word in event.name for word in words):
            return part
    return "other"


def _callers(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


@contextmanager
def deterministic() -> Iterator[None]:
    parts.deterministic(True)
    try:
        yield
    finally:
        parts.deterministic(False)


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=3))
