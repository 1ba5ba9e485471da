"""Evaluation: one confusion matrix over the whole set, every pixel of every image once."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from segkit.engine.signals import StopRequested
from segkit.engine.team import ALONE, Alone
from segkit.errors import DataError
from segkit.metrics.confusion import ConfusionMatrix


class Labelled(Protocol):
    """A sample with its truth: ``label`` [H, W], a tensor or an array of whole numbers."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> object: ...


Sample = TypeVar("Sample", bound=Labelled)


class Refine(Protocol[Sample]):
    """A stage that works beside the network, such as a pool of CRF processes.

    ``submit`` waits for room only (the number in flight is bounded); ``ready`` yields what is
    done, ``results`` all that was submitted: (sample, label map [H, W] as array or tensor).
    """

    def submit(self, sample: Sample, probabilities: Tensor) -> None: ...
    def ready(self) -> Iterator[tuple[Sample, Any]]: ...
    def results(self) -> Iterator[tuple[Sample, Any]]: ...


class Counter(Protocol):
    """Something else that is counted on the way, image by image.

    ``update`` gets a sample of the evaluation and its label map [H, W] (integers, any device).
    ``counts`` gives an int64 or float64 tensor of the same shape in every process of the team, to
    be summed over them: where it has a row for each image, rows of images not seen here are 0.
    """

    def update(self, sample: Any, prediction: Tensor) -> None: ...
    def counts(self) -> Tensor: ...


@dataclass(frozen=True)
class Score:
    """``matrix`` int64 [C, C] on the CPU (rows truth, columns prediction).

    ``pixels`` counts those not ignored. ``seconds``: ``data`` (waiting for samples), ``predict``,
    ``refine`` (waiting for the refining stage) and ``total``; a GPU works on beside all of them.
    ``counts`` has what each counter counted in all processes, on the CPU.
    """

    matrix: Tensor
    images: int
    pixels: int
    seconds: dict[str, float]
    counts: dict[str, Tensor] = field(default_factory=dict)


class _Clock:
    def __init__(self) -> None:
        self.seconds = {"data": 0.0, "predict": 0.0, "refine": 0.0}
        self.began = self._last = time.monotonic()

    def spent(self, name: str) -> None:
        """Book the time since the last call under ``name``."""
        now = time.monotonic()
        self.seconds[name] += now - self._last
        self._last = now

    def all(self) -> dict[str, float]:
        return {**self.seconds, "total": time.monotonic() - self.began}


# Counting widens labels to 64 bits: so many pixels at a time.
COUNTED_PIXELS = 2**22


def evaluate(
    samples: Iterable[Sample],
    predict: Callable[[list[Sample]], Iterable[Tensor]],
    *,
    num_classes: int,
    ignore_label: int,
    device: torch.device | str,
    batch: int = 1,
    refine: Refine[Sample] | None = None,
    counters: Mapping[str, Counter] = MappingProxyType({}),
    on_image: Callable[[Sample, Tensor], None] = lambda *_: None,
    should_stop: Callable[[], bool] = lambda: False,
    team: Alone = ALONE,
) -> Score:
    """Score ``predict`` on ``samples``, of which it gets up to ``batch`` at a time.

    It gives for each, in order, the label map [H, W] at the label's size; with ``refine`` the
    probabilities [C, H, W], and label maps come from there. ``counters`` (the same names in every
    process) and then ``on_image`` see every sample with its label map. Raises DataError if there is
    nothing to evaluate or a map does not fit its label, StopRequested between batches once
    ``should_stop()`` in any process of the ``team``, whose members evaluate a share of the images
    each. All get the same score.
    """
    confusion = ConfusionMatrix(num_classes, ignore_label, device)
    images = 0
    clock = _Clock()

    def count(sample: Sample, found: Any) -> None:
        nonlocal images
        truth, labels = torch.as_tensor(sample.label), torch.as_tensor(found)
        if truth.shape != labels.shape:
            what = f"label {tuple(truth.shape)}, prediction {tuple(labels.shape)}"
            raise DataError("SIZE", sample.id, what, "each pixel is scored at the label's own size")
        if torch.device(device).type == "cuda" and truth.device.type == "cpu":
            truth = truth.pin_memory()  # or a GPU would be waited for
        rows = max(1, COUNTED_PIXELS // max(1, truth.shape[-1]))
        for part, true in zip(labels.split(rows), truth.split(rows), strict=True):
            # As narrow as they are: they are widened where they are counted.
            confusion.update(part.to(device), true.to(device, non_blocking=True))
        for counter in counters.values():
            counter.update(sample, labels)
        images += 1
        team.beat()
        on_image(sample, labels)

    for together in _batches(samples, batch):
        if should_stop():
            break
        clock.spent("data")
        for sample, found in zip(together, predict(together), strict=True):
            if refine is None:
                count(sample, found)
                continue
            clock.spent("predict")
            refine.submit(sample, found)
            for ready in refine.ready():
                count(*ready)
            clock.spent("refine")
        clock.spent("predict")
    if refine is not None:
        for ready in refine.results():
            count(*ready)
        clock.spent("refine")

    # What waits for samples or for the CRF ends early at a stop, and so does the loop above.
    if team.any(should_stop()):
        raise StopRequested
    matrix = team.sum(confusion.matrix().cpu())
    images = int(team.sum(torch.tensor(images)))
    if not images:
        raise DataError("EMPTY", "evaluation", "there is no image to evaluate")
    pixels = int(matrix.sum())
    if not pixels:
        raise DataError("VOID", "evaluation", f"{images} images without one labelled pixel")
    counts = {name: team.sum(counters[name].counts().cpu()) for name in sorted(counters)}
    return Score(matrix, images, pixels, clock.all(), counts)


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    together: list[Sample] = []
    for sample in samples:
        together.append(sample)
        if len(together) == size:
            yield together
            together = []
    if together:
        yield together
