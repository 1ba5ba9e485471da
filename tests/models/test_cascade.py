"""v3's cascade: the rate table, strides without the network that has them, copies of block4."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from network_zoo import BACKBONES, BOTTLENECKS, random_norms
from torch import Tensor, nn

from segkit.config import compose
from segkit.errors import ConfigError
from segkit.models.backbones.resnet import Bottleneck
from segkit.models.contracts import Feature
from segkit.models.heads.cascade import Cascade, block_plan
from segkit.models.segmenter import Segmenter, build_segmenter
from segkit.parts import check_network
from segkit.rules import check

# Facts §3.4: the rates of block4 to block7.
TABLE = {
    4: [8, 16, 32, 64],
    8: [4, 8, 16, 32],
    16: [2, 4, 8, 16],
    32: [1, 2, 4, 8],
    64: [1, 1, 2, 4],
    128: [1, 1, 1, 2],
    256: [1, 1, 1, 1],
}
GRIDS = [None, (1, 2, 1), (1, 2, 3), (1, 2, 4), (2, 2, 2)]


def cascade(name: str, output_stride: int, grid: object = "auto", **head: object) -> Segmenter:
    with torch.device("meta"):
        return build_segmenter(
            BACKBONES[name],
            partial(Cascade, **head),
            num_classes=21,
            output_stride=output_stride,
            multi_grid=grid,
        )


def three_by_threes(part: nn.Module) -> list[nn.Conv2d]:
    return [m for m in part.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("output_stride", TABLE)
def test_rates_of_every_unit(output_stride: int, grid: tuple[int, ...] | None) -> None:
    """Block rate × unit rate, in block4 and every added block (v3 §3.2.1)."""
    planned = block_plan(7, output_stride, grid)
    expected = [[rate * n for n in grid or (1, 1, 1)] for rate in TABLE[output_stride]]
    assert [[unit.rate for unit in block] for block in planned] == expected
    added = cascade("r50", output_stride, grid).head.blocks
    assert [[c.dilation[0] for c in three_by_threes(b)] for b in added] == expected[1:]
    assert all(c.padding == c.dilation for c in three_by_threes(added))


@pytest.mark.parametrize("output_stride", [8, 16, 32, 64, 256])
@pytest.mark.parametrize("name", ["r50_beta", "r50_caffe", "r50"])
def test_the_backbones_block4_has_the_same_rates(name: str, output_stride: int) -> None:
    """In torchvision's style all but its first unit, which keeps block3's rate (facts §8)."""
    found = [
        c.dilation[0]
        for c in three_by_threes(cascade(name, output_stride, (1, 2, 4)).backbone.layer4)
    ]
    expected = [unit.rate for unit in block_plan(7, output_stride, (1, 2, 4))[0]]
    start = 1 if name == "r50" else 0
    assert found[start:] == expected[start:]


@pytest.mark.parametrize("output_stride", TABLE)
def test_strides_are_taken_until_the_output_stride(output_stride: int) -> None:
    net = cascade("r50_beta", output_stride)
    strides = [c.stride[0] for c in three_by_threes(net.head.blocks)]
    taken = net.backbone.features["out"].stride * net.head.first_stride
    for index, stride in enumerate(strides):
        assert stride == 1 or (index % 3 == 2 and index < 6)  # block ends, but not block7's
        taken *= stride
    assert taken == output_stride
    out = net.scores(torch.empty(1, 3, 513, 513, device="meta"))["out"]
    assert out.shape == (1, 21, *[512 // output_stride + 1] * 2)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_parameters(name: str) -> None:
    """13.388M for every added block (facts §3.4), the same at every output stride."""
    counts = [
        sum(p.numel() for p in cascade(name, 16, blocks=n).parameters()) for n in (4, 5, 6, 7)
    ]
    assert [after - before for before, after in pairwise(counts)] == [13_387_776] * 3
    keys = [
        {k: v.shape for k, v in cascade(name, stride).state_dict().items()} for stride in (8, 256)
    ]
    assert keys[0] == keys[1]
    assert not [k for k in keys[0] if k.startswith("head.") and "downsample" in k]


def test_added_units_are_block4s() -> None:
    net = cascade("r101", 16)
    units = [u for block in net.head.blocks for u in block]
    assert len(units) == 9
    assert all(isinstance(unit, Bottleneck) for unit in units)
    last = {k: v.shape for k, v in net.backbone.layer4[-1].state_dict().items()}
    assert all({k: v.shape for k, v in unit.state_dict().items()} == last for unit in units)
    assert net.multi_grid == (1, 2, 1)


def narrow(output_stride: int, weights: dict[str, Tensor] | None = None) -> Cascade:
    """A cascade of 8 channels on a map that stands for block4's at 8, or at 32 above that."""
    torch.manual_seed(0)
    features = {"out": Feature(8, min(output_stride, 32))}
    head = Cascade(features, 3, output_stride=output_stride, multi_grid=(1, 2, 1))
    random_norms(head)
    if weights:
        head.load_state_dict(weights, strict=True)
    return head.double().eval()


