"""Where weight files come from, and how they are read without running anything in them."""

import http.client
import io
import os
import pickle
import tempfile
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segkit.errors import CheckpointError, RefusedError
from segkit.models.npz import from_npz
from segkit.tensor_header import check_header

_TIMEOUT_S = 10.0  # for connecting and for every single read
_CHUNK = 1 << 20
_MAX_DOWNLOAD = 1 << 30  # the largest file of any table here is 0.2 GiB

# What training scripts call the network's state dict, beside those of optimiser and scheduler.
_WRAPPERS = ("model_state", "state_dict", "model")


class _Number:
    """Stands for a NumPy number (a best score, mostly) so that none of NumPy's code is run."""

    def __init__(self, *arguments: object) -> None:
        del arguments

    def __setstate__(self, state: object) -> None:
        del state


# NumPy 1 and 2 pickle their numbers under these names.
_NUMBERS: list[Any] = [
    (_Number, "numpy.dtype"),
    (_Number, "numpy.core.multiarray.scalar"),
    (_Number, "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True)
class WeightFile:
    """One known file. ``address`` is None where nobody publishes it as a torch file.

    ``licence`` of the weights as their source states it; ``source`` says whose they are.
    """

    name: str
    address: str | None = None
    licence: str = "not stated"
    source: str = ""

    @property
    def hash_prefix(self) -> str:
        """What its SHA-256 begins with, if its publisher writes that into the name; else "".

        Others have no checksum that any source proves: they are "unverified".
        """
        tail = Path(self.name).stem.rpartition("-")[2]
        return tail if self.address and len(tail) == 8 else ""


def folders() -> list[Path]:
    """Where known files are looked for, in order: ``$SEGKIT_WEIGHTS``, then torch's cache."""
    given = os.environ.get("SEGKIT_WEIGHTS")
    return [*([Path(given)] if given else []), _cache()]


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def find(files: tuple[WeightFile, ...], *, download: bool) -> tuple[Path, WeightFile]:
    """The first of ``files`` in ``$SEGKIT_WEIGHTS``, in torch's cache, or (``download``) fetched.

    Raises ``CheckpointError`` CKPT-WEIGHTS-MISSING, saying where it looked and what to type.
    """
    given, cache = os.environ.get("SEGKIT_WEIGHTS"), _cache()
    for folder in folders():
        for file in files:
            if (folder / file.name).is_file():
                return folder / file.name, file
    public = next((file for file in files if file.address), None)
    tried = "it has no public address"
    if public and download:
        try:
            return fetch(public, cache), public
        except (OSError, http.client.HTTPException, ValueError) as fault:
            tried = f"download from {public.address} failed: {_reason(fault)}"
    elif public:
        tried = f"its address is {public.address} (only train downloads)"
    raise CheckpointError(
        "WEIGHTS-MISSING",
        " or ".join(file.name for file in files),
        f"not found in SEGKIT_WEIGHTS ({given or 'unset'}) nor {cache}; {tried}",
        "type pretrained=/path/to/file, or pretrained=none to start from random",
    )


def fetch(file: WeightFile, folder: Path) -> Path:
    """Download ``file`` into ``folder``; under its final name it is whole and verified, or absent.

    Raises ``OSError``, ``HTTPException`` or ``ValueError`` (address or content not as promised).
    """
    address = file.address or ""
    _check_address(address)
    folder.mkdir(parents=True, exist_ok=True)
    digest = sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{file.name}.", delete=False) as part:
        try:
            with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as response:
                _check_address(response.url)  # a redirect may lead elsewhere
                while chunk := response.read(_CHUNK):
                    if part.tell() + len(chunk) > _MAX_DOWNLOAD:
                        raise ValueError(f"more than {_MAX_DOWNLOAD >> 20} MiB")
                    digest.update(chunk)
                    part.write(chunk)
            if not digest.hexdigest().startswith(file.hash_prefix):
                raise ValueError(f"sha256 {digest.hexdigest()[:8]}..., not {file.hash_prefix}...")
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(folder / file.name)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return folder / file.name


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a torch, safetensors or .npz file by name, and the file's SHA-256.

    Of a training script's checkpoint it is the network's state dict that is read.

    Raises ``RefusedError`` SAFE-PICKLE for anything but plain tensors in a pickle (it is never
    tried another way), SAFE-ARCHIVE for an archive that claims more than it holds,
    ``CheckpointError`` CKPT-WEIGHTS-MISSING or CKPT-WEIGHTS-UNREADABLE.
    """
    try:
        if not path.is_file():  # a directory, or a pipe that would block
            raise CheckpointError(
                "WEIGHTS-MISSING",
                path,
                "is not a file" if path.exists() else "no such file",
                "type pretrained=/path/to/file, or pretrained=none to start from random",
            )
        content = path.read_bytes()
    except OSError as fault:
        raise _unreadable(path, _reason(fault)) from fault
    formats = {".safetensors": _from_safetensors, ".npz": from_npz}
    loaded = formats.get(path.suffix, _from_torch)(path, content)
    return _named_tensors(path, _unwrapped(loaded)), sha256(content).hexdigest()


def _from_safetensors(path: Path, content: bytes) -> object:
    try:
        check_header(content, path)
        return safetensors.torch.load(content)
    except RefusedError as fault:  # most often a download that was cut
        raise _unreadable(path, fault.what) from fault
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as fault:
        raise _unreadable(path, _reason(fault)) from fault


def _from_torch(path: Path, content: bytes) -> object:
    if len(content) < 4:
        raise _unreadable(path, f"has {len(content)} bytes")
    if content.lstrip()[:1] in (b"<", b"\0"):  # neither begins a pickle: harmless, and common
        raise _unreadable(path, "is a web page or torn, not weights")
    _check_archive(path, content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about the file's kind; the error says it
            with torch.serialization.safe_globals(_NUMBERS):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise _refused(path) from fault
    # A damaged or forged archive surfaces as whatever its bytes trip over first.
    except Exception as fault:
        if "TorchScript" in str(fault):
            raise _refused(path) from fault
        raise _unreadable(path, f"is torn or no weight file ({_reason(fault)})") from fault


def _check_archive(path: Path, content: bytes) -> None:
    """Refuse a zip whose members claim more than the file holds: torch itself never compresses."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return  # one of the older formats, or torn: torch says which
    if claimed > len(content):
        raise RefusedError(
            "ARCHIVE",
            path,
            f"claims {claimed} bytes in a file of {len(content)}",
            "give the file as torch.save wrote it",
        )


def _unwrapped(loaded: object) -> object:
    """The state dict inside a training script's checkpoint; what stands beside it is left alone."""
    if isinstance(loaded, Mapping):
        inner = [loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if len(inner) == 1 and not any(isinstance(value, Tensor) for value in loaded.values()):
            return inner[0]
    return loaded


def _named_tensors(path: Path, loaded: object) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise _unreadable(path, f"holds a {type(loaded).__name__}, not tensors by name")
    tensors = {}
    for key, value in loaded.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            raise _unreadable(path, f"{key!r} is a {type(value).__name__}, not a tensor")
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            raise _unreadable(path, f"{key!r} is not a dense tensor")
        tensors[key.removeprefix("module.")] = value  # left there by DataParallel
    return tensors


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    loopback = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if parts.scheme != "https" and not loopback:
        raise ValueError(f"refused {parts.scheme or 'an empty'} address; https only")


def _reason(fault: BaseException) -> str:
    """The first line of what went wrong; torch and urllib write paragraphs."""
    cause = fault.reason if isinstance(fault, urllib.error.URLError) else fault
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return (str(cause).splitlines() or [""])[0][:160] or type(fault).__name__


def _unreadable(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        "WEIGHTS-UNREADABLE", path, what, "give a torch or .safetensors file of plain tensors"
    )


def _refused(path: Path) -> RefusedError:
    return RefusedError(
        "PICKLE",
        path,
        "holds more than plain tensors; opening it could run code",
        "only files that torch.load(weights_only=True) takes, or .safetensors",
    )
