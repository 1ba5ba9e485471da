"""Hard-pixel mining, and class weights as a choice."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segkit.config import compose
from segkit.errors import ConfigError
from segkit.losses import CrossEntropy, HardPixelCrossEntropy
from segkit.parts import check_network, loss_of

CLASSES = 4


def batch(size: int = 9) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(3)
    labels = torch.randint(0, CLASSES, (4, size, size)).to(torch.uint8)
    labels[0, :3] = 255
    labels[2] = 255  # a whole image without a label
    scores = {name: torch.randn(4, CLASSES, 5, 5, requires_grad=True) for name in ("out", "aux")}
    return scores, labels


def value(loss: CrossEntropy, scores: dict[str, Tensor], labels: Tensor) -> Tensor:
    return loss(scores, labels, loss.normaliser(labels))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.77, 1.0])
def test_it_is_the_mean_of_each_images_hardest_pixels(fraction: float) -> None:
    scores, labels = batch()
    full = functional.interpolate(scores["out"], (9, 9), mode="bilinear", align_corners=True)
    total, counted = 0.0, 0.0
    for image, truth in zip(full, labels.long(), strict=True):
        losses = functional.cross_entropy(
            image[None], truth[None], reduction="none", ignore_index=255
        )
        hardest = losses[truth[None] != 255].sort(descending=True).values
        wanted = fraction * len(hardest)
        whole = int(wanted)
        total += hardest[:whole].sum()
        if wanted > whole:
            total += (wanted - whole) * hardest[whole]
        counted += wanted
    found = value(HardPixelCrossEntropy(255, fraction), scores, labels)
    torch.testing.assert_close(found, total / counted)


def test_all_pixels_are_plain_cross_entropy() -> None:
    scores, labels = batch()
    found, expected = (
        value(loss, scores, labels)
        for loss in (
            HardPixelCrossEntropy(255, fraction=1.0, aux_weight=0.4),
            CrossEntropy(255, aux_weight=0.4),
        )
    )
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, list(scores.values())),
        torch.autograd.grad(expected, list(scores.values())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_easy_pixels_have_no_gradient_and_hard_ones_have() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    scores = torch.zeros(1, 2, 4, 4)
    scores[0, 0] = torch.arange(16.0).reshape(4, 4)  # the first four are the hardest
    scores.requires_grad_()
    value(HardPixelCrossEntropy(255, fraction=0.25), {"out": scores}, labels).backward()
    assert scores.grad is not None
    assert (scores.grad[0, 0].flatten() != 0).tolist() == [True] * 4 + [False] * 12


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_add_up_to_the_whole_batch(parts: int) -> None:
    """Images are ranked by themselves: accumulating or sharing a batch changes nothing."""
    loss = HardPixelCrossEntropy(255, 0.3, aux_weight=0.4)
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


def test_a_void_batch_is_zero_with_zero_gradients() -> None:
    scores, labels = batch()
    labels[:] = 255
    loss = value(HardPixelCrossEntropy(255, 0.25, aux_weight=0.4), scores, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert all(score.grad.abs().max() == 0 for score in scores.values())


def test_void_pixels_are_never_among_the_hardest() -> None:
    """With more than the fraction of an image void, the rest still counts by its own number."""
    labels = torch.full((1, 10, 10), 255)
    labels[0, 0, :4] = 1
    scores = torch.randn(1, 3, 10, 10)
    loss = HardPixelCrossEntropy(255, 0.5)
    assert loss.normaliser(labels)["pixels"] == 2
    each = functional.cross_entropy(scores, labels, reduction="none", ignore_index=255)
    expected = each[0, 0, :4].sort(descending=True).values[:2].mean()
    torch.testing.assert_close(value(loss, {"out": scores}, labels), expected)


def test_half_precision_scores_and_wide_labels() -> None:
    labels = torch.tensor([[[65535, 1]]], dtype=torch.int32)
    scores = torch.full((1, 300, 1, 2), 60_000.0, dtype=torch.bfloat16)
    found = value(HardPixelCrossEntropy(65535, 0.5), {"out": scores}, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(300.0).log())


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_is_above_0_and_at_most_1(fraction: float) -> None:
    with pytest.raises(ConfigError) as fault:
        HardPixelCrossEntropy(255, fraction)
    assert fault.value.where == "loss.fraction"


def test_class_weights_are_the_users() -> None:
    """Nobody's data set has weights of its own: the choice alone is refused, with an example."""
    with pytest.raises(ConfigError, match="for each class") as fault:
        check_network(compose("train", ["loss=class_weighted"]).values)
    assert fault.value.where == "loss.class_weights"


@pytest.mark.parametrize("given", ["[1,2]", "[0.5,-1]", "[1,2,3,4,5]"])
def test_class_weights_fit_the_classes(given: str) -> None:
    values = compose("train", ["loss=class_weighted", f"loss.class_weights={given}"]).values
    labels = type("Labels", (), {"ignore_label": 255, "num_classes": 3})
    with pytest.raises(ConfigError) as fault:
        loss_of(values, labels)
    assert fault.value.where == "loss.class_weights"


def test_whole_numbers_are_weights_too() -> None:
    scores, labels = batch()
    found, expected = (
        value(CrossEntropy(255, weights), scores, labels)
        for weights in ([1, 2, 0, 3], [1.0, 2.0, 0.0, 3.0])
    )
    torch.testing.assert_close(found, expected)
