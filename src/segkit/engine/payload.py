"""Tensors as a safetensors file, written from where they lie: no second copy of them in memory.

The bytes are those that the library's own ``save`` makes of contiguous copies (a test holds that).
It is not used for writing because it needs such copies, and room for the whole file besides.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segkit.errors import NumericsError
from segkit.whole_files import write_parts

PART = 1 << 20
"""Bytes that are looked at, hashed and written at a time: they stay in the processor's cache."""

# In the order in which the format's library lays tensors out: wide ones first, so that each is
# aligned. Of floats, the bits of the exponent: all of them are set in infinities and NaN alone.
_KINDS: dict[torch.dtype, tuple[str, torch.dtype, int]] = {
    torch.int64: ("I64", torch.int64, 0),
    torch.float64: ("F64", torch.int64, 0x7FF0000000000000),
    torch.float32: ("F32", torch.int32, 0x7F800000),
    torch.int32: ("I32", torch.int32, 0),
    torch.bfloat16: ("BF16", torch.int16, 0x7F80),
    torch.float16: ("F16", torch.int16, 0x7C00),
    torch.int16: ("I16", torch.int16, 0),
    torch.int8: ("I8", torch.int8, 0),
    torch.uint8: ("U8", torch.uint8, 0),
    torch.bool: ("BOOL", torch.uint8, 0),
}
_RANK = {dtype: number for number, dtype in enumerate(_KINDS)}


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file of ``tensors``."""
    return len(_header(tensors)) + sum(tensor.nbytes for tensor in tensors.values())


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Create ``path`` with ``tensors`` (of any device and layout) and wait for the disk; returns
    the SHA-256 of what was written.

    Raises NumericsError for a tensor that is not finite, OSError when the disk does; what was
    written up to there stays.
    """
    return write_hashed(path, _parts(tensors))


def write_hashed(path: Path, parts: Iterable[memoryview]) -> str:
    """Create ``path`` of ``parts`` and wait for the disk; returns the SHA-256 of them."""
    found = hashlib.sha256()

    def seen() -> Iterator[memoryview]:
        for part in parts:
            found.update(part)
            yield part

    write_parts(path, seen())
    return found.hexdigest()


def hash_of(path: Path) -> str:
    """The SHA-256 of the file ``path``, read part by part."""
    found, room = hashlib.sha256(), memoryview(bytearray(PART))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(room):
            found.update(room[:count])
    return found.hexdigest()


def plain(tensor: Tensor) -> np.ndarray:
    """The memory of ``tensor``, on the CPU, as whole numbers of its width: NumPy knows no bf16."""
    values: np.ndarray = tensor.detach().view(_KINDS[tensor.dtype][1]).numpy()
    return values


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: (_RANK[item[1].dtype], item[0]))


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    said, end = {}, 0
    for name, tensor in _ordered(tensors):
        begin, end = end, end + tensor.nbytes
        kind, shape = _KINDS[tensor.dtype][0], list(tensor.shape)
        said[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(math.ceil(len(text) / 8) * 8)
    return len(text).to_bytes(8, "little") + text


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of the file, in pieces of at most ``PART``."""
    yield memoryview(_header(tensors))
    for name, tensor in _ordered(tensors):
        # NumPy from here on: torch would start a second set of threads for the thread that saves,
        # and both sets would then wait less patiently for their own.
        values = np.ascontiguousarray(plain(tensor.cpu())).reshape(-1)
        exponent = _KINDS[tensor.dtype][2]
        step = PART // values.itemsize
        for start in range(0, values.size, step):
            part = values[start : start + step]
            if exponent and bool(((part & exponent) == exponent).any()):
                raise NumericsError("NON-FINITE", name, "holds NaN or infinity; it is not saved")
            yield part.view(np.uint8).data
