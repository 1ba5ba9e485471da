"""Masks: every pixel mode becomes class labels by one documented rule, or the file is refused.

| file                    | label                                                           |
| ----------------------- | --------------------------------------------------------------- |
| palette PNG (P)         | the index; colours that a colour table reads otherwise: refused |
| grey PNG, 1 to 16 bits  | the value as stored (Pillow scales 2 and 4 bits; undone here) |
| RGB, RGBA, LA PNG       | through a colour table, which must know every colour         |
| JPEG                    | refused: lossy                                               |

An index or grey value is the label itself, or goes through a value table that must know it.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segkit.data.files import open_file
from segkit.data.images import MAX_PIXELS, Decoded, decode, opaque
from segkit.data.labels import Colour, LabelSet
from segkit.data.png import decode_plain
from segkit.errors import DataError

# Pillow widens 2-bit and 4-bit grey to 0..255 by these factors.
_GREY_FACTOR = {2: 0x55, 4: 0x11}
COLOURED = ("RGB", "RGBA", "LA")


def read_mask(
    path: str | Path,
    labels: LabelSet,
    *,
    colour_table: Mapping[Colour, int] | None = None,
    value_table: Mapping[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """A mask as labels [H,W], uint8 (uint16 with more than 255 classes), every one checked.

    ``colour_table`` maps RGB colours to labels for masks that are coloured instead of indexed
    (beside it, a palette's colours may not contradict its indices, unless there are values),
    ``value_table`` maps what an index or grey mask holds (other ids, 0 and 255).
    Raises ``DataError``: unreadable, wrong mode, unknown colour or value, or a label that is
    neither in 0..C-1 nor the ignore label, with its value and position.
    """
    with open_file(path) as file:
        plain = decode_plain(file, max_pixels, channels=(1,))
    if plain is not None:
        return _labels_of(path, plain, labels, value_table)
    decoded = decode(path, max_pixels)
    if decoded.format != "PNG":
        raise lossy(path)
    if decoded.image.mode in COLOURED:
        return _labels_of(path, _coloured(path, decoded, colour_table), labels, None)
    values = _indexed(path, decoded)
    if decoded.image.mode == "P" and colour_table and value_table is None:
        _check_palette(path, decoded.image, values, labels, colour_table)
    return _labels_of(path, values, labels, value_table)


def _check_palette(
    path: str | Path,
    image: Image.Image,
    indices: np.ndarray,
    labels: LabelSet,
    colour_table: Mapping[Colour, int],
) -> None:
    """``DataError`` where the colours of all that a palette mask uses name other labels than its
    indices: which of the two is meant, nobody but the user knows."""
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3)).tolist()
    said = {index: colour_table.get((r, g, b)) for index, (r, g, b) in enumerate(palette)}
    if all(label in (None, index) for index, label in said.items()):
        return
    counts = cv2.calcHist([indices], [0], None, [256], [0, 256])
    used = np.flatnonzero(counts).tolist()
    if said.get(labels.ignore_label) is None:  # void has a colour of its own in few tables
        used = [index for index in used if index != labels.ignore_label]
    other = [index for index in used if said.get(index) != index]
    if not other or any(said.get(index) is None for index in used):
        return
    index, shown = other[0], tuple(palette[other[0]])
    what = (
        f"a palette mask that can be read in two ways: index {index} is label {index}, "
        f"but its colour {shown} is the label {said[index]} of dataset.colours"
    )
    same = ", ".join(f"{label}: {label}" for label in range(min(labels.num_classes, 3)))
    more = ", ..." if labels.num_classes > 3 else ""
    fix = (
        f"type 'dataset.values={{{same}{more}}}' where the indices are the labels, or save the "
        "masks as RGB where the colours are"
    )
    raise DataError("MASK-PALETTE", path, what, fix)


def _labels_of(
    path: str | Path,
    values: np.ndarray,
    labels: LabelSet,
    value_table: Mapping[int, int] | None,
) -> np.ndarray:
    if value_table is not None:
        return _through_values(path, values, value_table, labels.dtype)
    check_labels(path, values, labels)
    return values.astype(labels.dtype, copy=False)


def lossy(path: str | Path) -> DataError:
    """Why no JPEG is a mask."""
    what = "a JPEG mask; lossy compression changes labels"
    return DataError("MASK-MODE", path, what, "save masks as PNG of class indices")


def check_labels(path: str | Path, values: np.ndarray, labels: LabelSet) -> None:
    """``DataError`` with value and position of the first label of ``values`` not in the set."""
    if values.dtype == np.uint8:
        wrong = _look_up(~_allowed(labels), values)  # in one pass
    else:
        wrong = (values != labels.ignore_label) & ((values >= labels.num_classes) | (values < 0))
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        count = int(np.count_nonzero(wrong))
        more = f" and {count - 1} more pixels" if count > 1 else ""
        what = f"label {values[y, x]} at x={x} y={y}{more}"
        raise DataError("LABEL-RANGE", path, what, f"allowed {labels.allowed}")


def _allowed(labels: LabelSet) -> np.ndarray:
    """255 for each of the 256 bytes that is a label, else 0."""
    known = np.zeros(256, np.uint8)
    known[: labels.num_classes] = 255
    known[labels.ignore_label :][:1] = 255
    return known


def strange_values(
    decoded: Decoded,
    labels: LabelSet,
    *,
    colour_table: Mapping[Colour, int] | None = None,
    value_table: Mapping[int, int] | None = None,
) -> list[tuple[int | Colour, int]]:
    """What a mask holds that is no label, the most frequent first, with its count of pixels.

    Values, or RGB colours of a coloured mask; nothing where ``read_mask`` takes every pixel.
    """
    found: Iterable[int | Colour]
    if decoded.image.mode in COLOURED:
        packed, counts = np.unique(
            _pack(np.asarray(decoded.image.convert("RGB"))), return_counts=True
        )
        known: Collection[int | Colour] = set(colour_table or ())
        found = [(c >> 16, c >> 8 & 255, c & 255) for c in packed.tolist()]
    else:
        values, counts = np.unique(_indexed("", decoded), return_counts=True)
        allowed = {*range(labels.num_classes), labels.ignore_label}
        known = allowed if value_table is None else set(value_table)
        found = values.tolist()
    strange = [(v, n) for v, n in zip(found, counts.tolist(), strict=True) if v not in known]
    return sorted(strange, key=lambda pair: -pair[1])


def _indexed(path: str | Path, decoded: Decoded) -> np.ndarray:
    image = decoded.image
    if image.mode == "P":
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode == "L":
        return np.asarray(image) // np.uint8(_GREY_FACTOR.get(decoded.depth, 1))
    if image.mode in {"I;16", "I;16B", "I"}:
        return np.asarray(image).astype(np.int32)
    raise _no_labels(path, decoded)


def _coloured(
    path: str | Path, decoded: Decoded, colour_table: Mapping[Colour, int] | None
) -> np.ndarray:
    if not colour_table or decoded.depth != 8:
        raise _no_labels(path, decoded)
    return _through_table(path, opaque(path, decoded.image), colour_table)


def _no_labels(path: str | Path, decoded: Decoded) -> DataError:
    what = f"mask of mode {decoded.image.mode} ({decoded.depth} bits)"
    fix = (
        "save masks as PNG of class indices (mode P or L), or name the colour of each class: "
        "dataset=folder 'dataset.colours=[[0,0,0],[128,0,0],...]'"
    )
    return DataError("MASK-MODE", path, f"{what}; labels cannot be read from it", fix)


def _through_values(
    path: str | Path, values: np.ndarray, table: Mapping[int, int], dtype: str
) -> np.ndarray:
    """Look every value up at once; one that the table lacks is told with its place."""
    size = 256 if values.dtype == np.uint8 else 65536
    # What the table lacks becomes a label that it does not give: one look at every pixel tells.
    used = set(table.values())
    strange = next((label for label in range(np.iinfo(dtype).max + 1) if label not in used), None)
    known, label_of = np.zeros(size, np.uint8), np.full(size, strange or 0, dtype)
    for value, label in table.items():
        if 0 <= value < size:
            known[value], label_of[value] = 1, label
    found = _look_up(label_of, values)
    if strange is not None and not (found == strange).any():
        return found
    wrong = _look_up(known, values) == 0
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        more = f" and {wrong.sum() - 1} more pixels" if wrong.sum() > 1 else ""
        what = f"label {values[y, x]} at x={x} y={y}{more} is not in the table of values"
        raise DataError("LABEL-RANGE", path, what, f"known: {', '.join(map(str, sorted(table)))}")
    return found


def _look_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    # Ten times as fast as indexing: 0.6 ms for the 2 Mpx of a Cityscapes mask.
    return cv2.LUT(values, table) if values.dtype == np.uint8 else table[values]


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
