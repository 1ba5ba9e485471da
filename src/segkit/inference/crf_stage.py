"""Which backend refines an image, and one stage for both."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Generic, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.inference.crf import DenseCrf
from segkit.inference.crf_pool import CrfPool, Labels, S, Sample
from segkit.inference.exact_crf import ExactCrf

Backend = Literal["auto", "pydensecrf", "exact"]
BACKENDS = ("exact", "pydensecrf")  # what an image can be refined by

# The exact sums go over pairs of pixels: twice the side is sixteen times the time. About half a
# megapixel (VOC, CamVid) they are as fast as a GPU makes them interesting; a Cityscapes image has
# four times as many pixels, and a pool of processes is done first.
EXACT_PIXELS = 2**19


class CrfStage(Generic[S]):
    """Refines samples by the backend that fits each; see ``engine.evaluate.Refine``.

    ``auto`` is ``exact`` on CUDA for images of up to ``EXACT_PIXELS`` and ``pydensecrf`` (in
    processes that ``make_pool`` starts) for all others; without pydensecrf it is ``exact``. What is
    taken is told once by ``say``. ``taken`` counts the images of each backend. Results of one
    backend come in the order of submission.
    """

    def __init__(
        self,
        crf: DenseCrf,
        backend: Backend,
        device: torch.device,
        *,
        make_pool: Callable[[], CrfPool[S]],
        should_stop: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._make_pool, self._say = make_pool, say
        self.taken = Taken(backend, device)
        self._exact: ExactCrf[S] = ExactCrf(crf, device, should_stop=should_stop)
        self._pool: CrfPool[S] | None = None
        say(f"crf: {self.taken.words()}{self.taken.warning()}")
        if self.taken.largest == 0:
            self._pool = make_pool()  # whose absence is known before the first image

    def take(self, crf: DenseCrf) -> None:
        """Other parameters from now on; no image may be in flight."""
        self._exact.crf = crf
        if self._pool is not None:
            self._pool.crf = crf

    def submit(self, sample: S, probabilities: Tensor) -> None:
        if self.taken.is_exact(sample.rgb):
            self._exact.submit(sample, probabilities)
            return
        if self._pool is None:
            self._pool = self._make_pool()
            self._pool.crf = self._exact.crf
            self._say(f"crf: {sample.id} has more than {EXACT_PIXELS} pixels: pydensecrf")
        self._pool.submit(sample, probabilities)

    def ready(self) -> Iterator[tuple[S, Labels]]:
        yield from self._exact.ready()
        if self._pool is not None:
            yield from self._pool.ready()

    def results(self) -> Iterator[tuple[S, Labels]]:
        yield from self._exact.results()
        if self._pool is not None:
            yield from self._pool.results()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> "CrfStage[S]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MeanField:
    """The states of mean field, by the backend that a stage would take for the image."""

    def __init__(self, crf: DenseCrf, backend: Backend, device: torch.device) -> None:
        self._crf, self._taken = crf, Taken(backend, device)
        self._exact: ExactCrf[Sample] = ExactCrf(crf, device)

    def steps(
        self, rgb: NDArray[np.uint8], probabilities: NDArray[np.float32], at: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Marginals [C, H, W] after each of the rising numbers of iterations ``at``."""
        crf = self._exact if self._taken.is_exact(rgb) else self._crf
        return crf.steps(rgb, probabilities, at)


class Taken:
    """Counts the images that each backend refines; a counter of an evaluation.

    ``counts`` int64 [2] goes with ``BACKENDS``.
    """

    def __init__(self, backend: Backend, device: torch.device) -> None:
        self._backend, self._device = backend, device
        self._counts = torch.zeros(len(BACKENDS), dtype=torch.int64)
        self.is_missing = backend == "auto" and not has_pydensecrf()

    @property
    def largest(self) -> float:
        """The most pixels of an image that is refined exactly."""
        if self._backend == "exact" or self.is_missing:
            return float("inf")
        on_gpu = self._backend == "auto" and self._device.type == "cuda"
        return EXACT_PIXELS if on_gpu else 0

    def is_exact(self, rgb: NDArray[Any]) -> bool:
        return rgb.shape[0] * rgb.shape[1] <= self.largest

    def words(self) -> str:
        """What is taken."""
        if self.largest == 0:
            return "pydensecrf"
        return f"exact on {self._device.type}"

    def warning(self) -> str:
        """What the exact sums cost on a processor, and what would spare them."""
        if self.largest == 0 or self._device.type != "cpu":
            return ""
        missing = "; pydensecrf is not installed (pip install 'segkit[crf]')"
        return ": minutes for an image of 500x375" + (missing if self.is_missing else "")

    def update(self, sample: Sample, prediction: Tensor) -> None:  # noqa: ARG002
        self._counts[BACKENDS.index("exact" if self.is_exact(sample.rgb) else "pydensecrf")] += 1

    def counts(self) -> Tensor:
        return self._counts


def backend_text(counts: Tensor) -> str:
    """``exact``, ``pydensecrf`` or, where each refined some images, ``exact+pydensecrf``."""
    return "+".join(name for name, count in zip(BACKENDS, counts.tolist(), strict=True) if count)


def has_pydensecrf() -> bool:
    with suppress(ImportError):
        return find_spec("pydensecrf.densecrf") is not None
    return False
