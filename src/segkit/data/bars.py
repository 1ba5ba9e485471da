"""A bar for work that takes minutes; where stderr is no terminal, a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Result = TypeVar("Result")

_LINE_EVERY_S = 30.0


def shown(results: Iterable[Result], doing: str, total: int, unit: str) -> Iterator[Result]:
    """The results, each counted as it comes."""
    if sys.stderr.isatty():
        yield from tqdm(results, doing, total, unit=unit, dynamic_ncols=True, leave=False)
        return
    said = time.monotonic()
    for done, result in enumerate(results):
        if time.monotonic() - said >= _LINE_EVERY_S:
            said = time.monotonic()
            print(f"{doing}: {done} of {total}", file=sys.stderr, flush=True)
        yield result


def size(count: float) -> str:
    """``1.9 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
