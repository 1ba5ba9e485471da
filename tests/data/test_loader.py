import itertools

import numpy as np
import pytest
import torch

from segkit.data.labels import label_set
from segkit.data.loader import (
    augment_seed,
    eval_samples,
    permutation,
    sample_at,
    train_batches,
)
from segkit.data.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise, normalise
from segkit.data.shapes import Shapes
from segkit.data.transforms import TrainTransform
from segkit.errors import ConfigError, DataError, EnvironmentFault

STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def batches(dataset=None, augment=None, first=0, last=6, **options) -> list:
    dataset = dataset or Shapes(size=40, count=7)
    augment = augment or TrainTransform(33)
    options = {"seed": 1, "stage": 0, "batch": 3, "workers": 0, **options}
    return list(train_batches(dataset, augment, first_step=first, last_step=last, **options))


def same(one: list, two: list) -> bool:
    return len(one) == len(two) and all(
        (a.ids, a.epochs, a.indices) == (b.ids, b.epochs, b.indices)
        and torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (2, 2), (2, 4), (3, 1)])
def test_workers_and_prefetch_change_no_bit(workers: int, prefetch: int) -> None:
    assert same(batches(), batches(workers=workers, prefetch=prefetch))


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_in_mid_epoch_goes_on_as_if_nothing_had_happened(cut: int, workers: int) -> None:
    resumed = batches(last=cut) + batches(first=cut, workers=workers)
    assert same(batches(), resumed)


def test_skipping_ahead_opens_no_sample() -> None:
    opened = []

    class Counting(Shapes):
        def read(self, index: int):
            opened.append(index)
            return super().read(index)

    batches(Counting(size=40, count=7), first=10**9, last=10**9 + 1)
    assert len(opened) == 3


def test_seeds_stages_and_epochs_differ() -> None:
    base = batches()
    assert not same(base, batches(seed=2))
    assert not same(base, batches(stage=1))
    seeds = {
        augment_seed(*key) for key in itertools.product(range(3), range(2), range(4), range(5))
    }
    assert len(seeds) == 120


