"""The header of a safetensors file, judged before anything is made of it.

A leaf: checkpoints and foreign weights come through the same few lines.
"""

import json
from pathlib import Path
from typing import Any

from segkit.errors import RefusedError

# A network of a thousand tensors has a header of about 100 kB. Every further megabyte costs a
# second: the library copies each name and shape many times.
_LIMIT = 1 << 20


def check_header(data: bytes, path: Path) -> None:
    """Raise RefusedError in the name of ``path`` for a header whose claims cannot be true.

    What the header says of single tensors is left to the library: it checks dtype x shape against
    the offsets, and that these cover the file without gap or overlap.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_LIMIT, len(data) - 8):
        what = f"claims a header of {size} bytes in a file of {len(data)}"
        raise RefusedError("SAFETENSORS", path, what, f"at most {_LIMIT}")
    try:
        json.loads(data[8 : 8 + size], object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise RefusedError("SAFETENSORS", path, f"has no sound header ({error})") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return found
