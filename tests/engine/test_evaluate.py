"""Evaluation against plain integers."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from segkit.engine.evaluate import Score, evaluate
from segkit.engine.signals import StopRequested
from segkit.engine.team import Alone
from segkit.errors import DataError
from segkit.metrics.confusion import ConfusionMatrix

CLASSES = 4


@dataclass(frozen=True)
class Sample:
    id: str
    label: np.ndarray
    probabilities: torch.Tensor


def samples(count: int, seed: int = 0) -> list[Sample]:
    """Images of different sizes, with ignored pixels; class 3 never occurs."""
    draw = np.random.default_rng(seed)
    made = []
    for index in range(count):
        size = tuple(draw.integers(1, 9, 2))
        label = draw.choice([0, 1, 2, 255], size).astype(np.uint8)
        scores = torch.from_numpy(draw.random((CLASSES - 1, *size), np.float32))
        full = torch.cat([scores, torch.zeros(1, *size)])
        made.append(Sample(f"s{index}", label, full))
    return made


def oracle(given: list[Sample]) -> tuple[list[list[int]], int]:
    matrix, pixels = [[0] * CLASSES for _ in range(CLASSES)], 0
    for sample in given:
        for y, row in enumerate(sample.label.tolist()):
            for x, truth in enumerate(row):
                if truth != 255:
                    column = sample.probabilities[:, y, x].tolist()
                    matrix[truth][column.index(max(column))] += 1
                    pixels += 1
    return matrix, pixels


def run(given: Any, **more: Any) -> Score:
    def predict(together: list[Sample]) -> Iterator[torch.Tensor]:
        for sample in together:
            refined = more.get("refine") is not None
            yield sample.probabilities if refined else sample.probabilities.argmax(0)

    return evaluate(
        given,
        predict,
        num_classes=CLASSES,
        ignore_label=255,
        device="cpu",
        **more,
    )


class SlowRefine:
    """Gives results back two submissions late, and inverts them, so that they are its own."""

    def __init__(self) -> None:
        self.pending: deque[tuple[Sample, Any]] = deque()
        self.most = 0

    def submit(self, sample: Sample, probabilities: torch.Tensor) -> None:
        self.pending.append((sample, (2 - probabilities[:3].argmax(0)).to(torch.uint8).numpy()))
        self.most = max(self.most, len(self.pending))

    def ready(self) -> Iterator[tuple[Sample, Any]]:
        while len(self.pending) > 2:
            yield self.pending.popleft()

    def results(self) -> Iterator[tuple[Sample, Any]]:
        while self.pending:
            yield self.pending.popleft()


@pytest.mark.parametrize("count", [1, 2, 7, 17])
def test_the_matrix_is_the_oracles(count: int) -> None:
    """E1, E2."""
    given = samples(count, seed=count)
    score = run(iter(given))
    assert (score.matrix.tolist(), score.pixels) == oracle(given)
    assert score.images == count
    assert score.matrix.dtype == torch.int64
    assert set(score.seconds) == {"data", "predict", "refine", "total"}


@pytest.mark.parametrize("batch", range(1, 6))
@pytest.mark.parametrize("count", range(1, 18))
def test_batches_change_nothing(count: int, batch: int) -> None:
    """E1: batches are full but for the last one, in order; the matrix is the oracle's."""
    given = samples(count, seed=count)
    together: list[list[str]] = []

    def predict(asked: list[Sample]) -> list[torch.Tensor]:
        together.append([sample.id for sample in asked])
        return [sample.probabilities.argmax(0) for sample in asked]

    seen: list[str] = []
    score = evaluate(
        iter(given),
        predict,
        num_classes=CLASSES,
        ignore_label=255,
        device="cpu",
        batch=batch,
        on_image=lambda sample, _: seen.append(sample.id),
    )
    assert (score.matrix.tolist(), score.pixels) == oracle(given)
    assert score.images == count
    assert seen == [sample.id for sample in given] == [name for part in together for name in part]
    assert [len(part) for part in together[:-1]] == [batch] * (len(together) - 1)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_refined_maps_are_counted_instead(count: int) -> None:
    given, refine = samples(count), SlowRefine()
    score = run(given, refine=refine)
    plain = torch.tensor(oracle(given)[0])
    assert torch.equal(score.matrix[:3, :3], plain[:3, :3].flip(1))
    assert score.images == count
    assert refine.most <= 3


