"""Where memory runs short: every rung of the ladder, told once, and the same result."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from segkit.errors import EnvironmentFault
from segkit.inference import bands
from segkit.inference.memory import SMALL_BAND_BYTES, Memory
from segkit.inference.predictor import Predictor
from segkit.inference.windows import Window

FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


class Hungry(nn.Module):
    """A network that has room for so many images at once."""

    def __init__(self, room: int, fault: Exception = FAULTS[0]) -> None:
        super().__init__()
        self.room, self.fault = room, fault
        self.calls: list[int] = []

    def scores(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls.append(len(x))
        if len(x) > self.room:
            raise self.fault
        return {"out": torch.cat([x, x[:, :1] * x[:, 1:2]], 1)}


def pictures(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(count)
    return [torch.randn(3, 20, 30, generator=draw) for _ in range(count)]


def predictor(net: nn.Module, batch: int = 8, memory: str = "cpu", **how) -> Predictor:
    """``memory`` is the device whose ladder is climbed down; the network is on the CPU."""
    return Predictor(net, output_stride=8, memory=Memory(torch.device(memory), batch), **how)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: type(f).__name__ + str(f)[:12])
def test_batches_halve_until_there_is_room(fault: Exception, capfd) -> None:
    images, net = pictures(11), Hungry(3, fault)
    want = predictor(Hungry(99)).labels(images)
    ask = predictor(net)
    assert all(map(torch.equal, ask.labels(images), want))
    assert net.calls == [8, 4, 2, 2, 2, 2, 2, 1]
    notes = capfd.readouterr().err.splitlines()
    assert notes == [
        f"segkit: note: memory ran short on cpu: batches of {new} instead of {old}; "
        "results stay the same"
        for old, new in ((8, 4), (4, 2))
    ]
    ask.labels(images[:4])
    assert net.calls[-2:] == [2, 2], "it stays in force"
    assert not capfd.readouterr().err, "and is told once"


def test_a_single_image_is_not_tried_again_as_a_smaller_batch(capfd) -> None:
    net = Hungry(1)
    ask = predictor(net, flip=True)
    ask.labels(pictures(1))
    assert net.calls == [2, 1, 1]
    assert "apart" in capfd.readouterr().err


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("window", [None, Window(16, 0.3)])
def test_mirror_images_apart_give_the_same_bits(window, fusion, capfd) -> None:
    how = {"flip": True, "scales": (0.5, 1.0), "window": window, "fusion": fusion}
    images = pictures(5)
    want = list(predictor(Hungry(99), **how).probabilities(images))
    net = Hungry(1)
    got = list(predictor(net, **how).probabilities(images))
    assert all(map(torch.equal, got, want))
    assert max(net.calls[-10:]) == 1
    assert [line.split(": ")[3].split(";")[0] for line in capfd.readouterr().err.splitlines()][
        -1
    ] == "mirrored images go through the network apart"


def test_where_nothing_is_left_the_error_says_what_to_type(capfd) -> None:
    for window, size in ((None, 15), (Window(16), 8), (Window(64), 15)):
        with pytest.raises(EnvironmentFault, match=f"eval.window.size={size}$") as caught:
            predictor(Hungry(0), flip=True, window=window).labels(pictures(3))
        assert caught.value.id == "ENV-MEMORY"
        assert caught.value.where == "cpu"
        assert "30x20" in caught.value.what
        assert caught.value.__context__ is None, "it would keep what the work had made"
    assert len(capfd.readouterr().err.splitlines()) == 2 + 2 + 1  # one window has no batch


def test_results_are_made_in_smaller_bands_and_then_on_the_host(monkeypatch, capfd) -> None:
    """The rungs of a GPU, on which the network alone has room."""
    images, enlarged = pictures(2), bands.Bands._enlarged
    want = predictor(Hungry(99)).labels(images)

    def no_room(self, scores, rows):
        if not ask.memory.on_host:
            raise FAULTS[0]
        return enlarged(self, scores, rows)

    ask = predictor(Hungry(99), memory="cuda")
    monkeypatch.setattr(bands.Bands, "_enlarged", no_room)
    assert all(map(torch.equal, ask.labels(images), want))
    assert ask.memory.on_host
    assert ask.memory.band_bytes < SMALL_BAND_BYTES
    assert [line.split(": ")[3].split(";")[0] for line in capfd.readouterr().err.splitlines()] == [
        f"results are made in bands of {SMALL_BAND_BYTES // 2**20} MiB",
        "scores are kept, and results made, on the host",
    ]


def test_the_whole_ladder_of_a_gpu(capfd) -> None:
    with pytest.raises(EnvironmentFault):
        predictor(Hungry(0), memory="cuda", flip=True).labels(pictures(3))
    assert len(capfd.readouterr().err.splitlines()) == 4


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    net = Hungry(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        predictor(net).labels(pictures(2))
    assert net.calls == [2]


LIMITED = """
    import resource
    import torch
    from torch import nn
    from segkit.inference.memory import Memory
    from segkit.inference.predictor import Predictor

    class Wide(nn.Module):
        def scores(self, x):
            wide = torch.nn.functional.interpolate(x, scale_factor=4.0)  # 48 MB an image
            return {"out": nn.functional.avg_pool2d(wide, 32)}

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 512, 512, generator=draw) for _ in range(8)]
    ask = Predictor(Wide(), output_stride=8, memory=Memory(torch.device("cpu"), 8))
    want = Predictor(Wide(), output_stride=8).labels(images)
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 250 * 2**20, resource.RLIM_INFINITY))
    got = ask.labels(images)
    assert all(torch.equal(a, b) for a, b in zip(got, want))
    print(ask.memory.batch)
"""


def test_a_real_limit_is_met_by_smaller_batches() -> None:
    """250 MB are left; eight images want 400 MB for one map of the network alone."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) in (1, 2, 4)
    assert "segkit: note: memory ran short on cpu: batches of 4 instead of 8" in found.stderr
