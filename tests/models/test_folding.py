"""A folded network against the network: the same scores, and nothing folded that must not be."""

import pytest
import torch
from network_zoo import random_norms
from torch import nn
from torch.nn import functional as F

import segkit
from segkit.models.folding import CannotFold, foldable, folded

# Each head on one network, each family of networks under one head.
NETWORKS = {
    "v1 vgg16": 0,
    "v2 r_tiny": 0,
    "v2 mnv2": 0,
    "v3 r_tiny": 0,
    "v3 r50": 0,
    "v3 mnv2_tf": 0,
    "v3_mnv2 mnv2": 0,
    "v3_cascade r50_beta": 0,
    "v3_mmseg r18": 0,
    "v3_torchvision r50": 1,  # the auxiliary head, which nobody asks in eval mode
    "v3plus r_tiny": 0,
    "v3plus mnv2": 0,
    "v3plus x41": 0,
    "v3plus_smp r50": 0,
    "v3plus_vainf mnv2_vainf": 0,
}


def network(words, *overrides, stride=8):
    torch.manual_seed(0)
    model, backbone = words.split()
    net = segkit.build(model, backbone, os=stride, num_classes=5, overrides=overrides)
    random_norms(net)
    return net.to(memory_format=torch.channels_last).eval()


def norms(net):
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())


@torch.inference_mode()
def assert_same_scores(net, other, size=(65, 49), at_most=1e-4, device="cpu"):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).to(device)
    want, got = net.scores(images)["out"], other.scores(images)["out"]
    near = at_most * float(want.abs().max())
    assert float((got - want).abs().max()) <= near
    high, low = want.topk(2, dim=1).values.unbind(1)
    assert ((got.argmax(1) == want.argmax(1)) | (high - low <= 2 * near)).all()


@pytest.mark.parametrize("words", NETWORKS)
def test_the_scores_are_the_same(words) -> None:
    net = network(words)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    other = folded(net)
    assert norms(other) == NETWORKS[words]
    assert_same_scores(net, other)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "regnetx_002"])
def test_networks_of_timm(name) -> None:
    pytest.importorskip("timm")
    net = network("v3 timm", f"backbone.network={name}", stride=16)
    other = folded(net)
    assert norms(net) > norms(other) == 0  # of timm's own norms the activation is left
    assert_same_scores(net, other)


def test_scores_at_several_input_scales() -> None:
    net = network("v2 r_tiny", "model.msc=true")
    assert norms(folded(net)) == 0
    assert_same_scores(net, folded(net))


@pytest.mark.parametrize("mode", ["frozen", "frozen_stats"])
def test_frozen_batch_norms(mode) -> None:
    net = network("v3 r_tiny")
    net.set_batch_norm(mode)
    net.train()
    other = folded(net)
    assert norms(other) == 0
    assert net.head.training, "the network is left in its mode"
    assert_same_scores(net.eval(), other)


def test_synchronised_batch_norms() -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(network("v3 r_tiny"))
    assert norms(folded(net)) == 0
    assert_same_scores(net, folded(net))


def test_in_inference_mode() -> None:
    net = network("v3 r_tiny")
    with torch.inference_mode():
        assert norms(folded(net)) == 0


def test_what_is_not_folded_is_shared() -> None:
    net = network("v3plus r_tiny")
    other, pairs = folded(net), foldable(net)
    own = {id(part) for part in (*net.parameters(), *net.buffers())}
    for name, part in other.named_parameters():
        assert (id(part) not in own) == (name.rpartition(".")[0] in pairs), name


def test_a_network_without_batch_norm_is_itself() -> None:
    net = network("v1 vgg16")
    assert folded(net) is net


class Toy(nn.Module):
    """``how`` says in which way the norm must not be folded, or may be."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=how == "bias")
        self.norm = nn.BatchNorm2d(4, affine=how != "no affine", track_running_stats=how != "batch")
        self.second = nn.BatchNorm2d(4)
        if how == "hook":
            self.norm.register_forward_hook(lambda _, __, found: found.abs())
        random_norms(self) if how not in ("no affine", "batch") else None
        if how == "no affine":
            self.norm.running_mean += 1

    def scores(self, x):
        y = self.conv(x)
        if self.how == "transposed view":
            return {"out": self.norm(y.transpose(2, 3)).transpose(2, 3)}
        if self.how == "read twice":
            return {"out": self.norm(y) + y}
        if self.how == "returned":
            return {"out": self.norm(y), "raw": y}
        if self.how == "two norms":
            return {"out": self.norm(y) + self.second(self.conv(x + 1))}
        if self.how == "two inputs":
            return {"out": self.norm(y) + self.norm(y.relu())}
        if self.how == "after relu":
            return {"out": self.norm(y.relu())}
        if self.how == "weight read":
            return {"out": self.norm(y) + self.conv.weight.sum()}
        if self.how == "statistics read":
            return {"out": self.norm(y) + self.norm.running_mean.sum()}
        if self.how == "scaled weight":
            return {"out": self.norm(F.conv2d(x, self.conv.weight * 2, padding=1))}
        if self.how == "shared":
            return {"out": self.norm(y) + self.norm(self.conv(x * 2))}
        return {"out": self.norm(y).relu_()}


@pytest.mark.parametrize("how", ["plain", "bias", "no affine", "shared"])
def test_a_norm_that_folds(how) -> None:
    net = Toy(how).eval()
    assert foldable(net) == {"conv": "norm"}
    assert_same_scores(net, folded(net))


@pytest.mark.parametrize(
    "how",
    [
        *("read twice", "returned", "two norms", "two inputs", "after relu", "weight read"),
        *("statistics read", "scaled weight", "batch", "hook", "transposed view"),
    ],
)
def test_a_norm_that_must_stay(how) -> None:
    net = Toy(how).eval()
    assert folded(net) is net


class Unasked(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


def test_what_cannot_be_folded_says_so() -> None:
    net = Toy("plain")
    net.lock = iter(())  # cannot be copied
    net.scores = None
    with pytest.raises(CannotFold, match="TypeError"):
        folded(net)
    net = Toy("plain")
    net.conv = Unasked(3, 4, 3, bias=False)
    with pytest.raises(CannotFold, match="conv would make no use of a bias"):
        folded(net)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("words", ["v3 r50", "v3plus mnv2", "v3plus x41"])
def test_on_a_gpu(words, precision, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    net = network(words).cuda()
    other = folded(net)
    assert norms(other) == 0
    if precision == "fp32":
        assert_same_scores(net, other, device="cuda")
        return
    images = torch.randn(2, 3, 65, 65, device="cuda")
    with torch.inference_mode():
        exact = net.scores(images)["out"]
        with torch.autocast("cuda", torch.bfloat16):
            plain, quick = (some.scores(images)["out"].float() for some in (net, other))
    # It rounds once less for every norm.
    assert (quick - exact).norm() <= 1.25 * (plain - exact).norm()
