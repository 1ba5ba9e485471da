"""torchvision's whole VGG-16 through ``pretrained=/path``: what every v1 and v2 takes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from segkit.config import compose
from segkit.data.labels import VOC
from segkit.models.fully_connected import FullyConnected
from segkit.models.heads.v1 import DeepLabV1
from segkit.models.segmenter import Segmenter
from segkit.start import begin, fresh_network

CONVOLUTIONS = 26  # 13 weights, 13 biases


def test_how_fc6_and_fc7_start_without_a_file():
    """From He's start v1 diverged at its own rate (docs/log.md)."""
    torch.manual_seed(0)
    fc = FullyConnected(512, 21, kernel=3, rate=12, channels=256, dropout=0.5)
    for conv in (fc.fc6, fc.fc7, fc.fc8):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.03)
        assert abs(conv.weight.mean().item()) < 1e-3
        assert not conv.bias.any()


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """A file in torchvision's format with random weights, half a gigabyte, and what it holds."""
    torch.manual_seed(0)
    state = torchvision.models.vgg16(weights=None, init_weights=False).state_dict()
    path = tmp_path_factory.mktemp("vgg") / "vgg16-random.pth"
    torch.save(state, path)
    yield path, state
    path.unlink()


def branches(net: Segmenter) -> list[FullyConnected]:
    return [net.head.fc] if isinstance(net.head, DeepLabV1) else list(net.head.branches)


# The taps that stay of seven, and every how many filters one stays (v1 §3.2, v2 §4.1.1).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "taps", "every", "count"),
    [
        ("v1_7x7", [0, 1, 2, 3, 4, 5, 6], 1, 1),
        ("v1_4x4", [0, 2, 4, 6], 1, 1),
        ("v1", [0, 3, 6], 4, 1),
        ("v2_vgg", [0, 3, 6], 4, 4),
        ("v2_largefov", [0, 3, 6], 4, 1),
    ],
)
def test_what_is_taken_of_it_and_said(name, taps, every, count, vgg16, tmp_path, capsys):
    path, theirs = vgg16
    composed = compose("train", [f"model={name}", f"pretrained={path}"])
    net = fresh_network(composed.values, 21, composed.values["os"])
    fc8 = [fc.fc8.weight.clone() for fc in branches(net)]
    origin = begin(tmp_path, net, composed, VOC)
    loaded = CONVOLUTIONS + 4 * count
    assert (origin["kind"], origin["file"]) == ("file", path.name)
    assert (origin["keys_loaded"], origin["not_loaded"]) == (loaded, [])
    said = f"weights: {loaded} tensors of vgg16-random.pth (sha256 {origin['sha256'][:16]}...)\n"
    assert capsys.readouterr().out == said
    for key, tensor in net.backbone.layers.state_dict().items():
        assert torch.equal(tensor, theirs[f"features.{key}"]), key
    fc6 = theirs["classifier.0.weight"].view(4096, 512, 7, 7)[::every][:, :, taps][..., taps]
    fc7 = theirs["classifier.3.weight"][::every, ::every, None, None]
    assert len(branches(net)) == count
    for fc, start in zip(branches(net), fc8, strict=True):
        assert torch.equal(fc.fc6.weight, fc6)
        assert torch.equal(fc.fc6.bias, theirs["classifier.0.bias"][::every])
        assert torch.equal(fc.fc7.weight, fc7)
        assert torch.equal(fc.fc7.bias, theirs["classifier.3.bias"][::every])
        assert torch.equal(fc.fc8.weight, start), "the 1000 classes of ImageNet are left out"
