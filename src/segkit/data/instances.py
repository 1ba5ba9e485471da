"""Instance maps: which pixels belong to one object (Cityscapes' ``*_instanceIds.png``)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segkit.data.images import MAX_PIXELS, decode
from segkit.errors import DataError

PER_LABEL = 1000  # labelId * 1000 + number; a bare labelId is no instance (a group, or stuff)


def read_instances(
    path: str | Path, class_of: Mapping[int, int], max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Instances [H,W] as int32: ``class * 1000 + number``, -1 where there is none that counts.

    ``class_of`` gives the class of a labelId, and something beyond 0..254 for one that does not
    count. Raises what ``decode`` raises, and DataError for a mode other than grey and for a labelId
    that is in no table, with its place.
    """
    image = decode(path, max_pixels).image
    if image.mode not in {"I;16", "I;16B", "I", "L"}:
        what = f"instance ids of mode {image.mode}"
        raise DataError("INSTANCES", path, what, "grey, 16 bits: labelId * 1000 + number")
    ids = np.asarray(image)
    table = np.full(66 * PER_LABEL, -2, np.int32)  # more than 16 bits can say
    table[:PER_LABEL] = -1
    for label, own in class_of.items():
        if 1 <= label < 66:
            numbers = own * PER_LABEL + np.arange(PER_LABEL) if 0 <= own < 255 else -1
            table[label * PER_LABEL : (label + 1) * PER_LABEL] = numbers
    found = table[ids]
    wrong = found == -2
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        what = f"instance {ids[y, x]} at x={x} y={y} is of no known label"
        raise DataError("INSTANCES", path, what, "labelId * 1000 + number")
    return found