@pytest.mark.parametrize("output_stride", [64, 128, 256])
def test_strided_positions_hold_the_atrous_values(output_stride: int) -> None:
    """The rule of every DeepLab: the atrous network computes the strided one, only more densely.

    Block4's own stride included, which the head takes for the backbone.
    """
    dense = narrow(32)
    coarse = narrow(output_stride, dense.state_dict())
    x = {"out": torch.randn(2, 8, 17, 25, dtype=torch.double)}
    step = output_stride // 32
    torch.testing.assert_close(coarse(x)["out"], dense(x)["out"][:, :, ::step, ::step])


def test_block4s_stride_can_be_taken_behind_it() -> None:
    """Striding the last 3×3 of a unit is to leave out positions of the unit's output."""
    dense, coarse = (
        Bottleneck(8, 2, block_plan(7, os, None)[0][-1], "beta").eval() for os in (32, 64)
    )
    assert coarse.conv2.stride == (2, 2)
    random_norms(dense)
    coarse.load_state_dict(dense.state_dict())
    x = torch.randn(2, 8, 9, 13)
    torch.testing.assert_close(coarse(x), dense(x)[:, :, ::2, ::2])


def test_gradients_reach_every_parameter() -> None:
    head = narrow(256).train()
    x = torch.randn(2, 8, 17, 17, dtype=torch.double)
    head({"out": x})["out"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize(
    ("typed", "where", "said"),
    [
        (["model.blocks=3"], "model.blocks", "4 to 7"),
        (["model.blocks=8"], "model.blocks", "4 to 7"),
        (["model.blocks=4", "os=64"], "os", "one of 4, 8, 16, 32"),
        (["model.blocks=6", "os=256"], "os", "one of 4, 8, 16, 32, 64, 128"),
        (["backbone=r18"], "backbone", "r50"),
        (["backbone=mnv2"], "backbone", "r50"),
        (["backbone=x65"], "backbone", "r50"),
        (["backbone=r_tiny", "multi_grid=1-2-1"], "multi_grid", "r50"),
    ],
)
def test_what_cannot_be_fails_at_composition(typed: list[str], where: str, said: str) -> None:
    values = compose("train", ["model=v3_cascade", *typed]).values
    check(values)
    with pytest.raises(ConfigError) as fault:
        check_network(values)
    assert fault.value.where == where
    assert said in fault.value.line()


@pytest.mark.parametrize("output_stride", [8, 16, 32, 64, 128, 256])
def test_the_papers_rows_compose(output_stride: int) -> None:
    """Table 1: R50 + block7 at every output stride."""
    values = compose("train", ["model=v3_cascade", "backbone=r50", f"os={output_stride}"]).values
    check(values)
    check_network(values)
    assert values["schedule"]["stages"][0]["os"] is None
    assert values["os"] == output_stride
