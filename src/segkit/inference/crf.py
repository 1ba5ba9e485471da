"""The fully connected CRF of v1 (§4.2) and v2 (§3.3), by pydensecrf's permutohedral lattice.

Unary −log p; two Gaussian kernels, one over position, one over position and colour; Potts
compatibility; mean field. Imports no torch: the pool's processes start from this module.
"""

import math
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
        lattice = load_pydensecrf()
        _check(rgb, probabilities)
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
        marginals = np.array(crf.inference(self.iterations), np.float32)
        return marginals.reshape(classes, height, width)


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


def _check(rgb: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"rgb is {rgb.dtype} {list(rgb.shape)}"
        raise DataError("CRF-IMAGE", "dense CRF", found, "the original image, uint8 [H, W, 3]")
    if probabilities.ndim != 3 or probabilities.shape[1:] != rgb.shape[:2] or not rgb.size:
        found = f"probabilities {list(probabilities.shape)} for an image {list(rgb.shape)}"
        raise DataError("CRF-SHAPE", "dense CRF", found, "[C, H, W] at the image's own size")
    if not np.isfinite(probabilities).all():
        raise NumericsError("PROBABILITIES", "dense CRF", "non-finite probabilities")


def _wrong(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError("CRF-PARAMETER", f"densecrf.{key}", f"{value!r}", f"allowed: {allowed}")
