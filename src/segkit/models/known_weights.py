"""The SHA-256 that a weight file had at first use, where no source proves what it should be.

One small file for all runs of a user, ``$XDG_CACHE_HOME/segkit/known-weights.json`` (without the
variable in ``~/.cache``): ``{file name: sha256}``.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from segkit.errors import EnvironmentFault
from segkit.whole_files import write_whole


def record() -> Path:
    """Where the record is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(cache).expanduser() / "segkit/known-weights.json"
    except RuntimeError:  # nobody's home
        return Path(cache) / "segkit/known-weights.json"


def known() -> dict[str, str]:
    """SHA-256 by file name; empty without a record.

    Raises ``EnvironmentFault`` ENV-RECORD for one that cannot be read.
    """
    try:
        found = json.loads(record().read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:
        raise _unreadable() from fault
    if not isinstance(found, Mapping) or not all(isinstance(v, str) for v in found.values()):
        raise _unreadable()
    return dict(found)


def remember(name: str, digest: str) -> None:
    """``digest`` is what ``name`` has from now on; the record is replaced whole.

    Raises ``EnvironmentFault`` where it cannot be read or written.
    """
    place = record()
    text = json.dumps(known() | {name: digest}, indent=1, sort_keys=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFault("WRITE", place.parent, f"no folder ({fault.strerror})") from fault
    write_whole(place, f"{text}\n".encode())


def compare(name: str, digest: str) -> str:
    """Record ``digest`` at first use; what to tell the user, if anything.

    A file that has changed is used all the same: nothing proves which content was the right one.
    """
    try:
        before = known().get(name)
        if before is None:
            remember(name, digest)
    except EnvironmentFault as fault:
        return f"{name} stays unverified, its SHA-256 is not recorded: {fault}"
    if before in (None, digest):
        return ""
    return (
        f"{name} has changed: sha256 {digest[:16]}..., at first use it was {before[:16]}... "
        f"({record()}); to accept it type segkit model weights accept={name}"
    )


def _unreadable() -> EnvironmentFault:
    return EnvironmentFault("RECORD", record(), "is no record of SHA-256 by name", "remove it")
