"""The fully connected CRF of v1 (§4.2) and v2 (§3.3), by pydensecrf's permutohedral lattice.

Unary −log p; two Gaussian kernels, one over position, one over position and colour; Potts
compatibility; mean field. Imports no torch: the pool's processes start from this module.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.errors import ConfigError, DataError, EnvironmentFault, NumericsError

Normalization = Literal["after", "before", "symmetric", "none"]
NORMALIZATIONS: tuple[Normalization, ...] = ("after", "before", "symmetric", "none")

# The clip of the unary's own helper in pydensecrf: no class is ever ruled out completely.
LEAST_PROBABILITY = 1e-5


@dataclass(frozen=True)
class DenseCrf:
    """The CRF's parameters. Distances are in pixels, colours in steps of 0..255.

    The defaults are those of v2's ResNet-101 as released. Normalisation is ``after``, because the
    authors' own densecrf divides after filtering; pydensecrf's default would be ``symmetric``.
    """

    iterations: int = 10
    bilateral_weight: float = 4.0
    bilateral_xy: float = 67.0
    bilateral_rgb: float = 3.0
    gaussian_weight: float = 3.0
    gaussian_xy: float = 1.0
    normalization: Normalization = "after"

    def __post_init__(self) -> None:
        if isinstance(self.iterations, bool) or self.iterations < 0:
            raise _wrong("iterations", self.iterations, "0 or more")
        for name in ("bilateral_weight", "gaussian_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "0 or more")
        for name in ("bilateral_xy", "bilateral_rgb", "gaussian_xy"):
            if not 0 < getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "more than 0")
        if self.normalization not in NORMALIZATIONS:
            raise _wrong("normalization", self.normalization, ", ".join(NORMALIZATIONS))

    def refine(
        self, rgb: NDArray[np.uint8], probabilities: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Mean-field marginals [C, H, W] of an image and its class probabilities [C, H, W].

        ``rgb`` is the ORIGINAL image, uint8 [H, W, 3]: a mean-subtracted one cast to bytes wraps
        around and its colours mean nothing. Raises EnvironmentFault without pydensecrf, DataError
        for shapes that do not belong together, NumericsError for non-finite probabilities.
        """
        [marginals] = self.steps(rgb, probabilities, [self.iterations])
        return marginals

    def steps(
        self, rgb: NDArray[np.uint8], probabilities: NDArray[np.float32], at: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Marginals as in ``refine`` after each of the rising numbers of iterations ``at``.

        They come from one run of mean field (v2 Fig. 5); 0 is the softmax of the clipped unary.
        """
        self.check_counts(at)
        crf = self._lattice(rgb, probabilities)
        state = crf.startInference()
        found, done = [], 0
        for wanted in at:
            for _ in range(wanted - done):
                crf.stepInference(*state)
            done = wanted
            found.append(np.array(state[0], np.float32).reshape(probabilities.shape))
        return found

    def check_counts(self, at: Sequence[int]) -> None:
        """ConfigError unless ``at`` are rising whole numbers."""
        if list(at) != sorted(set(at)) or not all(count >= 0 for count in at):
            raise _wrong("iterations", list(at), "rising whole numbers, 0 or more")

    def _lattice(self, rgb: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Any:
        """pydensecrf's own object for one image, with the unary and both kernels in it."""
        lattice = load_pydensecrf()
        check_input(rgb, probabilities.shape, bool(np.isfinite(probabilities).all()))
        classes, height, width = probabilities.shape
        crf = lattice.DenseCRF2D(width, height, classes)
        unary = -np.log(np.clip(probabilities, LEAST_PROBABILITY, 1.0))
        crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32).reshape(classes, -1))
        how = {
            "kernel": lattice.DIAG_KERNEL,
            "normalization": _normalization(lattice, self.normalization),
        }
        crf.addPairwiseGaussian(sxy=self.gaussian_xy, compat=self.gaussian_weight, **how)
        crf.addPairwiseBilateral(
            sxy=self.bilateral_xy,
            srgb=self.bilateral_rgb,
            # pydensecrf wants a writable C-ordered buffer, though it only reads.
            rgbim=np.require(rgb, np.uint8, ["C", "W"]),
            compat=self.bilateral_weight,
            **how,
        )
        return crf


def labels_of(probabilities: NDArray[np.float32]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The likeliest class of every pixel, [H, W]; uint16 above 255 classes."""
    likeliest = probabilities.argmax(0)
    return likeliest.astype(np.uint8 if len(probabilities) <= 255 else np.uint16)


def load_pydensecrf() -> Any:
    """The extension module; EnvironmentFault with what to install where it is missing."""
    try:
        from pydensecrf import densecrf
    except ImportError as fault:
        raise EnvironmentFault(
            "CRF-MISSING",
            "crf=true",
            f"pydensecrf cannot be imported ({fault})",
            "pip install 'segkit[crf]' or crf=false",
        ) from fault
    return densecrf


def _normalization(lattice: Any, name: Normalization) -> Any:
    return {
        "after": lattice.NORMALIZE_AFTER,
        "before": lattice.NORMALIZE_BEFORE,
        "symmetric": lattice.NORMALIZE_SYMMETRIC,
        "none": lattice.NO_NORMALIZATION,
    }[name]


def check_input(rgb: NDArray[np.uint8], shape: tuple[int, ...], finite: bool) -> None:
    """DataError or NumericsError for what cannot be refined."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"rgb is {rgb.dtype} {list(rgb.shape)}"
        raise DataError("CRF-IMAGE", "dense CRF", found, "the original image, uint8 [H, W, 3]")
    if len(shape) != 3 or shape[1:] != rgb.shape[:2] or not rgb.size:
        found = f"probabilities {list(shape)} for an image {list(rgb.shape)}"
        raise DataError("CRF-SHAPE", "dense CRF", found, "[C, H, W] at the image's own size")
    if not finite:
        raise NumericsError("PROBABILITIES", "dense CRF", "non-finite probabilities")


def _wrong(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError("CRF-PARAMETER", f"densecrf.{key}", f"{value!r}", f"allowed: {allowed}")
