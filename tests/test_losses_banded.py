"""The loss in bands beside torch's own upsampling and cross entropy."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.losses import CrossEntropy, banded
from segkit.losses.banded import banded_cross_entropy


@pytest.fixture(params=[2**10, 2**14, 2**30], ids=["rows", "bands", "images"])
def band_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, some rows or several images at a time."""
    monkeypatch.setitem(banded.BAND_BYTES, "cpu", request.param)


def drawn(
    classes: int, small: tuple[int, int], large: tuple[int, int], images: int = 3
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    scores = 5 * torch.randn(images, classes, *small)
    labels = torch.randint(0, classes, (images, *large)).to(torch.int32)
    labels[torch.rand(labels.shape) < 0.2] = 255
    return scores.requires_grad_(), labels


def torchs(scores: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    full = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=True)
    return F.cross_entropy(full, labels.long(), weight=weights, ignore_index=255, reduction="sum")


@pytest.mark.usefixtures("band_bytes")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("classes", "small", "large"),
    [
        (4, (5, 5), (33, 33)),
        (21, (5, 9), (33, 61)),  # no multiple of anything
        (3, (7, 7), (7, 7)),  # already there
        (300, (2, 3), (17, 33)),
        (5, (1, 1), (16, 16)),
        (4, (9, 9), (5, 5)),  # smaller than the scores
    ],
)
def test_value_and_gradient_are_torchs(
    classes: int, small: tuple[int, int], large: tuple[int, int], weighted: bool
) -> None:
    scores, labels = drawn(classes, small, large)
    weights = torch.rand(classes) if weighted else None
    expected = torchs(scores, labels, weights)
    (gradient,) = torch.autograd.grad(expected, scores)
    found = banded_cross_entropy(scores, labels, weights, 255)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-4)
    (own,) = torch.autograd.grad(3 * found, scores)
    torch.testing.assert_close(
        own, 3 * gradient, rtol=1e-4, atol=2e-5 * float(gradient.abs().max())
    )


def test_large_scores_do_not_overflow() -> None:
    scores, labels = drawn(4, (3, 3), (17, 17))
    scores = (20_000 * scores.detach()).requires_grad_()
    found = banded_cross_entropy(scores, labels, None, 255)
    torch.testing.assert_close(found, torchs(scores, labels, None))


def test_a_score_that_is_not_finite_makes_the_loss_so() -> None:
    scores, labels = drawn(4, (3, 3), (17, 17))
    with torch.no_grad():
        scores[1, 2, 1, 1] = float("nan")
    assert not banded_cross_entropy(scores, labels, None, 255).isfinite()


def test_channels_last_scores_get_their_gradient_so() -> None:
    scores, labels = drawn(4, (3, 3), (17, 17))
    last = scores.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    banded_cross_entropy(last, labels, None, 255).backward()
    banded_cross_entropy(scores, labels, None, 255).backward()
    assert last.grad is not None
    assert last.grad.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last.grad, scores.grad)


def test_autocast_around_it_changes_nothing() -> None:
    scores, labels = drawn(4, (3, 3), (17, 17))
    alone = banded_cross_entropy(scores, labels, None, 255)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(banded_cross_entropy(scores, labels, None, 255), alone)


def test_memory_is_that_of_a_band() -> None:
    """Nothing as large as the full-size scores exists at any time."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    scores, labels = drawn(21, (33, 33), (513, 513), images=2)
    with Watch():
        banded_cross_entropy(scores, labels, None, 255).backward()
    assert largest <= 1.1 * banded.BAND_BYTES["cpu"] < 4 * 21 * 513 * 513 / 4


@pytest.mark.usefixtures("deterministic")
def test_deterministic_is_torchs_own_to_the_bit() -> None:
    scores, labels = drawn(4, (3, 3), (17, 17))
    loss = CrossEntropy(255)
    found = loss({"out": scores}, labels, {"pixels": torch.tensor(1.0)})
    assert torch.equal(found, torchs(scores, labels, None))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_on_cuda_it_is_the_processors_whatever_tf32_says(precision: str) -> None:
    scores, labels = drawn(21, (33, 33), (513, 513), images=4)
    expected = banded_cross_entropy(scores, labels, None, 255)
    (gradient,) = torch.autograd.grad(expected, scores)
    there = scores.detach().cuda().requires_grad_()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = banded_cross_entropy(there, labels.cuda(), None, 255)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    found.backward()
    assert there.grad is not None
    torch.testing.assert_close(found.cpu(), expected.detach(), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(there.grad.cpu(), gradient, rtol=1e-4, atol=1e-4)
