"""The predictor against a slow oracle that follows the protocol sentence by sentence."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkit.data.normalise import Normalise, normalise
from segkit.errors import ConfigError, DataError, NumericsError
from segkit.inference.memory import Memory
from segkit.inference.predictor import Predictor, resolve_pad, scaled_size
from segkit.inference.windows import Window

SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class Strided(nn.Module):
    """A small network whose scores have a stride; dropout and batch norm show a wrong mode."""

    def __init__(self, classes=5, stride=8):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(6, classes, 1)
        self.calls = []

    def scores(self, x):
        self.calls.append(tuple(x.shape))
        return {"out": self.head(self.drop(self.norm(self.stem(x)).relu()))}


class Pointwise(nn.Module):
    """Commutes with every permutation of pixels, to the bit (a 1×1 convolution does not)."""

    def scores(self, x):
        return {"out": torch.cat([x, x[:, :1] * x[:, 1:2]], 1)}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Strided()


def picture(height, width):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(height * width))


def oracle(net, image, padded_size, scales, flip, fusion):
    """One view at a time, everything at full size, nothing in place."""
    height, width = image.shape[1:]
    full = torch.zeros(3, *padded_size)
    full[:, :height, :width] = image
    views = [(scale, mirror) for scale in scales for mirror in ([False, True] if flip else [False])]
    maps = []
    for scale, mirror in views:
        size = [int((side - 1) * scale) + 1 for side in padded_size]
        x = F.interpolate(full[None], size=size, mode="bilinear", align_corners=True)
        scores = net.scores(x.flip(3) if mirror else x)["out"]
        maps.append(scores.flip(3) if mirror else scores)
    enlarge = {"size": tuple(padded_size), "mode": "bilinear", "align_corners": True}
    if fusion == "mean":
        fused = torch.stack([F.interpolate(m, **enlarge).softmax(1) for m in maps]).mean(0)
    else:
        stride8 = maps[[scale for scale, _ in views].index(1.0)].shape[2:]
        same = [F.interpolate(m, size=stride8, mode="bilinear", align_corners=True) for m in maps]
        fused = F.interpolate(torch.stack(same).amax(0), **enlarge).softmax(1)
    return fused[0, :, :height, :width]


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 0.75, 1.0), SIX], ids=len)
@pytest.mark.parametrize(
    ("size", "pad", "padded"),
    [
        ((33, 41), None, (33, 41)),
        ((30, 47), "fit", (33, 49)),
        ((30, 20), 65, (65, 65)),
        ((70, 20), 65, (73, 65)),
        ((1, 1), "fit", (1, 1)),
        ((1, 19), "fit", (1, 25)),
        ((19, 1), None, (19, 1)),
        ((2, 2), None, (2, 2)),
        ((2, 2), 9, (9, 9)),
    ],
)
def test_probabilities_are_those_of_the_oracle(net, size, pad, padded, scales, flip, fusion):
    predict = Predictor(
        net, output_stride=8, scales=scales, flip=flip, fusion=fusion, pad=pad, device="cpu"
    )
    got = predict(picture(*size))
    with torch.no_grad():
        want = oracle(net.eval(), picture(*size), padded, scales, flip, fusion)
    assert got.shape == (5, *size)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)
    torch.testing.assert_close(got.sum(0), torch.ones(size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), SIX], ids=len)
@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_flip_of_a_symmetric_network_changes_no_bit(scales, fusion):
    net, image = Pointwise(), picture(29, 37)
    with_flip, without = (
        Predictor(net, output_stride=8, scales=scales, flip=f, fusion=fusion, pad="fit")(image)
        for f in (True, False)
    )
    # x + x is exact, but a sum of more views rounds in another order.
    tolerance = 0 if len(scales) == 1 or fusion == "max" else 2e-7
    torch.testing.assert_close(with_flip, without, rtol=0, atol=tolerance)


def test_flip_is_batched_and_every_scale_is_run_once(net):
    Predictor(net, output_stride=8, scales=(0.5, 1.0), flip=True, pad=33)(picture(20, 30))
    assert net.calls == [(2, 3, 17, 17), (2, 3, 33, 33)]


def batched(net, batch, **how):
    return Predictor(net, output_stride=8, memory=Memory(torch.device("cpu"), batch), **how)


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("batch", range(1, 6))
def test_batches_give_what_single_images_give_in_their_order(net, batch, fusion):
    """E1: a network that sees pixels one by one gives the same bits."""
    images = [picture(*size) for size in [(30, 20), (31, 20), (31, 22), (9, 9), (30, 20), (1, 1)]]
    how = {"scales": (0.5, 1.0), "flip": True, "fusion": fusion, "pad": "fit"}
    for one, tolerance in ((Pointwise(), 0), (net, 2e-6)):
        many = list(batched(one, batch, **how).probabilities(images))
        for image, found in zip(images, many, strict=True):
            torch.testing.assert_close(found, batched(one, 1, **how)(image), rtol=0, atol=tolerance)
            assert found.shape[1:] == image.shape[1:]


def test_consecutive_images_of_one_padded_size_go_together(net):
    sizes = [(33, 33), (30, 31), (26, 33), (33, 41), (33, 33), (33, 33), (33, 33), (33, 33)]
    batched(net, 3, pad="fit", flip=True).labels([picture(*size) for size in sizes])
    assert net.calls == [(6, 3, 33, 33), (2, 3, 33, 41), (6, 3, 33, 33), (2, 3, 33, 33)]


@pytest.mark.parametrize("how", [{}, {"flip": True, "scales": (0.5, 1.0)}, {"fusion": "max"}])
def test_labels_are_the_likeliest_classes(net, how):
    image = picture(40, 50)
    found = batched(net, 1, pad="fit", **how)
    labels, probabilities = found.labels([image])[0], found(image)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), probabilities.argmax(0))


def test_labels_beyond_a_byte():
    class Many(nn.Module):
        def scores(self, x):
            return {"out": torch.arange(300.0)[None, :, None, None].expand(len(x), 300, 2, 2)}

    (labels,) = Predictor(Many(), output_stride=8).labels([picture(3, 4)])
    assert labels.eq(299).all()


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, Window(33, weighting="linear")])
def test_a_gpu_is_not_waited_for_and_says_the_same(net, window):
    images = [picture(*size) for size in [(40, 50), (41, 57), (20, 20)]]
    how = {"pad": "fit", "window": window, "flip": True, "scales": (0.5, 1.0)}
    want = list(batched(net, 1, **how).probabilities(images))
    cuda = torch.device("cuda")
    ask = Predictor(net.to(cuda), output_stride=8, device=cuda, memory=Memory(cuda, 8), **how)
    ask.labels(images)  # tables and kernels are there from now on
    torch.cuda.set_sync_debug_mode("error")
    try:
        labels = ask.labels(images, verify=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    ask.verify()
    for found, probabilities, expected in zip(labels, ask.probabilities(images), want, strict=True):
        assert found.is_cuda
        torch.testing.assert_close(probabilities.cpu(), expected, rtol=0, atol=1e-3)
        assert (found.cpu() == expected.argmax(0)).float().mean() > 0.999


@pytest.mark.parametrize("window", [None, Window(33)])
def test_bytes_are_normalised_on_the_way(net, window):
    rgb = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    floats = torch.from_numpy(normalise(rgb.numpy(), mean, std).transpose(2, 0, 1).copy())
    how = {"pad": "fit", "window": window, "normalise": Normalise(mean, std)}
    found = batched(net, 2, **how)
    assert torch.equal(found(rgb.permute(2, 0, 1)), found(floats))
    assert net.calls[0][-2:] == ((33, 33) if window else (41, 57))


def test_nothing_of_the_network_is_changed(net):
    net.train()
    net.head.eval()
    modes = [module.training for module in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    predict = Predictor(net, output_stride=8, flip=True, pad="fit")
    first, second = predict(picture(20, 30)), predict(picture(20, 30))
    assert torch.equal(first, second), "dropout or batch statistics were on"
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert not first.requires_grad


def test_modes_come_back_after_a_fault(net):
    net.train()
    net.head.bias.data[0] = float("nan")
    with pytest.raises(NumericsError):
        Predictor(net, output_stride=8)(picture(20, 30))
    assert net.training
    assert net.drop.training


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_a_network_that_returns_its_input_is_not_written_to(fusion):
    class Identity(nn.Module):
        def scores(self, x):
            return {"out": x}

    image = picture(9, 9)
    before = image.clone()
    predict = Predictor(Identity(), output_stride=8, scales=(1.0, 1.0), fusion=fusion)
    torch.testing.assert_close(predict(image), before.softmax(0), rtol=0, atol=1e-6)
    assert torch.equal(image, before)


def test_padding_is_the_value_asked_for():
    seen = []

    class Look(Pointwise):
        def scores(self, x):
            seen.append(x)
            return super().scores(x)

    Predictor(Look(), output_stride=8, pad=9, mean_pad=-2.5)(picture(5, 7))
    assert seen[0].shape == (1, 3, 9, 9)
    assert torch.equal(seen[0][0, :, :5, :7], picture(5, 7))
    assert (seen[0][..., 5:, :] == -2.5).all()
    assert (seen[0][..., 7:] == -2.5).all()


def test_bf16_stays_near_fp32(net):
    exact, fast = (
        Predictor(net, output_stride=8, pad="fit", precision=precision)(picture(30, 40))
        for precision in ("fp32", "bf16")
    )
    assert fast.dtype == torch.float32
    assert 0 < (exact - fast).abs().max() < 0.02


@pytest.mark.parametrize(("asked", "least", "most"), [("labels", 0.0, 0.4), ("call", 1.0, 1.5)])
def test_memory_holds_one_full_size_map_and_none_for_labels(asked, least, most):
    """Counted by the allocator: a map of 150 classes dwarfs all else."""
    wide = Strided(classes=150, stride=16)
    predict = Predictor(wide, output_stride=16, scales=SIX, flip=True)
    image = picture(257, 257)
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        predict.labels([image]) if asked == "labels" else predict(image)
    live = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert least < peak / (150 * 257 * 257 * 4) < most


@pytest.mark.parametrize(
    ("rule", "size", "stride", "want"),
    [
        (None, (360, 480), 16, (360, 480)),
        ("fit", (360, 480), 16, (369, 481)),
        ("fit", (360, 480), 8, (361, 481)),
        ("fit", (1024, 2048), 16, (1025, 2049)),
        ("fit", (513, 1), 16, (513, 1)),
        (513, (375, 500), 16, (513, 513)),
        (513, (513, 514), 16, (513, 529)),
        (513, (600, 100), 8, (601, 513)),
    ],
)
def test_resolve_pad(rule, size, stride, want):
    assert resolve_pad(rule, size, stride) == want


def test_scaled_sizes_of_513_are_those_of_the_original_code():
    assert [scaled_size((513, 513), s)[0] for s in SIX] == [257, 385, 513, 641, 769, 897]
    assert scaled_size((1, 2), 0.5) == (1, 1)
    assert scaled_size((360, 480), 0.75) == (270, 360)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"scales": ()}, "tta.scales"),
        ({"scales": (1.0, 0.0)}, "tta.scales"),
        ({"scales": (float("nan"),)}, "tta.scales"),
        ({"fusion": "median"}, "tta.fusion"),
        ({"precision": "fp8"}, "precision"),
        ({"pad": 0}, "eval.pad"),
        ({"pad": "513"}, "eval.pad"),
        ({"pad": True}, "eval.pad"),
    ],
)
def test_wrong_arguments_name_their_key(wrong, key):
    with pytest.raises(ConfigError) as caught:
        Predictor(Pointwise(), output_stride=8, **wrong)
    assert caught.value.where == key


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 3, 8, 8),
        torch.zeros(3, 0, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.float64),
    ],
    ids=str,
)
def test_wrong_images_are_refused(image):
    with pytest.raises(DataError):
        Predictor(Pointwise(), output_stride=8)(image)


def test_a_non_finite_score_of_any_view_is_an_error():
    class Bad(Strided):
        def scores(self, x):
            scores = super().scores(x)
            if x.shape[-1] < 20:
                scores["out"][0, 0, 0, 0] = float("nan")
            return scores

    with pytest.raises(NumericsError):
        Predictor(Bad(), output_stride=8, scales=(1.0, 0.5), flip=True)(picture(33, 33))
