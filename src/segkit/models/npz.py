"""NumPy's ``.npz``, read without unpickling and without believing what a header claims."""

import io
import warnings
import zipfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segkit.errors import CheckpointError, RefusedError, SegkitError

_SUFFIX = ".npy"


def from_npz(path: Path, content: bytes) -> dict[str, Tensor]:
    """The arrays of numbers in ``content`` by name; ``path`` is for the errors only.

    Raises ``RefusedError`` SAFE-ARCHIVE for members that claim more than the file holds (NumPy
    allocates before it reads), SAFE-PICKLE for arrays of objects, and ``CheckpointError``
    CKPT-WEIGHTS-UNREADABLE.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's remarks about old files
            members = archive.infolist()
            if sum(member.file_size for member in members) > len(content):
                raise _archive(path, "its members claim more bytes than the file has")
            return {
                member.filename.removesuffix(_SUFFIX): _tensor(path, archive, member)
                for member in members
            }
    except SegkitError:
        raise
    # A damaged or forged file surfaces as whatever its bytes trip over first.
    except Exception as fault:
        reason = (str(fault).splitlines() or [""])[0][:160]
        raise _unreadable(path, f"is torn or no .npz ({reason})") from fault


def _tensor(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    content = io.BytesIO(archive.read(member))
    if not member.filename.endswith(_SUFFIX):
        raise _unreadable(path, f"{member.filename!r} is no array")
    version = np.lib.format.read_magic(content)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if header is None:
        raise _unreadable(path, f"{member.filename!r} has format {version}")
    shape, _, dtype = header(content)
    if dtype.hasobject:
        raise RefusedError(
            "PICKLE",
            path,
            f"{member.filename!r} holds Python objects; opening it could run code",
            "only arrays of numbers",
        )
    if dtype.kind not in "fiu":
        raise _unreadable(path, f"{member.filename!r} is an array of {dtype}, not of numbers")
    claimed = prod(shape) * dtype.itemsize  # in Python's integers, which do not overflow
    if min(shape, default=0) < 0 or claimed > member.file_size:
        raise _archive(path, f"{member.filename!r} claims {claimed} bytes")
    content.seek(0)
    array = np.lib.format.read_array(content, allow_pickle=False)
    return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))


def _archive(path: Path, what: str) -> RefusedError:
    return RefusedError("ARCHIVE", path, what, "give the file as np.savez (uncompressed) wrote it")


def _unreadable(path: Path, what: str) -> CheckpointError:
    return CheckpointError("WEIGHTS-UNREADABLE", path, what, "give an .npz of arrays of numbers")
