"""What v3's tables vary: rates, branches, image pooling, batch norm, the labels of the loss."""

from functools import partial

import pytest
import torch
from network_zoo import BACKBONES
from torch import nn

from segkit.config import compose
from segkit.models.aspp import ASPP, ConvNormReLU, ImagePooling
from segkit.models.contracts import Feature
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter
from segkit.parts import check_network, loss_of
from segkit.rules import check

FEATURES = {"out": Feature(64, 16)}


def head(**arguments: object) -> DeepLabV3:
    return DeepLabV3(FEATURES, 5, output_stride=16, channels=8, **arguments)


# Table 5's rows, and the published MobileNetV2's no rates at all.
@pytest.mark.parametrize("rates", [(), (6, 12, 18), (6, 12, 18, 24), (1,), (2, 3, 5, 7, 11)])
@pytest.mark.parametrize("image_pooling", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_free_rates_and_branches(
    rates: tuple[int, ...], image_pooling: bool, batch_norm: bool
) -> None:
    v3 = head(rates=rates, image_pooling=image_pooling, batch_norm=batch_norm)
    branches = list(v3.aspp.branches)
    assert isinstance(branches[0], ImagePooling) == image_pooling
    assert [b[0].dilation[0] for b in branches[image_pooling + 1 :]] == list(rates)
    norms = [m for m in v3.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (len(branches) + 1) * batch_norm
    convs = [m for m in v3.aspp.modules() if isinstance(m, nn.Conv2d)]
    assert all((conv.bias is None) == batch_norm for conv in convs)
    scores = v3({"out": torch.randn(2, 64, 9, 7)})["out"]
    assert scores.shape == (2, 5, 9, 7)
    scores.square().sum().backward()
    assert all(p.grad is not None for p in v3.parameters())


def test_without_batch_norm_one_image_can_train() -> None:
    def made(**arguments: object) -> int:
        return build_segmenter(
            BACKBONES["r_tiny"],
            partial(DeepLabV3, channels=8, **arguments),
            num_classes=3,
            output_stride=16,
        ).min_train_batch

    assert (made(), made(batch_norm=False), made(image_pooling=False)) == (2, 1, 1)
    v3 = head(batch_norm=False).train()
    assert v3({"out": torch.randn(1, 64, 5, 5)})["out"].isfinite().all()


def test_biases_without_batch_norm_start_at_zero() -> None:
    aspp = ASPP(8, 4, (1, 2), image_pooling=True, batch_norm=False)
    assert not any(part[0].bias.any() for part in aspp.modules() if isinstance(part, ConvNormReLU))


def test_pooling_last_permutes_the_projection_alone() -> None:
    torch.manual_seed(0)
    ours = ASPP(8, 4, (1, 2), image_pooling=True).eval()
    theirs = ASPP(8, 4, (1, 2), image_pooling=True, pooling_last=True).eval()
    for index, branch in enumerate(ours.branches):
        theirs.branches[index - 1].load_state_dict(branch.state_dict())
    theirs.project.load_state_dict(ours.project.state_dict())
    theirs.project[0].weight.data = ours.project[0].weight.data.roll(-4, dims=1)
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(theirs(x), ours(x))


@pytest.mark.parametrize("output_stride", [16, 8])
def test_subsampled_labels_meet_the_scores_as_they_are(output_stride: int) -> None:
    """Table 8, third row: no score is resized, every position of the score map has one label."""
    values = compose(
        "train",
        ["loss=labels16", f"os={output_stride}", f"loss.shrink={output_stride}"],
    ).values
    check(values)
    loss = loss_of(values, labels=type("Labels", (), {"ignore_label": 255, "num_classes": 5}))
    side = 64 // output_stride + 1
    labels = torch.randint(0, 5, (2, 65, 65), dtype=torch.uint8)
    labels[0, ::output_stride, 0] = 255
    scores = torch.randn(2, 5, side, side)
    found = loss({"out": scores}, labels, loss.normaliser(labels))
    expected = nn.functional.cross_entropy(
        scores, labels[:, ::output_stride, ::output_stride].long(), ignore_index=255
    )
    torch.testing.assert_close(found, expected)


def test_the_released_mobilenetv2() -> None:
    values = compose("train", ["model=v3_mnv2"]).values
    check(values)
    check_network(values)
    assert (values["backbone"]["name"], values["model"]["rates"]) == ("mnv2", [])
    assert values["schedule"]["weight_decay"] == 4e-5
    assert values["schedule"]["bn_momentum"] == pytest.approx(1 - 0.997)
