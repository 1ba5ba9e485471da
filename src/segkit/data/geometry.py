"""Where the pixels of a random crop come from.

A crop of a scaled image is described by a ``Window`` and computed from the source: of a scaled
image that is much larger than the window nothing outside of it exists at any time, so the cost
follows the crop.
Pixel centres lie at half-integers in image and mask alike; a mask pixel therefore shows the
source pixel that contains the point at which the image is interpolated.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# cv2.resize makes a pixel four times as fast as cv2.warpAffine, but it makes all of them.
WORTH_RESIZING = 3.0


@dataclass(frozen=True)
class Window:
    """Rows ``top..top+height`` and columns ``left..left+width`` of the source resized to
    ``scaled`` (height, width)."""

    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def fits(crop: int, output_stride: int) -> bool:
    """Whether ``crop`` is output_stride·k + 1: aligned maps then sample exact pixels (facts 8)."""
    return (crop - 1) % output_stride == 0


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size at ``scale``, truncated as in the original code, at least 1×1 (facts 8)."""
    return max(1, int(height * scale)), max(1, int(width * scale))


def resample_image(rgb: np.ndarray, window: Window) -> np.ndarray:
    """The window of the bilinearly resized image, uint8 [height,width,3]; edges are repeated."""
    (height, width), (rows, cols) = rgb.shape[:2], window.scaled
    if (height, width) == window.scaled:
        return _slice(rgb, window)
    if rows * cols <= WORTH_RESIZING * window.height * window.width:
        return _slice(cv2.resize(rgb, (cols, rows), interpolation=cv2.INTER_LINEAR), window)
    step_y, step_x = height / rows, width / cols
    source = np.array(
        [
            [step_x, 0, (window.left + 0.5) * step_x - 0.5],
            [0, step_y, (window.top + 0.5) * step_y - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (window.width, window.height)
    return cv2.warpAffine(rgb, source, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def resample_label(label: np.ndarray, window: Window) -> np.ndarray:
    """The window of the nearest-neighbour resized labels [height,width]; no new value appears."""
    if label.shape == window.scaled:
        return _slice(label, window)
    rows = _nearest(window.top, window.height, label.shape[0], window.scaled[0])
    cols = _nearest(window.left, window.width, label.shape[1], window.scaled[1])
    return label[rows].take(cols, axis=1)  # four times as fast as label[rows][:, cols]


def _slice(array: np.ndarray, window: Window) -> np.ndarray:
    top, left = window.top, window.left
    return array[top : top + window.height, left : left + window.width]


def _nearest(first: int, count: int, source: int, scaled: int) -> np.ndarray:
    """floor((i + 1/2) · source / scaled) in integers: no rounding decides a label."""
    return (2 * np.arange(first, first + count) + 1) * source // (2 * scaled)
