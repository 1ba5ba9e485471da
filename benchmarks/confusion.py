"""Counting pixels by (truth, prediction): 16 label maps of 513×513, 21 classes, a border ignored.

    python benchmarks/confusion.py [--rounds 15] [--device cuda]

All are given the same maps as bytes, with which each of them is fastest, and must count the same
before anything is timed. Beside ours:

- torchmetrics: ``MulticlassConfusionMatrix(21, ignore_index=255)`` as it comes, the field's
  library; and once without its look at the arguments (``validate_args=False``)
- NumPy bincount: what ports of DeepLab carry with them (a mask, one whole number for each pixel,
  ``np.bincount``)
- histc: the same in PyTorch's own ``histc``, which stays on a GPU

On the CPU once with all of PyTorch's threads, as a user runs it, and once with one thread each;
ours and NumPy use one in either case. On CUDA the time is the device's own, between two events.
The maps are drawn: patches of six classes an image, a prediction that differs along their edges.
"""

import functools
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does: see segkit.cli

import cv2
import numpy as np
import torch
from common import Row, compared, grown, in_fresh_process, not_measured, run, taken
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from segkit.metrics.confusion import ConfusionMatrix

TITLE = "confusion matrix"
SECONDS = 30
IMAGES, SIDE, CLASSES, IGNORED = 16, 513, 21, 255
UNCHECKED = "torchmetrics, validate_args=False"
BARS = {"torchmetrics": 5.0, UNCHECKED: 5.0, "NumPy bincount": 3.0, "histc": 3.0}
CUDA_BAR = 0.3e-3  # seconds
NAME = f"{IMAGES}x{SIDE}x{SIDE}, {CLASSES} classes"

Count = Callable[[Tensor, Tensor], Tensor]


def maps() -> tuple[Tensor, Tensor]:
    """Prediction and truth, uint8 [16, 513, 513]."""
    founds, truths = [], []
    for number in range(IMAGES):
        rng = np.random.default_rng(number)
        kinds = rng.choice(CLASSES, 6).astype(np.uint8)
        field = clouds(rng, 9)
        steps = np.quantile(field, np.linspace(0, 1, 7)[1:-1])
        truth = kinds[np.digitize(field, steps)]
        found = kinds[np.digitize(field + 0.1 * clouds(rng, 25), steps)]
        if number % 2:  # photos are wider than they are high: the rest of the square is padding
            truth[375:] = IGNORED
        founds.append(found)
        truths.append(truth)
    return torch.from_numpy(np.stack(founds)), torch.from_numpy(np.stack(truths))


def clouds(rng: np.random.Generator, cells: int) -> np.ndarray:
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


# -- who counts --------------------------------------------------------------------------------


def ours(found: Tensor, truth: Tensor) -> Tensor:
    matrix = ConfusionMatrix(CLASSES, IGNORED, found.device)
    matrix.update(found, truth)
    return matrix._counts if found.is_cuda else matrix.matrix()


def torchmetrics(found: Tensor, truth: Tensor, checked: bool = True) -> Tensor:
    matrix = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED, validate_args=checked)
    matrix = matrix.to(found.device)
    matrix.update(found, truth)
    return matrix.compute()


def bincount(found: Tensor, truth: Tensor) -> Tensor:
    image, label = found.numpy(), truth.numpy()
    mask = (label >= 0) & (label < CLASSES)
    cell = CLASSES * label[mask].astype(int) + image[mask]
    return torch.from_numpy(np.bincount(cell, minlength=CLASSES**2).reshape(CLASSES, CLASSES))


def histc(found: Tensor, truth: Tensor) -> Tensor:
    mask = truth != IGNORED
    cell = CLASSES * truth[mask].float() + found[mask]
    return torch.histc(cell, CLASSES**2, 0, CLASSES**2 - 1).view(CLASSES, CLASSES).long()


THEIRS: dict[str, Count] = {
    "torchmetrics": torchmetrics,
    UNCHECKED: functools.partial(torchmetrics, checked=False),
    "NumPy bincount": bincount,
    "histc": histc,
}


# -- rows --------------------------------------------------------------------------------------


def peak(count: Count) -> int:
    found, truth = maps()
    count(found[:1, :8], truth[:1, :8])  # what a library loads at its first call is not the count's
    return grown(lambda: count(found, truth))


def on_cpu(rounds: int) -> list[Row]:
    found, truth = maps()
    for name, count in THEIRS.items():
        if not torch.equal(count(found, truth), ours(found, truth)):
            raise SystemExit(f"{name} counts otherwise")
    counts: dict[str, Count] = {"ours": ours, **THEIRS}
    peaks = {name: in_fresh_process(peak, count) for name, count in counts.items()}
    rows = []
    for threads in dict.fromkeys((torch.get_num_threads(), 1)):
        torch.set_num_threads(threads)
        works = {name: lambda c=count: c(found, truth) for name, count in counts.items()}
        # Of one thread its own time, which hardly minds what else runs on the machine.
        clock = time.thread_time if threads == 1 else time.perf_counter
        seconds = taken(works, rounds=rounds, clock=clock)
        for name, bar in BARS.items():
            title = f"{NAME}, " + ("one thread" if threads == 1 else f"{threads} threads")
            pair = compared(seconds["ours"], seconds[name])
            pair |= {"peak": peaks["ours"], "their_peak": peaks[name]}
            rows.append(Row(title, name, **pair, least=bar))
    return rows


def on_cuda(rounds: int) -> list[Row]:
    found, truth = (part.cuda() for part in maps())
    want = ours(found.cpu(), truth.cpu())
    if not torch.equal(ours(found, truth)[: CLASSES**2].view_as(want).cpu(), want):
        raise SystemExit("the GPU counts otherwise")
    there = ("torchmetrics", UNCHECKED, "histc")
    counts: dict[str, Count] = {"ours": ours, **{name: THEIRS[name] for name in there}}

    def timed(count: Count) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        count(found, truth)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    works = {name: lambda c=count: timed(c) for name, count in counts.items()}
    seconds = taken(works, rounds=rounds, warm=5)
    peaks = {name: cuda_peak(count, found, truth) for name, count in counts.items()}
    return [
        Row(
            f"{NAME}, CUDA",
            name,
            **compared(seconds["ours"], seconds[name]),
            peak=peaks["ours"],
            their_peak=peaks[name],
            most=CUDA_BAR if name == "torchmetrics" else None,
        )
        for name in there
    ]


def cuda_peak(count: Count, found: Tensor, truth: Tensor) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    count(found, truth)
    return torch.cuda.max_memory_allocated() - before


def rows(rounds: int, device: str) -> list[Row]:
    name = f"{NAME}, CUDA"
    if device == "cuda" and torch.cuda.is_available():
        return on_cuda(rounds)
    missing = [] if torch.cuda.is_available() else [not_measured(name, most=CUDA_BAR)]
    return missing if device == "cuda" else on_cpu(rounds) + missing


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=15))
