"""Label maps as PNG of palette indices, written by many threads at once.

Pillow holds the interpreter's lock while it encodes a PNG; zlib does not.
"""

import struct
import zlib

import numpy as np

from segkit.data.labels import Colour, LabelSet

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE_OF_INDICES = 3  # the colour type
# VOC's own colour for pixels that do not count, and what stands for it where a class has that one.
_VOID = (224, 224, 192)
_OTHER_VOIDS = [(224, 224, blue) for blue in range(256)]


def index_png(labels: np.ndarray, label_set: LabelSet) -> bytes:
    """The bytes of an 8-bit palette PNG; ``labels`` are uint8 [H,W] of a set of at most 255."""
    height, width = labels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # a row begins with its filter: none
    rows[:, 1:] = labels
    palette = np.zeros((256, 3), np.uint8)
    palette[: label_set.num_classes] = label_set.colours
    palette[label_set.ignore_label] = _void_colour(label_set)
    header = struct.pack(">IIBBBBB", width, height, 8, _PALETTE_OF_INDICES, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


def _void_colour(label_set: LabelSet) -> Colour:
    return next(c for c in (_VOID, *_OTHER_VOIDS) if c not in label_set.colours)


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
