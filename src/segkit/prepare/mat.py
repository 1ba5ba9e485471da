"""One field of a struct in a MATLAB 5 file: what SBD's masks are.

scipy reads these files too, but a damaged one can end the process (a segmentation fault, seen with
scipy 1.17), and it has no limit for what a file may expand to. The layout is in
MathWorks' "MAT-File Format".
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT = 2
_INTEGER_CLASSES = range(8, 14)  # int8, uint8 ... uint32
_INTEGERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"}  # how they are stored


class TooLargeError(Exception):
    """A compressed element expands beyond the limit."""


@dataclass(frozen=True)
class _Matrix:
    kind: int
    shape: tuple[int, ...]
    name: str
    rest: Iterator[tuple[int, memoryview]]


def integer_field(content: bytes, variable: str, field: str, limit: int) -> np.ndarray:
    """``variable.field`` as an integer array [H,W].

    Raises ``ValueError`` where it is not there, not of that form, or where the file is damaged;
    ``TooLargeError`` where an element expands to more than ``limit`` bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("not a MATLAB 5 file")
    for kind, body in _elements(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, body = next(_elements(_expanded(body, limit), order), (0, body))
        if kind == _MATRIX and (found := _matrix(body, order)).name == variable:
            return _integers(_member(found, field, order), order)
    raise ValueError(f"no variable {variable}")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of one element after the other."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("cut in an element's tag")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start = kind & 0xFFFF, min(kind >> 16, 5), place + 4
            place += 8
        else:
            place = start + size
            if kind != _COMPRESSED:
                place += -size % 8
        body = data[start : start + size]
        if len(body) < size or (start % 8 and size > 4):
            raise ValueError("cut in an element")
        yield kind, body


def _expanded(body: memoryview, limit: int) -> memoryview:
    packer = zlib.decompressobj()
    try:
        data = packer.decompress(body, limit)
    except zlib.error as error:
        raise ValueError(f"damaged ({error})") from error
    if packer.unconsumed_tail:
        raise TooLargeError
    if not packer.eof:
        raise ValueError("cut in a compressed element")
    return memoryview(data)


def _matrix(body: memoryview, order: str) -> _Matrix:
    parts = _elements(body, order)
    try:
        (_, flags), (_, sizes), (_, name) = next(parts), next(parts), next(parts)
        kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
        shape = tuple(np.frombuffer(sizes, f"{order}i4").tolist())
    except (StopIteration, struct.error) as error:
        raise ValueError("a matrix without its head") from error
    return _Matrix(kind, shape, bytes(name).decode("latin-1"), parts)


def _member(found: _Matrix, field: str, order: str) -> _Matrix:
    """The field of a struct of one element."""
    if found.kind != _STRUCT or found.shape != (1, 1):
        raise ValueError(f"{found.name} is no struct")
    (_, width), (_, names) = next(found.rest, (0, b"")), next(found.rest, (0, b""))
    length = int.from_bytes(width, "little" if order == "<" else "big")
    text = bytes(names)
    if not 0 < length <= len(text):
        raise ValueError("a struct without fields")
    listed = [text[at : at + length].rstrip(b"\0") for at in range(0, len(text), length)]
    for name, (kind, body) in zip(listed, found.rest, strict=False):
        if name == field.encode() and kind == _MATRIX:
            return _matrix(body, order)
    raise ValueError(f"no field {field}")


def _integers(found: _Matrix, order: str) -> np.ndarray:
    kind, body = next(found.rest, (0, memoryview(b"")))
    if found.kind not in _INTEGER_CLASSES or kind not in _INTEGERS:
        raise ValueError("not integers")
    if len(found.shape) != 2 or min(found.shape) < 1:
        raise ValueError(f"of shape {found.shape}, not a label map")
    values = np.frombuffer(body, f"{order}{_INTEGERS[kind]}")
    if values.size != found.shape[0] * found.shape[1]:
        raise ValueError(f"{values.size} values for {found.shape[0]}x{found.shape[1]}")
    return values.reshape(found.shape, order="F")
