"""The dense CRF of ``crf.py`` in PyTorch: the sums themselves, on any device.

``pydensecrf`` approximates its filters on a lattice; here both are exact (to 1e-6). The spatial
one is separable, two products with small Toeplitz matrices; the bilateral one is ``bilateral.py``.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Generic, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import EnvironmentFault
from segkit.inference.bilateral import BilateralFilter
from segkit.inference.crf import LEAST_PROBABILITY, DenseCrf, Normalization, check_input
from segkit.inference.crf_pool import Labels, S
from segkit.limits import is_memory


class Filter(Protocol):
    """A Gaussian filter K: ``average`` is diag(1/n) K, ``degrees`` n = K·1."""

    def average(self, values: Tensor) -> Tensor: ...
    def degrees(self) -> Tensor: ...


class SpatialFilter:
    """exp(−|p_i − p_j|²/2σ²) over the pixels of an image of ``size``, without truncation.

    In fp64, which no setting of the tensor cores touches.
    """

    def __init__(self, size: tuple[int, int], xy: float, device: torch.device) -> None:
        self._rows, self._columns = (_toeplitz(side, xy, device) for side in size)

    def average(self, values: Tensor) -> Tensor:
        filtered = self._rows @ values.double() @ self._columns
        return filtered.div_(self._ones()).float()

    def degrees(self) -> Tensor:
        return self._ones().float()

    def _ones(self) -> Tensor:
        return self._rows.sum(1)[:, None] * self._columns.sum(1)


def mean_field(crf: DenseCrf, rgb: Tensor, probabilities: Tensor) -> Iterator[Tensor]:
    """Marginals [C, H, W] after 0, 1, 2 ... iterations, without end.

    ``rgb`` uint8 [H, W, 3] and ``probabilities`` float [C, H, W] on one device.
    """
    size = (rgb.shape[0], rgb.shape[1])
    unary = probabilities.detach().float().clamp(LEAST_PROBABILITY, 1).log_()
    pairwise = [
        (weight, _normalised(make(), crf.normalization))
        for weight, make in (
            (crf.gaussian_weight, lambda: SpatialFilter(size, crf.gaussian_xy, rgb.device)),
            (
                crf.bilateral_weight,
                lambda: BilateralFilter(rgb, crf.bilateral_xy, crf.bilateral_rgb),
            ),
        )
        if weight
    ]
    state = unary.softmax(0)
    while True:
        yield state
        energy = unary.clone()
        for weight, filtered in pairwise:
            energy.add_(filtered(state), alpha=weight)
        state = energy.softmax(0)


class ExactCrf(Generic[S]):
    """The refining stage on ``device``: what ``CrfPool`` is in processes.

    Where ``should_stop``, asked before each iteration, says so, ``submit`` drops its image. Raises
    what ``DenseCrf.refine`` raises, and EnvironmentFault where memory runs out.
    """

    def __init__(
        self,
        crf: DenseCrf,
        device: torch.device | str,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.crf = crf  # may be replaced
        self._device, self._should_stop = torch.device(device), should_stop
        self._done: deque[tuple[S, Labels]] = deque()

    def submit(self, sample: S, probabilities: Tensor | NDArray[np.float32]) -> None:
        """Refine one image; ``probabilities`` are float [C, H, W] on any device."""
        with _faults_named(probabilities):
            for count, state in enumerate(self._states(sample.rgb, probabilities)):
                if self._should_stop():
                    return
                if count == self.crf.iterations:
                    labels = state.argmax(0).to(torch.uint8 if len(state) <= 256 else torch.int32)
                    self._done.append((sample, labels.cpu().numpy()))
                    return

    def ready(self) -> Iterator[tuple[S, Labels]]:
        """What was submitted and not yet given out."""
        while self._done:
            yield self._done.popleft()

    results = ready

    def steps(
        self,
        rgb: NDArray[np.uint8],
        probabilities: Tensor | NDArray[np.float32],
        at: Sequence[int],
    ) -> list[NDArray[np.float32]]:
        """Marginals [C, H, W] after each of the rising numbers of iterations ``at``."""
        self.crf.check_counts(at)
        with _faults_named(probabilities):
            states = islice(self._states(rgb, probabilities), max(at, default=-1) + 1)
            return [state.cpu().numpy() for n, state in enumerate(states) if n in at]

    def close(self) -> None:
        """Drop what nobody has taken."""
        self._done.clear()

    def __enter__(self) -> "ExactCrf[S]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _states(
        self, rgb: NDArray[np.uint8], probabilities: Tensor | NDArray[np.float32]
    ) -> Iterator[Tensor]:
        given = (
            torch.tensor(probabilities) if isinstance(probabilities, np.ndarray) else probabilities
        )
        given = given.to(self._device)
        check_input(rgb, tuple(given.shape), bool(given.isfinite().all()))
        return mean_field(self.crf, torch.tensor(rgb, device=self._device), given)


def _normalised(kernel: Filter, normalization: Normalization) -> Callable[[Tensor], Tensor]:
    """K̃ of pydensecrf's four modes, out of the row-normalised filter and its degrees."""
    if normalization == "after":
        return kernel.average
    degrees = kernel.degrees()
    if normalization == "before":
        return lambda values: kernel.average(values / degrees) * degrees
    if normalization == "symmetric":
        roots = degrees.sqrt()
        return lambda values: kernel.average(values / roots) * roots
    return lambda values: kernel.average(values) * degrees


def _toeplitz(side: int, sigma: float, device: torch.device) -> Tensor:
    place = torch.arange(side, dtype=torch.float64, device=device)
    return ((place[:, None] - place) / sigma).square_().div_(-2).exp_()


@contextmanager
def _faults_named(probabilities: Tensor | NDArray[np.float32]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as fault:
        fix = "densecrf.backend=pydensecrf, or crf=false"
        if is_memory(fault):
            classes, height, width = probabilities.shape
            what = f"out of memory on an image of {width}x{height} with {classes} classes"
            raise EnvironmentFault("CRF-MEMORY", "densecrf.backend=exact", what, fix) from fault
        if "No available kernel" in str(fault):
            what = "this device has no attention kernel in fp32"
            raise EnvironmentFault("CRF-KERNEL", "densecrf.backend=exact", what, fix) from fault
        raise
