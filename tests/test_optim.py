"""Parameter rules: each parameter in exactly one group, or an error that names it."""

from collections import Counter

import pytest
import torch
from torch import nn

from segkit.errors import ConfigError
from segkit.optim import V3_RULES, Rule, assign, parameter_kind, set_learning_rate, sgd


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.grey = nn.Conv2d(1, 4, 3, bias=False)  # one group of one channel is no depthwise
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, bias=False)
        self.batch, self.group = nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.layer, self.instance = nn.LayerNorm(8), nn.InstanceNorm2d(8, affine=True)
        self.sync = nn.SyncBatchNorm(8)
        self.classifier = nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.ones(1))
        self.again = self.stem  # shared: counts once


KINDS = {
    "scale": "weight",
    "stem.weight": "weight",
    "stem.bias": "bias",
    "grey.weight": "weight",
    "depthwise.weight": "depthwise",
    "depthwise.bias": "bias",
    "grouped.weight": "weight",
    "batch.weight": "norm",
    "batch.bias": "norm",
    "group.weight": "norm",
    "group.bias": "norm",
    "layer.weight": "norm",
    "layer.bias": "norm",
    "instance.weight": "norm",
    "instance.bias": "norm",
    "sync.weight": "norm",
    "sync.bias": "norm",
    "classifier.weight": "weight",
    "classifier.bias": "bias",
}
MULTIPLIERS = {  # of v3: learning rate, decay
    "weight": (1.0, 1.0), "bias": (2.0, 0.0), "norm": (1.0, 0.0), "depthwise": (1.0, 0.0)
}  # fmt: skip


def test_the_kind_goes_by_the_module() -> None:
    assert parameter_kind(Net()) == KINDS


def settings_by_name(net: nn.Module, optimizer: torch.optim.SGD) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_rules_of_v3() -> None:
    net = Net()
    optimizer = sgd(net, V3_RULES, lr=0.5, weight_decay=1e-4)
    expected = {
        name: (0.5 * MULTIPLIERS[kind][0], 1e-4 * MULTIPLIERS[kind][1])
        for name, kind in KINDS.items()
    }
    assert settings_by_name(net, optimizer) == expected
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert Counter(everything) == Counter(id(p) for p in net.parameters())


def test_the_rules_of_v2_and_the_order_of_rules() -> None:
    rules = [
        Rule("classifier.*", "weight", lr=10),
        Rule("classifier.*", "bias", lr=20, decay=0),
        Rule(kind="bias", lr=2, decay=0),
        Rule(),
    ]
    ruled = assign(Net(), rules)
    assert ruled["classifier.weight"].lr == 10
    assert ruled["classifier.bias"].lr == 20
    assert ruled["stem.bias"].lr == 2
    assert ruled["stem.weight"].lr == ruled["batch.bias"].lr == 1


def test_the_rate_keeps_its_multipliers() -> None:
    net = Net()
    optimizer = sgd(net, V3_RULES, lr=1.0, weight_decay=0.0)
    for base in (0.3, 0.007, 0.0):
        set_learning_rate(optimizer, base)
        rates = {name: rate for name, (rate, _) in settings_by_name(net, optimizer).items()}
        assert rates == {n: base * MULTIPLIERS[kind][0] for n, kind in KINDS.items()}


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.batch.requires_grad_(False)
    left = settings_by_name(net, sgd(net, V3_RULES, lr=1.0, weight_decay=0.0))
    assert set(KINDS) - set(left) == {"batch.weight", "batch.bias"}
    # A rule for parameters that are frozen is no mistake: the next stage may train them.
    sgd(net, [Rule("batch.*"), Rule()], lr=1.0, weight_decay=0.0)
    with pytest.raises(ConfigError, match="trainable"):
        sgd(net.requires_grad_(False), V3_RULES, lr=1.0, weight_decay=0.0)


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ([], "scale (weight), stem.weight (weight), stem.bias (bias), ..."),
        ([Rule(kind="weight"), Rule(kind="norm"), Rule(kind="bias")], "depthwise.weight"),
        ([Rule("[!c]*")], "classifier.weight (weight), classifier.bias (bias)"),
    ],
)
def test_a_parameter_without_a_rule_is_named(rules: list[Rule], names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sgd(Net(), rules, lr=1.0, weight_decay=0.0)
    assert caught.value.id == "CFG-PARAM-UNRULED"
    assert names in str(caught.value)


@pytest.mark.parametrize(
    "idle", [Rule("clasifier.*"), Rule("stem.*", "norm"), Rule("Stem.*"), Rule("stem.weight.*")]
)
def test_a_rule_without_a_parameter_is_named(idle: Rule) -> None:
    with pytest.raises(ConfigError) as caught:
        sgd(Net(), [idle, Rule()], lr=1.0, weight_decay=0.0)
    assert idle.pattern in str(caught.value)


def test_a_rule_that_comes_too_late_is_named() -> None:
    with pytest.raises(ConfigError, match=r"classifier\.\*"):
        assign(Net(), [Rule(), Rule("classifier.*", lr=10)])


def test_kinds_that_a_network_lacks_are_fine() -> None:
    sgd(nn.Linear(2, 2), V3_RULES, lr=1.0, weight_decay=0.0)


@pytest.mark.gpu
def test_the_fused_update_skips_itself_on_the_device() -> None:
    net = nn.Conv2d(3, 4, 3).cuda()
    optimizer = sgd(net, V3_RULES, lr=1.0, weight_decay=0.1)
    assert optimizer.defaults["fused"]
    for halted in (0.0, 1.0):
        before = net.weight.detach().clone()
        net(torch.randn(1, 3, 9, 9, device="cuda")).sum().backward()
        optimizer.found_inf = torch.tensor(halted, device="cuda")  # type: ignore[attr-defined]
        optimizer.step()
        assert torch.equal(before, net.weight) == bool(halted)
