"""Lines of a run's ``metrics.jsonl`` for a picture, without reading all of a long one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WHOLE = 1 << 22  # bytes up to which all of a log is read
_BLOCKS, _BLOCK = 256, 1 << 14  # of a longer one: so many stretches, evenly over its length
_MOST = 1500  # lines of a curve that is drawn


def log_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Lines up to ``last_step`` in their order; [] where there is no log.

    Of a log above ``WHOLE`` bytes only stretches are read. Of more training lines than a picture
    has places for every so many are left out; lines with a validation all stay.
    """
    try:
        found = [line for line in map(_row, _stretches(path)) if line is not None]
    except OSError:
        return []
    found = [line for line in found if isinstance(line.get("step"), int)]
    found = [line for line in found if line["step"] <= last_step]
    every = max(1, -(-len(found) // _MOST))
    last = len(found) - 1
    return [
        line
        for number, line in enumerate(found)
        if number % every == 0 or number == last or "validation" in line
    ]


def _stretches(path: Path) -> Iterator[bytes]:
    """Whole lines."""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= WHOLE:
            yield from file
            return
        for number in range(_BLOCKS):
            start = (size - _BLOCK) * number // (_BLOCKS - 1)
            file.seek(start)
            lines = file.read(_BLOCK).splitlines(keepends=True)
            yield from lines[1:] if start else lines  # it begins in the middle of a line


def _row(line: bytes) -> dict[str, Any] | None:
    """A line that is whole; a log may be cut off anywhere."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