def test_every_image_is_shown_once() -> None:
    for refine in (None, SlowRefine()):
        seen: list[str] = []
        given = samples(5)
        run(given, refine=refine, on_image=lambda sample, _: seen.append(sample.id))  # noqa: B023
        assert seen == [sample.id for sample in given]


class Rows:
    """A row for each image: how often each class was predicted."""

    def __init__(self, count: int) -> None:
        self.seen = torch.zeros(count, CLASSES, dtype=torch.int64)

    def update(self, sample: Sample, prediction: torch.Tensor) -> None:
        row = torch.bincount(prediction.flatten().long(), minlength=CLASSES)
        self.seen[int(sample.id[1:])] += row

    def counts(self) -> torch.Tensor:
        return self.seen


class Second(Alone):
    """One of two processes; the other one's counts come out of ``theirs`` in the order asked."""

    size = 2

    def __init__(self, theirs: list[torch.Tensor]) -> None:
        self.theirs = iter(theirs)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + next(self.theirs)


def test_counters_see_every_label_map_and_add_up_over_the_team() -> None:
    given = samples(7)
    whole = run(given, counters={"rows": Rows(7)})
    assert whole.counts["rows"].sum(1).tolist() == [s.label.size for s in given]
    for refine in (None, SlowRefine()):
        one = run(given[::2], counters={"b": Rows(7), "a": Rows(7)}, refine=refine)
        theirs = [one.matrix, torch.tensor(one.images), one.counts["a"], one.counts["b"]]
        two = run(given[1::2], counters={"a": Rows(7), "b": Rows(7)}, team=Second(theirs))
        assert two.images == 7
        assert torch.equal(two.counts["a"], two.counts["b"])
        if refine is None:
            assert torch.equal(two.counts["a"], whole.counts["rows"])
            assert torch.equal(two.matrix, whole.matrix)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="no image"):
        run([])


def test_a_split_of_ignored_pixels_is_an_error() -> None:
    """D12."""
    void = Sample("void", np.full((2, 3), 255, np.uint8), torch.rand(CLASSES, 2, 3))
    with pytest.raises(DataError, match="labelled"):
        run([void])
    assert run([void, *samples(3)]).images == 4


def test_a_map_of_another_size_is_refused_by_name() -> None:
    odd = Sample("odd", np.zeros((2, 3), np.uint8), torch.rand(CLASSES, 3, 2))
    with pytest.raises(DataError, match="odd"):
        run([odd])


def test_a_label_out_of_range_is_not_counted_as_something_else() -> None:
    bad = Sample("bad", np.full((2, 2), CLASSES, np.uint8), torch.rand(CLASSES, 2, 2))
    with pytest.raises(DataError, match="4 pixels"):
        run([bad])


def test_wide_labels() -> None:
    wide = Sample("w", np.array([[0, 65535]], np.uint16), torch.rand(CLASSES, 1, 2))
    score = evaluate(
        [wide],
        lambda together: [sample.probabilities.argmax(0) for sample in together],
        num_classes=CLASSES,
        ignore_label=65535,
        device="cpu",
    )
    assert score.pixels == 1


def test_large_maps_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    given, widest = samples(9), []
    update = ConfusionMatrix.update

    def watched(self: ConfusionMatrix, found: torch.Tensor, truth: torch.Tensor) -> None:
        widest.append(truth.numel())
        update(self, found, truth)

    monkeypatch.setattr(ConfusionMatrix, "update", watched)
    monkeypatch.setattr("segkit.engine.evaluate.COUNTED_PIXELS", 10)
    assert run(given).matrix.tolist() == oracle(given)[0]
    assert max(widest) <= 10


def test_it_stops_between_batches() -> None:
    seen: list[str] = []
    with pytest.raises(StopRequested):
        run(
            samples(9),
            batch=3,
            should_stop=lambda: len(seen) >= 2,
            on_image=lambda sample, _: seen.append(sample.id),
        )
    assert seen == ["s0", "s1", "s2"]


def test_it_stops_between_images() -> None:
    answers = iter([False, False, True, True])
    seen: list[str] = []
    with pytest.raises(StopRequested):
        run(
            samples(5),
            should_stop=lambda: next(answers),
            on_image=lambda sample, _: seen.append(sample.id),
        )
    assert seen == ["s0", "s1"]
