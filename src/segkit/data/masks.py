"""Masks: every pixel mode becomes class labels by one documented rule, or the file is refused.

| file                    | label                                                        |
| ----------------------- | ------------------------------------------------------------ |
| palette PNG (P)         | the index; the palette's colours mean nothing                |
| grey PNG, 1 to 16 bits  | the value as stored (Pillow scales 2 and 4 bits; undone here) |
| RGB, RGBA, LA PNG       | through a colour table, which must know every colour         |
| JPEG                    | refused: lossy                                               |
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from segkit.data.images import MAX_PIXELS, Decoded, decode, opaque
from segkit.data.labels import Colour, LabelSet
from segkit.errors import DataError

# Pillow widens 2-bit and 4-bit grey to 0..255 by these factors.
_GREY_FACTOR = {2: 0x55, 4: 0x11}


def read_mask(
    path: str | Path,
    labels: LabelSet,
    *,
    colour_table: Mapping[Colour, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """A mask as labels [H,W], uint8 (uint16 with more than 255 classes), every one checked.

    ``colour_table`` maps RGB colours to labels for masks that are coloured instead of indexed.
    Raises ``DataError``: unreadable, wrong mode, unknown colour, or a label that is neither in
    0..C-1 nor the ignore label, with its value and position.
    """
    decoded = decode(path, max_pixels)
    if decoded.format != "PNG":
        what = "a JPEG mask; lossy compression changes labels"
        raise DataError("MASK-MODE", path, what, "save masks as PNG of class indices")
    values = _values(path, decoded, colour_table)
    check_labels(path, values, labels)
    return values.astype(labels.dtype, copy=False)


def check_labels(path: str | Path, values: np.ndarray, labels: LabelSet) -> None:
    """``DataError`` with value and position of the first label of ``values`` not in the set."""
    wrong = (values != labels.ignore_label) & ((values >= labels.num_classes) | (values < 0))
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        count = int(wrong.sum())
        more = f" and {count - 1} more pixels" if count > 1 else ""
        what = f"label {values[y, x]} at x={x} y={y}{more}"
        raise DataError("LABEL-RANGE", path, what, f"allowed {labels.allowed}")


def _values(
    path: str | Path, decoded: Decoded, colour_table: Mapping[Colour, int] | None
) -> np.ndarray:
    image = decoded.image
    if image.mode == "P":
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode == "L":
        return np.asarray(image) // np.uint8(_GREY_FACTOR.get(decoded.depth, 1))
    if image.mode in {"I;16", "I;16B", "I"}:
        return np.asarray(image).astype(np.int32)
    if image.mode in {"RGB", "RGBA", "LA"} and colour_table and decoded.depth == 8:
        return _through_table(path, opaque(path, image), colour_table)
    what = f"mask of mode {image.mode} ({decoded.depth} bits); labels cannot be read from it"
    raise DataError("MASK-MODE", path, what, "save masks as PNG of class indices (mode P or L)")


def _through_table(
    path: str | Path, image: Image.Image, colour_table: Mapping[Colour, int]
) -> np.ndarray:
    packed = _pack(np.asarray(image))
    colours, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    known = {int(_pack(np.array(colour))): label for colour, label in colour_table.items()}
    for colour, count in zip(colours.tolist(), counts.tolist(), strict=True):
        if colour not in known:
            y, x = np.argwhere(packed == colour)[0]
            rgb = (colour >> 16, colour >> 8 & 255, colour & 255)
            what = f"colour {rgb} of {count} pixels, the first at x={x} y={y}, is in no class"
            raise DataError("MASK-COLOUR", path, what, f"{len(known)} colours in the table")
    labels = np.array([known[colour] for colour in colours.tolist()], dtype=np.int32)
    return labels[inverse].reshape(packed.shape)


def _pack(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
