"""Work on many files at once, under a bar."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from segkit.data.bars import bar

_MOST_THREADS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    label: str, items: Sequence[Item], work: Callable[[Item], Result], unit: str = "file"
) -> list[Result]:
    """``work`` on every item, in threads, with a bar; the results in the items' order.

    Threads, for decoders, encoders and zlib release the interpreter's lock, and no process can be
    left behind by a kill. The first exception ends it, with no further item begun.
    """
    own = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if own else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(_MOST_THREADS, cores))
    try:
        futures = [pool.submit(work, item) for item in items]
        with bar(label, len(items), unit) as advance:
            for future in as_completed(futures):
                future.result()
                advance(1)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
