"""Sliding windows against a loop over windows that follows the protocol sentence by sentence."""

import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.inference.memory import Memory
from segkit.inference.predictor import Predictor
from segkit.inference.windows import Window


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 5, 5, stride=8, padding=2)
        self.calls: list[tuple[int, ...]] = []

    def scores(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls.append(tuple(x.shape))
        return {"out": 5 * self.stem(x)}


class Pointwise(nn.Module):
    """Sees single pixels: every window says the same of one, to the bit."""

    def scores(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": torch.cat([x, x[:, :1] * x[:, 1:2]], 1)}


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(height * width))


def predictor(net: nn.Module, window: Window | None, batch: int = 1, **how) -> Predictor:
    memory = Memory(torch.device("cpu"), batch)
    return Predictor(net, output_stride=8, window=window, memory=memory, **how)


@given(side=st.integers(1, 400), size=st.integers(1, 200), overlap=st.floats(0, 0.99))
def test_windows_cover_every_pixel_and_overlap_as_asked(side, size, overlap) -> None:
    """E3: coverage is 1 or more everywhere, the border included, and nothing sticks out."""
    starts = Window(size, overlap).starts(side)
    assert starts[0] == 0
    assert starts[-1] == max(0, side - size)
    assert starts == sorted(set(starts))
    for one, following in itertools.pairwise(starts):
        shared = one + size - following
        assert shared >= min(size - 1, overlap * size), "or a step of one pixel, where it is less"
        assert shared >= 0, "a gap"


def test_a_window_moves_in_to_the_border() -> None:
    assert Window(513, 0.33).starts(1024) == [0, 343, 511]
    assert Window(513, 0.33).starts(513) == [0]
    assert Window(513, 0.33).starts(100) == [0]
    assert Window(4, 0.0).starts(12) == [0, 4, 8]


def oracle(net: nn.Module, image: torch.Tensor, window: Window, **how) -> torch.Tensor:
    """Each window through a predictor of its own; a weight for each pixel of each window."""
    side, (height, width) = window.size, image.shape[1:]
    padded = F.pad(image, (0, max(0, side - width), 0, max(0, side - height)))
    total, weights = torch.zeros(5, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    once = torch.ones(side)
    if window.weighting == "linear":
        once = torch.tensor([min(i + 1, side - i) for i in range(side)]) / side
    for y in window.starts(padded.shape[1]):
        for x in window.starts(padded.shape[2]):
            found = predictor(net, None, **how)(padded[:, y : y + side, x : x + side].clone())
            weight = once[:, None] * once[None]
            total[:, y : y + side, x : x + side] += found * weight
            weights[y : y + side, x : x + side] += weight
    assert (weights > 0).all()
    return (total / weights)[:, :height, :width]


@pytest.mark.parametrize("weighting", ["uniform", "linear"])
@pytest.mark.parametrize(("size", "overlap"), [(33, 0.33), (33, 0.0), (20, 0.75)], ids=str)
@pytest.mark.parametrize(
    "shape", [(50, 70), (33, 33), (34, 90), (20, 60), (60, 20), (9, 9), (1, 1)], ids=str
)
def test_probabilities_are_those_of_the_oracle(shape, size, overlap, weighting) -> None:
    net, image, window = Strided(), picture(*shape), Window(size, overlap, weighting)
    want = oracle(net, image, window, pad="fit")
    ask = predictor(net, window, pad="fit", batch=3)
    got = ask(image)
    assert got.shape == (5, *shape)
    torch.testing.assert_close(got, want, rtol=0, atol=3e-6)
    torch.testing.assert_close(got.sum(0), torch.ones(shape), rtol=0, atol=1e-5)
    best, second = want.topk(2, 0).values
    sure = best - second > 1e-5
    assert torch.equal(ask.labels([image])[0].long()[sure], want.argmax(0)[sure])


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_a_window_has_its_own_scales_flip_and_fusion(fusion) -> None:
    net, image, window = Strided(), picture(50, 60), Window(33, 0.4, "linear")
    how = {"scales": (0.5, 1.0, 1.5), "flip": True, "fusion": fusion, "pad": "fit"}
    want = oracle(net, image, window, **how)
    torch.testing.assert_close(predictor(net, window, **how)(image), want, rtol=0, atol=3e-6)


@pytest.mark.parametrize("weighting", ["uniform", "linear"])
def test_windows_of_a_pointwise_network_are_the_whole_image(weighting) -> None:
    image, net = picture(80, 130), Pointwise()
    whole = predictor(net, None)(image)
    for overlap in (0.0, 0.33, 0.7):
        got = predictor(net, Window(32, overlap, weighting))(image)
        torch.testing.assert_close(got, whole, rtol=0, atol=1e-6)


def test_flip_of_a_symmetric_network_changes_no_bit() -> None:
    """E3."""
    image, window = picture(50, 60), Window(32, 0.4)
    one, other = (predictor(Pointwise(), window, flip=flip)(image) for flip in (True, False))
    assert torch.equal(one, other)


def test_windows_go_through_the_network_in_batches() -> None:
    net, window, image = Strided(), Window(33, 0.33), picture(50, 100)
    predictor(net, window, batch=3, pad="fit")(image)
    columns, rows = window.starts(100), window.starts(50)
    assert (len(columns), len(rows)) == (5, 2)
    assert net.calls == [(3, 3, 33, 33), (2, 3, 33, 33)] * 2


def test_a_window_that_is_not_a_multiple_is_padded_as_an_image() -> None:
    net = Strided()
    predictor(net, Window(32, 0.33), pad="fit")(picture(32, 32))
    predictor(net, Window(32, 0.33), pad=65)(picture(10, 10))
    assert net.calls == [(1, 3, 33, 33), (1, 3, 65, 65)]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"size": 0}, "eval.window.size"),
        ({"size": True}, "eval.window.size"),
        ({"size": 9, "overlap": 1.0}, "eval.window.overlap"),
        ({"size": 9, "overlap": -0.1}, "eval.window.overlap"),
        ({"size": 9, "overlap": float("nan")}, "eval.window.overlap"),
        ({"size": 9, "weighting": "gaussian"}, "eval.window.weighting"),
    ],
)
def test_wrong_windows_name_their_key(wrong, key) -> None:
    with pytest.raises(ConfigError) as caught:
        Window(**wrong)
    assert caught.value.where == key


LARGE = """
    import resource, sys
    import torch
    from torch import nn
    from segkit.inference.predictor import Predictor
    from segkit.inference.windows import Window

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 21, 16, stride=16, padding=8)
        def scores(self, x):
            return {"out": self.stem(x)}

    torch.set_num_threads(1)
    height = int(sys.argv[1])
    image = torch.randint(0, 255, (height, 4096, 3), dtype=torch.uint8).permute(2, 0, 1)
    predict = Predictor(Tiny(), output_stride=16, window=Window(513), pad="fit", flip=True,
                        normalise=lambda x: x.float() / 255)
    labels = predict.labels([image])[0]
    assert labels.shape == (height, 4096)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_4096x4096x21_fits_and_grows_with_the_row_of_windows_only() -> None:
    """L2: less than 1.5 GB in all. Measured: 765 MiB at 1024 rows and 814 MiB at 4096; the
    difference is the picture's bytes and its label map."""
    peaks = [
        float(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(LARGE), str(height)],
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            ).stdout
        )
        for height in (1024, 4096)
    ]
    assert peaks[1] < 1500, peaks
    assert peaks[1] - peaks[0] < 110, peaks
