"""Which sample comes when, and batches of them.

The sample at a position of a stage's endless stream is a pure function, so the number of workers,
a resume in mid-epoch or another rank layout change nothing, and skipping ahead costs nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segkit.data.dataset import Dataset as Dataset  # also for those who import it from here
from segkit.data.workers import PREFETCH, Note, in_order, shared_array
from segkit.errors import ConfigError, DataError, EnvironmentFault, SegkitError
from segkit.randomness import generator, integer

TIMEOUT_SECONDS = 300.0


class Augment(Protocol):
    """What makes training input of a sample; ``size`` is the (height, width) of its results."""

    size: tuple[int, int]

    def __call__(
        self, rgb: np.ndarray, label: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [h,w,3] and labels [h,w]; every draw follows from ``seed``."""


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 [B,3,h,w]; ``labels`` [B,h,w], uint8 up to 255 classes, else int32.

    The channels of a pixel lie beside each other (``torch.channels_last``): as pictures come and
    convolutions want them, so that nobody on the way turns them round.
    They are this rank's share; the rest is that of the whole step. ``seeds`` are what the
    augmentation of each sample drew from.
    """

    images: Tensor
    labels: Tensor
    ids: list[str]
    epochs: list[int]
    indices: list[int]
    seeds: list[int]

    @property
    def origin(self) -> dict[str, list[int]]:
        """All that it takes to make the batch again, with the data set and its ``Augment``."""
        return {"epochs": self.epochs, "indices": self.indices, "augment_seeds": self.seeds}


@dataclass(frozen=True)
class EvalSample:
    """``rgb`` uint8 [H, W, 3] and ``label`` [H, W], whole and at their own size."""

    index: int
    id: str
    rgb: np.ndarray
    label: np.ndarray

    @property
    def image(self) -> Tensor:
        """``rgb`` as the predictor takes it, uint8 [3, H, W]: the same bytes, not normalised.

        Bytes, of which the predictor makes floats for what the network is about to see: they are a
        quarter of the floats, and a picture may have hundreds of millions of pixels.
        """
        rgb = self.rgb if self.rgb.flags.writeable else self.rgb.copy()
        return torch.from_numpy(rgb).permute(2, 0, 1)


@lru_cache(maxsize=4)
def permutation(seed: int, stage: int, epoch: int, count: int) -> np.ndarray:
    """The order of ``count`` samples in an epoch of a stage. Read-only: it is shared."""
    order = generator(seed, "order", stage, epoch).permutation(count)
    order.flags.writeable = False
    return order


def sample_at(seed: int, stage: int, count: int, position: int) -> tuple[int, int]:
    """(epoch, index) of a position 0, 1, 2 ... in the stream of a stage over ``count`` samples."""
    epoch, place = divmod(position, count)
    return epoch, int(permutation(seed, stage, epoch, count)[place])


def augment_seed(seed: int, stage: int, epoch: int, index: int) -> int:
    """What the augmentation of a sample draws from: the same in any worker, place and run."""
    return integer(seed, "augment", stage, epoch, index)


def train_batches(
    dataset: Dataset,
    augment: Augment,
    *,
    seed: int,
    stage: int,
    batch: int,
    first_step: int,
    last_step: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
    prefetch: int = PREFETCH,
    timeout: float = TIMEOUT_SECONDS,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Batch]:
    """The batches of the steps ``first_step .. last_step - 1``, counted from the stage's start.

    ``batch`` is the size over all ranks; a rank yields its ``batch / world`` share of every step.
    ``pin`` puts the tensors into page-locked memory. The iterator starts its workers at the first
    ``next``; ``close()`` ends them. ``should_stop`` ends it from within a wait. Raises
    ``ConfigError`` (batch), what ``dataset.read`` raises, ``DataError`` naming the sample for
    anything unexpected, and ``EnvironmentFault`` for a worker that died or hangs.
    """
    if batch < 1 or batch % world:
        what = f"{batch} samples on {world} ranks"
        raise ConfigError(
            "BATCH", "schedule.batch", what, "a positive multiple of the number of ranks"
        )
    share = batch // world
    slots = max(1, workers * prefetch)
    images = shared_array((slots, share, *augment.size, 3), np.uint8)
    label_type = np.dtype(np.uint8 if dataset.labels.num_classes <= 255 else np.int32)
    labels = shared_array((slots, share, *augment.size), label_type)
    count = len(dataset)

    def work(step: int, note: Note) -> tuple[int, list[int], list[int]]:
        slot = (step - first_step) % slots
        drawn = [sample_at(seed, stage, count, step * batch + j) for j in range(batch)]
        for j in range(share):
            place = rank * share + j
            note(step * batch + place)
            epoch, index = drawn[place]
            image, label = read_sample(dataset, index)
            draws = augment_seed(seed, stage, epoch, index)
            image, label = _augmented(augment, image, label, draws, dataset.ids[index])
            images[slot, j], labels[slot, j] = image, label
        return slot, [epoch for epoch, _ in drawn], [index for _, index in drawn]

    results = in_order(
        range(first_step, last_step),
        work,
        workers=workers,
        prefetch=prefetch,
        name_of=lambda position: dataset.ids[sample_at(seed, stage, count, position)[1]],
        timeout=timeout,
        should_stop=should_stop,
    )

    def seed_of(epoch: int, index: int) -> int:
        return augment_seed(seed, stage, epoch, index)

    return _batches(dataset, results, images, labels, seed_of, pin)


def eval_samples(
    dataset: Dataset,
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    prefetch: int = 2 * PREFETCH,
    timeout: float = TIMEOUT_SECONDS,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[EvalSample]:
    """Every sample once, in order, whole; of several ranks each yields every ``world``-th.

    No sample is repeated to make the ranks' shares equal. Raises what ``train_batches`` raises.
    """

    def work(index: int, note: Note) -> tuple[int, np.ndarray, np.ndarray]:
        note(index)
        return index, *read_sample(dataset, index)

    results = in_order(
        range(rank, len(dataset), world),
        work,
        workers=workers,
        prefetch=prefetch,
        name_of=lambda index: dataset.ids[index],
        timeout=timeout,
        should_stop=should_stop,
    )
    return _eval_samples(dataset, results)


def _batches(
    dataset: Dataset,
    results: Iterator[tuple[int, list[int], list[int]]],
    images: np.ndarray,
    labels: np.ndarray,
    seed_of: Callable[[int, int], int],
    pin: bool,
) -> Iterator[Batch]:
    try:
        for slot, epochs, indices in results:
            ids = [str(dataset.ids[index]) for index in indices]
            seeds = list(map(seed_of, epochs, indices))
            pictures = _copy(images[slot], pin).permute(0, 3, 1, 2)
            yield Batch(pictures, _copy(labels[slot], pin), ids, epochs, indices, seeds)
    finally:
        results.close()  # type: ignore[attr-defined]


def _eval_samples(
    dataset: Dataset,
    results: Iterator[tuple[int, np.ndarray, np.ndarray]],
) -> Iterator[EvalSample]:
    try:
        for index, rgb, label in results:
            yield EvalSample(index, str(dataset.ids[index]), rgb, label)
    finally:
        results.close()  # type: ignore[attr-defined]


def _copy(array: np.ndarray, pin: bool) -> Tensor:
    """A tensor of its own: the slot is written again as soon as the next batch is asked for."""
    source = torch.from_numpy(array)
    return torch.empty(source.shape, dtype=source.dtype, pin_memory=pin).copy_(source)


def read_sample(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        return dataset.read(index)
    except Exception as error:
        raise _named(error, dataset.ids[index], "reading") from error


def _augmented(
    augment: Augment, rgb: np.ndarray, label: np.ndarray, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    try:
        image, label = augment(rgb, label, seed)
        if image.shape != (*augment.size, 3) or label.shape != augment.size:
            raise ValueError(f"made {image.shape} and {label.shape}, not {augment.size}")
        return image, label
    except Exception as error:
        raise _named(error, name, "augmenting") from error


def _named(error: Exception, name: str, doing: str) -> SegkitError:
    """``error`` as a fault of the sample it came from, unless it already names its place."""
    if isinstance(error, SegkitError):
        return error
    if isinstance(error, MemoryError):
        fix = "fewer workers, a smaller batch or a smaller crop"
        return EnvironmentFault("MEMORY", f"sample {name}", f"no memory left in {doing}", fix)
    what = f"{doing} failed: {type(error).__name__}: {error}"
    return DataError("SAMPLE", f"sample {name}", what, "SEGKIT_TRACE=1 shows where")
