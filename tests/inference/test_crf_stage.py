"""Which backend an image gets, and that whoever asks for labels or states need not know."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from exact_sums import scene

from segkit.errors import EnvironmentFault
from segkit.inference.crf import DenseCrf, labels_of
from segkit.inference.crf_pool import CrfPool
from segkit.inference.crf_stage import EXACT_PIXELS, CrfStage, MeanField, Taken, backend_text
from segkit.inference.exact_crf import ExactCrf

pytest.importorskip("pydensecrf.densecrf")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@dataclass(frozen=True, eq=False)
class Photo:
    id: str
    rgb: np.ndarray


@pytest.fixture
def without_pydensecrf(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)


def stage_of(backend, device=CPU, said=None):
    crf = DenseCrf(3)
    return CrfStage(
        crf,
        backend,
        device,
        make_pool=lambda: CrfPool(crf, 1),
        should_stop=lambda: False,
        say=(said if said is not None else []).append,
    )


def sized(height, width):
    return np.broadcast_to(np.zeros((), np.uint8), (height, width, 3))


@pytest.mark.parametrize(
    ("backend", "device", "small", "large"),
    [
        ("auto", CPU, False, False),
        ("auto", CUDA, True, False),
        ("exact", CPU, True, True),
        ("exact", CUDA, True, True),
        ("pydensecrf", CPU, False, False),
        ("pydensecrf", CUDA, False, False),
    ],
)
def test_which_backend_takes_an_image(backend, device, small, large):
    taken = Taken(backend, device)
    assert taken.is_exact(sized(375, 500)) == small
    assert taken.is_exact(sized(1024, EXACT_PIXELS // 1024)) == small
    assert taken.is_exact(sized(1024, EXACT_PIXELS // 1024 + 1)) == large


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_without_pydensecrf_auto_is_exact_and_says_so(device, without_pydensecrf):  # noqa: ARG001
    taken = Taken("auto", device)
    assert taken.is_exact(sized(4000, 4000))
    assert ("pip install 'segkit[crf]'" in taken.warning()) == (device is CPU)
    with pytest.raises(EnvironmentFault, match=r"pip install 'segkit\[crf\]'"):
        stage_of("pydensecrf")


@pytest.mark.parametrize("backend", ["pydensecrf", "exact"])
def test_the_stage_gives_the_labels_of_its_backend(backend):
    said = []
    work = [(Photo(str(n), rgb), p) for n in range(3) for rgb, p in [scene("hard", 12, 14, 5, n)]]
    with stage_of(backend, said=said) as stage:
        for photo, probabilities in work:
            stage.submit(photo, torch.tensor(probabilities))
        found = {photo.id: labels for photo, labels in stage.results()}
        for photo, _ in work:
            stage.taken.update(photo, torch.tensor(found[photo.id]))
    crf = DenseCrf(3) if backend == "pydensecrf" else ExactCrf(DenseCrf(3), CPU)
    for photo, probabilities in work:
        [state] = crf.steps(photo.rgb, probabilities, [3])
        assert np.array_equal(found[photo.id], labels_of(state))
        [same] = MeanField(DenseCrf(3), backend, CPU).steps(photo.rgb, probabilities, [3])
        assert np.array_equal(same, state)
    assert len(said) == 1
    assert backend in said[0]
    assert backend_text(stage.taken.counts()) == backend


def test_both_backends_where_images_are_too_large_for_one(monkeypatch):
    monkeypatch.setattr(Taken, "largest", property(lambda _: 200))
    said = []
    work = [(Photo(f"{n}", rgb), p) for n in (10, 20, 30) for rgb, p in [scene("hard", n, 11, 4)]]
    with stage_of("auto", said=said) as stage:
        for photo, probabilities in work:
            stage.submit(photo, torch.tensor(probabilities))
        found = {photo.id: labels for photo, labels in stage.results()}
        for photo, _ in work:
            stage.taken.update(photo, torch.tensor(found[photo.id]))
    assert found.keys() == {"10", "20", "30"}
    for photo, probabilities in work:
        crf = ExactCrf(DenseCrf(3), CPU) if photo.id == "10" else DenseCrf(3)
        [state] = crf.steps(photo.rgb, probabilities, [3])
        assert np.array_equal(found[photo.id], labels_of(state))
    assert stage.taken.counts().tolist() == [1, 2]
    assert backend_text(stage.taken.counts()) == "exact+pydensecrf"
    assert [line.partition(":")[0] for line in said] == ["crf", "crf"]
    assert "20 has more than" in said[1]