def test_an_augmentation_depends_on_nothing_but_epoch_and_sample() -> None:
    """The same sample of the same epoch is the same tensor in another batch size and place."""
    by_key = {}
    for batch in (1, 2, 3, 6):
        for made in batches(batch=batch, last=12 // batch):
            for j, key in enumerate(zip(made.epochs, made.indices, strict=True)):
                by_key.setdefault(key, []).append(made.images[j])
    assert len(by_key) == 12
    for copies in by_key.values():
        assert len(copies) == 4
        assert all(torch.equal(copies[0], copy) for copy in copies[1:])
    first = {index: image for (epoch, index), (image, *_) in by_key.items() if epoch == 0}
    second = {index: image for (epoch, index), (image, *_) in by_key.items() if epoch == 1}
    assert second
    assert not any(torch.equal(image, first[index]) for index, image in second.items())


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_each_epoch_shows_each_sample_once(count: int) -> None:
    stream = [sample_at(3, 1, count, position) for position in range(4 * count)]
    for epoch in range(4):
        part = stream[epoch * count : (epoch + 1) * count]
        assert {e for e, _ in part} == {epoch}
        assert sorted(index for _, index in part) == list(range(count))
    if count == 50:
        assert len({tuple(i for e, i in stream if e == epoch) for epoch in range(4)}) == 4


def test_a_permutation_is_shared_and_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        permutation(0, 0, 0, 9)[0] = 1


def test_a_golden_order() -> None:
    """Order is a promise across versions: a resumed run must find it unchanged."""
    assert permutation(0, 0, 0, 8).tolist() == [0, 7, 1, 3, 4, 2, 6, 5]
    assert augment_seed(0, 0, 0, 0) == 4446956602916519043


def test_ranks_share_the_global_batch() -> None:
    whole = batches(batch=4)
    parts = [batches(batch=4, rank=rank, world=2) for rank in range(2)]
    for step, made in enumerate(whole):
        assert made.ids == parts[0][step].ids == parts[1][step].ids  # of the whole step
        images = torch.cat([part[step].images for part in parts])
        assert torch.equal(made.images, images)


def test_what_a_batch_is() -> None:
    made = batches()[0]
    assert made.images.shape == (3, 3, 33, 33)
    assert made.images.dtype == torch.uint8
    assert made.labels.shape == (3, 33, 33)
    assert made.labels.dtype == torch.uint8
    assert made.images.is_contiguous(memory_format=torch.channels_last)
    assert made.ids == [f"train-{index:06d}" for index in made.indices]


class Many:
    """300 classes on one small picture."""

    labels = label_set("many", [f"c{i}" for i in range(300)])
    ids = ("only",)

    def __len__(self) -> int:
        return 1

    def read(self, _: int) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(1600, dtype=np.uint16).reshape(40, 40) % 300
        return np.zeros((40, 40, 3), np.uint8), label


def test_many_classes_make_wide_labels() -> None:
    still = TrainTransform(65, scale_min=1, scale_max=1, flip=0, ignore_label=65535)
    labels = batches(Many(), still, last=1, workers=1)[0].labels
    assert labels.dtype == torch.int32
    assert np.array_equal(labels[0, :40, :40], Many().read(0)[1])
    assert (labels[:, 40:] == 65535).all()


def test_a_batch_stays_what_it_was() -> None:
    stream = train_batches(
        Shapes(size=40, count=7), TrainTransform(33), seed=1, stage=0, batch=3, first_step=0,
        last_step=9, workers=2, prefetch=1,
    )  # fmt: skip
    first = next(stream)
    before = first.images.clone()
    for _ in stream:
        pass
    assert torch.equal(first.images, before)


def test_the_loader_draws_nothing_from_global_generators() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(workers=2)
    batches(workers=0)
    list(eval_samples(Shapes(size=40, count=3), workers=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(("batch", "world"), [(0, 1), (-1, 1), (3, 2)])
def test_a_batch_must_fit_the_ranks(batch: int, world: int) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.batch"):
        batches(batch=batch, world=world)


class Broken(Shapes):
    """Sample 4 fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(size=40, count=7)
        self.error = error

    def read(self, index: int):
        if index == 4:
            raise self.error
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (DataError("LABEL-RANGE", "m.png", "label 9"), DataError, "m.png: label 9"),
        (ValueError("odd"), DataError, "sample train-000004: reading failed: ValueError: odd"),
        (MemoryError(), EnvironmentFault, "sample train-000004: no memory left in reading"),
    ],
)
def test_faults_of_samples_arrive_named(workers: int, error, kind, line: str) -> None:
    for run in (
        lambda: batches(Broken(error), workers=workers),
        lambda: list(eval_samples(Broken(error), workers=workers)),
    ):
        with pytest.raises(kind) as caught:
            run()
        assert str(caught.value).startswith(line)


@pytest.mark.parametrize("workers", [0, 1])
def test_faults_of_the_augmentation_arrive_named(workers: int) -> None:
    class Wrong(TrainTransform):
        def __call__(self, rgb, label, seed):  # noqa: ARG002
            return np.zeros((5, 5, 3), np.uint8), label

    with pytest.raises(DataError, match=r"sample train-.* augmenting failed"):
        batches(augment=Wrong(33), workers=workers)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_evaluation_sees_every_sample_once(workers: int, world: int, count: int) -> None:
    dataset = Shapes("val", (21, 34), count)
    seen = []
    for rank in range(world):
        part = eval_samples(dataset, workers=workers, rank=rank, world=world)
        part = list(part)
        assert [s.index for s in part] == list(range(rank, count, world))
        seen += part
    assert sorted(s.id for s in seen) == dataset.ids.tolist()
    for sample in seen:
        rgb, label = dataset.read(sample.index)
        assert np.array_equal(sample.rgb, rgb)
        assert np.array_equal(sample.label, label)
        assert np.array_equal(sample.image.numpy(), rgb.transpose(2, 0, 1))


def test_training_and_evaluation_normalise_alike() -> None:
    dataset = Shapes(size=33, count=1)
    sample = next(iter(eval_samples(dataset)))
    by_table = normalise(sample.rgb, **STATISTICS).transpose(2, 0, 1)
    still = TrainTransform(33, scale_min=1, scale_max=1, flip=0)
    made = batches(dataset, still, batch=1, last=1)[0]
    to_floats = Normalise(**STATISTICS)
    assert torch.equal(to_floats(sample.image[None]), to_floats(made.images))
    assert torch.equal(to_floats(sample.image[None])[0], torch.from_numpy(by_table.copy()))
