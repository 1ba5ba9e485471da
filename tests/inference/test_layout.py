"""Channels last through a whole evaluation: no map is turned inside the network."""

import pytest
import torch

import segkit
from segkit.data.normalise import Normalise
from segkit.inference.predictor import Predictor
from segkit.models.folding import folded
from segkit.models.watching import Watching, tensors_in

aten = torch.ops.aten


class Layouts(Watching):
    """Counts convolutions and what they read or give that has not its channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0
        self.turned: list[tuple[str, tuple[int, ...]]] = []

    def ran(self, func, args, kwargs):
        result = func(*args, **kwargs)
        convolves = func in (aten.conv2d.default, aten.convolution.default)
        if convolves or func is aten.cat.default:
            self.convolutions += convolves
            maps = [*tensors_in(args[:1]), result]
            self.turned += [
                (str(func), tuple(part.shape))
                for part in maps
                if not part.is_contiguous(memory_format=torch.channels_last)
            ]
        return result


@pytest.mark.parametrize("words", ["v2 r_tiny", "v3 r_tiny", "v3plus mnv2", "v3plus r50_beta"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_nothing_is_turned(words, kind) -> None:
    model, backbone = words.split()
    net = segkit.build(model, backbone, os=8, num_classes=5).to(memory_format=torch.channels_last)
    predictor = Predictor(
        folded(net.eval()),
        output_stride=8,
        scales=(0.5, 1.0),
        flip=True,
        pad="fit",
        normalise=Normalise(net.pixels.mean, net.pixels.std),
    )
    images = [torch.zeros(3, 40, 60, dtype=kind) for _ in range(2)]
    with Layouts() as seen:
        predictor.labels(images)
    assert seen.convolutions > 40
    assert not seen.turned
