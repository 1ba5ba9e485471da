"""How time and memory grow with one thing at a time: images, classes, sides, crops.

    python benchmarks/growth.py [--rounds 3] [--device cpu] [--out docs/results/growth.json]

A row is one size beside the smallest one of its kind, the last row of a kind its largest size
beside the one before it, where fixed cost weighs least. "Theirs" is what growth in proportion would
make of the smaller one: the ratio says how far below that line ours stays, and the bar is an
exponent of ``MOST`` (log time over log size, nothing subtracted). Where labels no longer fit into a
byte (more than 255 classes) cost jumps once; the confusion matrix goes on to 900 for that. Memory
has the same bar; with the number of images it must stay flat (``FLAT``). Each size has a process of
its own; memory is what its resident set grows by in the first call, time the median of those after
it. On the CPU; what grows in Python and in the design grows on a card, too.
"""

import functools
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does: see segkit.cli

import torch
from common import Row, grown, in_fresh_process, run
from steps import OurStep, Size, labels_of
from torch import Tensor, nn

from segkit import parts
from segkit.config import compose
from segkit.data.loader import eval_samples
from segkit.data.normalise import Normalise
from segkit.engine.evaluate import evaluate
from segkit.inference.predictor import Predictor
from segkit.inference.windows import Window
from segkit.measures import counters_of
from segkit.metrics.confusion import ConfusionMatrix
from segkit.models.contracts import IMAGENET_PIXELS
from segkit.protocol import asking, memory_of

TITLE = "growth with images, classes, sides and crops"
SECONDS = 60
MOST, FLAT = 1.1, 1.1
SMALL = ("model=v3", "model.channels=64", "backbone=r_tiny", "pretrained=none", "device=cpu")
NORMALISE = Normalise(IMAGENET_PIXELS.mean, IMAGENET_PIXELS.std)

Work = Callable[[], object]


def rows(rounds: int, device: str) -> list[Row]:
    """Every kind, its sizes in order."""
    if device == "cuda":
        return [Row("all rows", note="not measured: growth is measured on the CPU")]
    return [row for kind in KINDS for row in rows_of(kind, rounds)]


def rows_of(kind: str, rounds: int) -> list[Row]:
    """The sizes of one kind beside its smallest, and the largest beside the one before it."""
    _, sizes, _ = KINDS[kind]
    found = {size: in_fresh_process(measured, kind, size, rounds) for size in sizes}
    least = sizes[0]
    rows = [Row(f"{kind} {least}", seconds=found[least][0], peak=found[least][1])]
    rows += [beside(kind, size, least, found) for size in sizes[1:]]
    if len(sizes) > 2:
        rows.append(tail(kind, found))
    return rows


def tail(kind: str, found: dict[int, tuple[float, int]]) -> Row:
    """The last two sizes: what grows faster there is hidden by fixed cost from the smallest on."""
    *_, before, last = found
    row = beside(kind, last, before, found)
    pairs = itertools.pairwise(found)
    worst = max(exponents(kind, size, small, found)[0] for small, size in pairs)
    return replace(row, note=f"{row.note}; worst of neighbouring sizes {worst:.2f}")


def beside(kind: str, size: int, small: int, found: dict[int, tuple[float, int]]) -> Row:
    """One size beside what growth in proportion would make of a smaller one."""
    (seconds, peak), (first, first_peak) = found[size], found[small]
    amount = KINDS[kind][2]
    factor = amount(size) / amount(small)
    in_time, in_memory = exponents(kind, size, small, found)
    flat = kind == IMAGES
    return Row(
        f"{kind} {size}",
        f"{factor:.4g} times {small}",
        seconds=seconds,
        theirs=first * factor,
        ratio=first * factor / seconds,
        least=round(factor ** (1 - MOST), 3),
        peak=peak,
        their_peak=first_peak if flat else int(first_peak * factor),
        most_memory=FLAT if flat else round(factor ** (MOST - 1), 3),
        note=f"exponent {in_time:.2f}, memory {in_memory:.2f}",
    )


def exponents(
    kind: str, size: int, small: int, found: dict[int, tuple[float, int]]
) -> tuple[float, float]:
    """Of time and of memory: log of what they grow by over log of what the work grows by."""
    amount = KINDS[kind][2]
    factor = amount(size) / amount(small)
    time, memory = (b / a for a, b in zip(found[small], found[size], strict=True))
    return math.log(time, factor), math.log(memory, factor)


