"""A bar for work that takes minutes; where stderr is no terminal, a line now and then."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_LINE_EVERY_S = 30.0
_MOST_THREADS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def bar(label: str, total: int | None, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields what is called with each amount done; ``unit`` is ``B`` for bytes."""
    if not sys.stderr.isatty():
        yield _lines(label, total, unit, done)
        return
    is_bytes = unit == "B"
    with tqdm(
        desc=label,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=is_bytes,
        unit_divisor=1024 if is_bytes else 1000,
        dynamic_ncols=True,
    ) as shown:

        def advance(amount: int) -> None:
            shown.update(amount)

        yield advance


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


def counted(items: Iterable[Item], advance: Callable[[int], None]) -> Iterator[Item]:
    """The items, each counted when the next is asked for."""
    for item in items:
        yield item
        advance(1)


def size(count: float) -> str:
    """``1.9 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def _lines(label: str, total: int | None, unit: str, done: int) -> Callable[[int], None]:
    said = time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, said
        done += amount
        if time.monotonic() - said >= _LINE_EVERY_S:
            said = time.monotonic()
            written = size if unit == "B" else "{:.0f}".format
            of = f" of {written(total)}" if total else ""
            print(f"{label}: {written(done)}{of}", file=sys.stderr, flush=True)

    return advance
