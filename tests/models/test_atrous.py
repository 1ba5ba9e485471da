"""The one function that knows strides and rates."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import ConfigError
from segkit.models.atrous import Unit, plan_units, scale_rates


def plan(blocks, output_stride, *, stem=4, grid=None, accepts=True):
    return plan_units(
        blocks,
        output_stride=output_stride,
        stem_stride=stem,
        multi_grid=grid,
        accepts_multi_grid=accepts,
        network="net",
    )


# v3's blocks 1 to 7 with the stride at the end of each but the last (§3.2): rates of §3.4's table.
CASCADE = [[1, 1, 2], [1, 1, 2], [1, 1, 2], [1, 1, 2], [1, 1, 2], [1, 1, 2], [1, 1, 1]]


@pytest.mark.parametrize(
    ("output_stride", "rates"),
    [
        (8, [1, 1, 2, 4, 8, 16, 32]),
        (16, [1, 1, 1, 2, 4, 8, 16]),
        (32, [1, 1, 1, 1, 2, 4, 8]),
        (64, [1, 1, 1, 1, 1, 2, 4]),
        (128, [1, 1, 1, 1, 1, 1, 2]),
        (256, [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_rates_of_the_cascade(output_stride, rates):
    units = plan(CASCADE, output_stride)
    assert [[unit.rate for unit in block] for block in units] == [[rate] * 3 for rate in rates]


def test_multi_grid_multiplies_the_last_block_alone():
    units = plan([[1, 1], [2, 1, 1]], 4, grid=(1, 2, 4))
    assert units == [
        [Unit(1, 1, 1), Unit(1, 1, 1)],
        [Unit(1, 1, 2), Unit(1, 4, 4), Unit(1, 8, 8)],
    ]


@given(
    st.lists(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4), min_size=1, max_size=5),
    st.data(),
)
def test_stride_times_rate_is_kept(blocks, data):
    """What a tap reaches over in the image must not depend on the output stride."""
    total = 4 * prod(stride for block in blocks for stride in block)
    output_stride = data.draw(st.sampled_from([2**k for k in range(2, total.bit_length())]))
    units = plan(blocks, output_stride)
    taken = natural = 4
    strides = [s for block in blocks for s in block]
    for stride, unit in zip(strides, [u for block in units for u in block], strict=True):
        assert taken * unit.rate == natural
        taken, natural = taken * unit.stride, natural * stride
        assert taken * unit.rate_after == natural
    assert taken == output_stride


@pytest.mark.parametrize("output_stride", [0, -8, 1, 2, 7, 12, 24, 64, 512])
def test_output_strides_it_cannot_have(output_stride):
    with pytest.raises(ConfigError) as fault:
        plan([[1, 1], [2, 1], [2, 1], [2, 1]], output_stride)
    assert fault.value.id == "CFG-OUTPUT-STRIDE"
    assert fault.value.where == "os"
    assert fault.value.fix == "one of 4, 8, 16, 32"


@pytest.mark.parametrize(
    "grid", [(), (1,), (1, 2), (1, 2, 4, 8), (1, 2, 0), (1, -2, 4), (1, 2, 0.5)]
)
def test_multi_grids_that_do_not_fit(grid):
    with pytest.raises(ConfigError) as fault:
        plan([[1], [2, 1, 1]], 8, grid=grid)
    assert (fault.value.id, fault.value.where) == ("CFG-MULTI-GRID", "multi_grid")
    assert "3 whole numbers" in fault.value.fix


def test_multi_grid_where_there_is_none():
    with pytest.raises(ConfigError, match="multi_grid=none") as fault:
        plan([[1, 1, 1]], 4, grid=(1, 2, 4), accepts=False)
    assert fault.value.id == "CFG-MULTI-GRID"


@pytest.mark.parametrize(
    ("rates", "written_for", "output_stride", "expected"),
    [
        ([6, 12, 18], 16, 16, (6, 12, 18)),
        ([6, 12, 18], 16, 8, (12, 24, 36)),
        ([6, 12, 18], 16, 32, (3, 6, 9)),
        ([6, 12, 18, 24], 8, 16, (3, 6, 9, 12)),
        ([], 16, 8, ()),
    ],
)
def test_head_rates_scale(rates, written_for, output_stride, expected):
    scaled = scale_rates(rates, written_for=written_for, output_stride=output_stride, where="x")
    assert scaled == expected
    assert all(type(rate) is int for rate in scaled)


@pytest.mark.parametrize(
    ("rates", "output_stride"), [([6, 5], 32), ([1], 32), ([0], 16), ([-6], 16), ([6], 128)]
)
def test_head_rates_that_cannot_scale(rates, output_stride):
    with pytest.raises(ConfigError) as fault:
        scale_rates(rates, written_for=16, output_stride=output_stride, where="model.rates")
    assert (fault.value.id, fault.value.where) == ("CFG-RATES", "model.rates")