def measured(kind: str, size: int, rounds: int) -> tuple[float, int]:
    """Median seconds, and bytes of the first call."""
    work = KINDS[kind][0](size)
    seconds = []

    def timed() -> None:
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)

    peak = grown(timed)
    # What takes long is measured once: its first call is no longer than the others.
    while len(seconds) <= rounds and sum(seconds) < 10:
        timed()
    return statistics.median(seconds[1:] or seconds), max(peak, 1)


# -- what is done ------------------------------------------------------------------------------


def images(count: int) -> Work:
    """An evaluation of so many images with all that is counted beside the matrix."""
    words = [*SMALL, "dataset=shapes", f"dataset.val.count={count}", "dataset.size=97"]
    values = compose("train", words).values
    dataset = parts.dataset_of(values, "val")
    labels = dataset.labels
    net = parts.network_of(values, labels.num_classes, 16).eval()
    device = torch.device("cpu")
    memory = memory_of(values, device)

    def work() -> None:
        predictor = asking(net, values, device, memory)
        evaluate(
            eval_samples(dataset),
            lambda together: predictor.labels([sample.image for sample in together]),
            num_classes=labels.num_classes,
            ignore_label=labels.ignore_label,
            device=device,
            counters=counters_of(values, dataset),
        )

    return work


def loss(classes: int) -> Work:
    """Forward and backward of a batch's loss: 4 crops of 257 at stride 16."""
    values = compose("train", list(SMALL)).values
    function = parts.loss_of(values, labels_of(classes))
    scores = torch.randn(4, classes, 17, 17).requires_grad_()
    labels = drawn_labels(classes, 4, 257, 257)

    def work() -> None:
        scores.grad = None
        function({"out": scores}, labels, function.normaliser(labels)).backward()

    return work


class Known(nn.Module):
    """A network that costs nothing: the same scores whatever it sees."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.known = scores

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.known[: len(images)]}


def labels(classes: int) -> Work:
    """The label map of one image of 513 from scores at stride 16 and those of its mirror image."""
    net = Known(torch.randn(2, classes, 33, 33))
    predictor = Predictor(net, output_stride=16, flip=True, normalise=NORMALISE)
    image = torch.zeros(3, 513, 513, dtype=torch.uint8)
    return lambda: predictor.labels([image])


def confusion(classes: int) -> Work:
    """Two million pixels."""
    matrix = ConfusionMatrix(classes, 65535 if classes > 255 else 255, "cpu")
    truth, found = (drawn_labels(classes, 2, 1024, 1024, seed) for seed in (0, 1))
    return lambda: matrix.update(found, truth)


def side(size: int, window: Window | None = None) -> Work:
    """The label map of one square image."""
    values = compose("train", list(SMALL)).values
    torch.manual_seed(0)
    net = parts.network_of(values, 21, 16).eval()
    predictor = Predictor(net, output_stride=16, pad="fit", window=window, normalise=NORMALISE)
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=rng)
    return lambda: predictor.labels([image])


def crop(size: int) -> Work:
    """An update on two crops."""
    return OurStep(("model=v3_mnv2", "backbone=mnv2"), Size(size, 2))


def drawn_labels(classes: int, *shape_and_seed: int) -> Tensor:
    *shape, seed = shape_and_seed if len(shape_and_seed) == 4 else (*shape_and_seed, 0)
    kind = torch.uint8 if classes <= 255 else torch.int32
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, classes, shape, dtype=kind, generator=rng)


def as_it_is(size: int) -> int:
    return size


def squared(size: int) -> int:
    return size * size


IMAGES = "evaluation, images"
# What is done at a size, the sizes, and how much work a size is.
KINDS: dict[str, tuple[Callable[[int], Work], tuple[int, ...], Callable[[int], int]]] = {
    IMAGES: (images, (50, 150, 450), as_it_is),
    "loss, classes": (loss, (2, 21, 100, 300), as_it_is),
    "label maps, classes": (labels, (2, 21, 100, 300), as_it_is),
    "confusion matrix, classes": (confusion, (2, 21, 100, 300, 900), as_it_is),
    "whole image, side": (side, (256, 1024, 4096), squared),
    "windows of 513, side": (
        functools.partial(side, window=Window(513)),
        (256, 1024, 4096),
        squared,
    ),
    "train step, crop": (crop, (129, 257, 513), squared),
}


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=3))
