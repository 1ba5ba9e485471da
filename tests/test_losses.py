"""The loss: void batches, weights, and parts that add up."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segkit.errors import ConfigError
from segkit.losses import (
    CrossEntropy,
    HardPixelCrossEntropy,
    MultiScaleCrossEntropy,
    SubsampledCrossEntropy,
)

CLASSES = 4
WEIGHTS = [1.0, 0.1, 3.0, 0.5]


def batch(kind: torch.dtype = torch.uint8, size: int = 9) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(3)
    labels = torch.randint(0, CLASSES, (4, size, size)).to(kind)
    labels[0, :3] = 255
    labels[2] = 255  # a whole image without a label
    scores = {name: torch.randn(4, CLASSES, 5, 5, requires_grad=True) for name in ("out", "aux")}
    return scores, labels


def value(loss: CrossEntropy, scores: Any, labels: Tensor) -> Tensor:
    return loss(scores, labels, loss.normaliser(labels))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("aux", [0.0, 0.4])
def test_it_is_torchs_mean_at_full_size(
    kind: torch.dtype, weights: list[float] | None, aux: float
) -> None:
    scores, labels = batch(kind)
    expected = torch.zeros(())
    for name, share in (("out", 1.0), ("aux", aux)):
        full = functional.interpolate(
            scores[name], size=labels.shape[1:], mode="bilinear", align_corners=True
        )
        expected = expected + share * functional.cross_entropy(
            full,
            labels.long(),
            weight=None if weights is None else torch.tensor(weights),
            ignore_index=255,
        )
    found = value(CrossEntropy(255, weights, aux), scores, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_corners_are_aligned() -> None:
    """With 9 = 8·1 + 1, each corner of a 2x2 score map is a corner of the label."""
    scores = torch.zeros(1, 2, 2, 2)
    scores[0, 1] = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    labels = torch.full((1, 9, 9), 255)
    labels[0, 0, 0] = labels[0, 8, 8] = 1
    labels[0, 0, 8] = labels[0, 8, 0] = 0
    exact = functional.cross_entropy(torch.tensor([[0.0, 9.0]]), torch.tensor([1]))
    torch.testing.assert_close(value(CrossEntropy(255), {"out": scores}, labels), exact)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_void_batch_is_zero_with_zero_gradients(weights: list[float] | None) -> None:
    """D12."""
    scores, labels = batch()
    labels[:] = 255
    loss = value(CrossEntropy(255, weights, 0.4), scores, labels)
    loss.backward()
    assert loss.item() == 0.0
    for score in scores.values():
        assert score.grad is not None
        assert score.grad.abs().max() == 0


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_add_up_to_the_whole_batch(weights: list[float] | None, parts: int) -> None:
    """Though they hold different numbers of labelled pixels, and one holds none."""
    loss = CrossEntropy(255, weights, 0.4)
    scores, labels = batch()
    whole = value(loss, scores, labels)
    expected = torch.autograd.grad(whole, list(scores.values()))
    normaliser = loss.normaliser(labels)
    total = torch.zeros(())
    for part in torch.arange(4).chunk(parts):
        some = loss({k: v[part] for k, v in scores.items()}, labels[part], normaliser)
        some.backward()
        total += some.detach()
    torch.testing.assert_close(total, whole.detach())
    for score, gradient in zip(scores.values(), expected, strict=True):
        torch.testing.assert_close(score.grad, gradient)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_large_half_precision_scores_give_a_finite_loss(kind: torch.dtype) -> None:
    """R19: sums of 70 000 are infinite in half precision."""
    scores = torch.full((1, 2, 5, 5), 60_000.0, dtype=kind)
    scores[:, 1] = -60_000.0
    loss = value(CrossEntropy(255), {"out": scores}, torch.ones(1, 65, 65, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(120_000, rel=0.01)


def test_labels_beyond_255() -> None:
    labels = torch.tensor([[[65535, 1]]], dtype=torch.int32)
    scores = torch.zeros(1, 300, 1, 2)
    loss = CrossEntropy(65535)
    assert loss.normaliser(labels)["pixels"] == 1
    torch.testing.assert_close(value(loss, {"out": scores}, labels), torch.tensor(300.0).log())


def test_an_aux_loss_without_an_aux_score_is_refused() -> None:
    scores, labels = batch()
    with pytest.raises(ConfigError, match=r"loss\.aux_weight"):
        value(CrossEntropy(255, aux_weight=0.4), {"out": scores["out"]}, labels)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(255, WEIGHTS, 0.4),
        HardPixelCrossEntropy(255),
        SubsampledCrossEntropy(255),
        MultiScaleCrossEntropy(255),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_on_cuda_the_exact_path_has_the_same_bits_twice(loss: Any) -> None:
    scores, labels = batch(size=33)
    found = []
    for _ in range(2):
        there = {n: s.detach().cuda().requires_grad_() for n, s in scores.items()}
        value(loss, there, labels.cuda()).backward()
        found.append(there["out"].grad)
    assert torch.equal(*found)
