"""A bar for work that takes minutes; where stderr is no terminal, a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_LINE_EVERY_S = 30.0

Item = TypeVar("Item")


@contextmanager
def bar(
    label: str, total: int | None, unit: str, done: int = 0, *, leave: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yields what is called with each amount done; ``unit`` is ``B`` for bytes.

    A finished bar stays on the screen with ``leave``.
    """
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
        leave=leave,
    ) as shown:

        def advance(amount: int) -> None:
            shown.update(amount)

        yield advance


def shown(results: Iterable[Item], doing: str, total: int, unit: str) -> Iterator[Item]:
    """The results, each counted as it comes, under a bar that goes when they end."""
    with bar(doing, total, unit, leave=False) as advance:
        yield from counted(results, advance)


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
