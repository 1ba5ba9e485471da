"""JSON that carries a hash of itself, and tensors out of bytes: what checkpoints are read with."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from segkit.errors import CheckpointError, RefusedError
from segkit.tensor_header import check_header


def digest(data: bytes) -> str:
    """The SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def seal(document: Mapping[str, Any]) -> bytes:
    """``document`` (plain data) as readable JSON with its own hash under ``sha256``."""
    return _text({**document, "sha256": digest(_text(document))})


def unseal(data: bytes, path: Path) -> dict[str, Any]:
    """The document ``seal`` made; CheckpointError naming ``path`` if one bit of it differs."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("DAMAGED", path, f"is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CheckpointError("DAMAGED", path, "is not a JSON object")
    # Byte for byte: a bit flipped in white space would survive the parser.
    claimed = document.pop("sha256", None)
    if claimed != digest(_text(document)) or data != seal(document):
        raise CheckpointError("DAMAGED", path, "does not match its own sha256")
    return document


def _text(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def tensors_from(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in ``data``, read from ``path``.

    Raises RefusedError for a header whose claims do not fit the file, CheckpointError for a
    tensor that is not finite.
    """
    check_header(data, path)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise RefusedError(
            "SAFETENSORS", path, f"not a sound safetensors file ({error})"
        ) from error
    if broken := not_finite(tensors):
        raise CheckpointError("NON-FINITE", path, f"{broken} holds NaN or infinity")
    return tensors


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with NaN or infinity in it, or ''."""
    floating = ((name, t) for name, t in tensors.items() if t.is_floating_point())
    return next((name for name, t in floating if not bool(torch.isfinite(t).all())), "")
