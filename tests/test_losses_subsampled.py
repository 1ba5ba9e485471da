"""The losses of v1 and v2: every 8th label, and the sum of four over scales."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.losses import MultiScaleCrossEntropy, SubsampledCrossEntropy

CLASSES = 3
SIZES = {"out": 9, "scale_1": 9, "scale_075": 7, "scale_05": 5}


def batch(kind: torch.dtype = torch.uint8) -> tuple[dict[str, Tensor], Tensor]:
    """A crop of 65: maps of 9, 7 and 5 at stride 8. One image is void, one in part."""
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (4, 65, 65)).to(kind)
    labels[0, :30] = 255
    labels[2] = 255
    scores = {
        name: torch.randn(4, CLASSES, side, side, requires_grad=True)
        for name, side in SIZES.items()
    }
    return scores, labels


def mean(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores, labels.long(), ignore_index=255)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_8_is_torchs_mean_over_every_8th_label(kind: torch.dtype) -> None:
    scores, labels = batch(kind)
    loss = SubsampledCrossEntropy(255)
    found = loss(scores, labels, loss.normaliser(labels))
    torch.testing.assert_close(found, mean(scores["out"], labels[:, ::8, ::8]))


def test_every_8th_label_is_caffes_shrinking_interp() -> None:
    """Facts §8: with aligned corners it lands on every 8th pixel of 321, so nothing is mixed."""
    labels = torch.randint(0, 21, (1, 321, 321))
    shrunk = F.interpolate(labels[None].double(), (41, 41), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(shrunk, labels[:, ::8, ::8].double())


def test_scores_of_another_stride_are_resized_to_the_labels() -> None:
    scores, labels = batch()
    loss = SubsampledCrossEntropy(255)
    coarse = scores["scale_05"]
    full = F.interpolate(coarse, (9, 9), mode="bilinear", align_corners=True)
    found = loss({"out": coarse}, labels, loss.normaliser(labels))
    torch.testing.assert_close(found, mean(full, labels[:, ::8, ::8]))


def test_the_four_losses_of_v2() -> None:
    """Facts §2.8: 0.75 resized up to scale 1, 0.5 at its own size against labels/16."""
    scores, labels = batch()
    loss = MultiScaleCrossEntropy(255)
    eighth = labels[:, ::8, ::8]
    up = F.interpolate(scores["scale_075"], (9, 9), mode="bilinear", align_corners=True)
    expected = (
        mean(scores["out"], eighth)
        + mean(scores["scale_1"], eighth)
        + mean(up, eighth)
        + mean(scores["scale_05"], labels[:, ::16, ::16])
    )
    torch.testing.assert_close(loss(scores, labels, loss.normaliser(labels)), expected)
    # Without model.msc there is one.
    alone = loss({"out": scores["out"]}, labels, loss.normaliser(labels))
    torch.testing.assert_close(alone, mean(scores["out"], eighth))


@pytest.mark.parametrize("kind", [SubsampledCrossEntropy, MultiScaleCrossEntropy])
def test_a_void_batch_is_zero_with_zero_gradients(kind: type[SubsampledCrossEntropy]) -> None:
    scores, labels = batch()
    labels[:] = 255
    loss = kind(255)
    value = loss(scores, labels, loss.normaliser(labels))
    value.backward()
    assert value.item() == 0
    assert all(s.grad is None or not s.grad.any() for s in scores.values())
    assert scores["out"].grad is not None


@pytest.mark.parametrize("kind", [SubsampledCrossEntropy, MultiScaleCrossEntropy])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_add_up_to_the_whole_batch(kind: type[SubsampledCrossEntropy], parts: int) -> None:
    scores, labels = batch()
    loss = kind(255)
    normaliser = loss.normaliser(labels)
    whole = loss(scores, labels, normaliser)
    whole.backward()
    total = torch.zeros(())
    gradients = {name: torch.zeros_like(score) for name, score in scores.items()}
    for part in torch.arange(4).chunk(parts):
        some = {name: s.detach()[part].requires_grad_() for name, s in scores.items()}
        value = loss(some, labels[part], normaliser)
        value.backward()
        total += value.detach()
        for name, score in some.items():
            if score.grad is not None:
                gradients[name][part] = score.grad
    torch.testing.assert_close(total, whole.detach())
    for name, score in scores.items():
        if score.grad is not None:
            torch.testing.assert_close(gradients[name], score.grad)


def test_half_precision_scores_give_a_finite_fp32_loss() -> None:
    scores = torch.full((1, 2, 9, 9), 60_000.0, dtype=torch.bfloat16)
    scores[:, 1] = -60_000.0
    labels = torch.ones(1, 65, 65, dtype=torch.uint8)
    loss = SubsampledCrossEntropy(255)
    value = loss({"out": scores}, labels, loss.normaliser(labels))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(120_000, rel=0.01)


def test_a_shrink_below_one() -> None:
    with pytest.raises(ConfigError, match=r"loss\.shrink"):
        SubsampledCrossEntropy(255, shrink=0)
