"""A unit is a folder on its way to its final name; what it is made of is noted beside it.

A note counts only where its unit went: a folder that the user put there himself is "in place",
whatever an earlier call had begun.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segkit.errors import DataError, RefusedError, SegkitError
from segkit.prepare.files import put, settle
from segkit.whole_files import faults

Record = dict[str, Any]


def note(unit: Path, record: Record, source: Path) -> None:
    """Remember what ``unit`` is made of, before it is there; ``source`` is where that lies."""
    put(_note(unit), json.dumps({"record": record, "source": str(source)}).encode())


def noted(unit: Path) -> Record | None:
    """What was noted of ``unit``, which is there."""
    path = _note(unit)
    return dict(json.loads(path.read_bytes())["record"]) if path.is_file() else None


def forget(unit: Path) -> None:
    """The unit is not made, or gone."""
    _note(unit).unlink(missing_ok=True)


def move(unit: Path, folder: Path, record: Record) -> None:
    """Give a finished unit, made of ``record``, its final name."""
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        fix = "move it away (and give it as from=PATH), or choose another root="
        raise DataError("IN-THE-WAY", folder, "is there, but is no whole set", fix)
    settle()
    with faults(folder, 0):
        folder.parent.mkdir(parents=True, exist_ok=True)
        put(_mark(unit), json.dumps({"record": record, "inode": unit.stat().st_ino}).encode())
        unit.rename(folder)


def moved(unit: Path, folder: Path) -> Record | None:
    """What ``folder`` is made of, where it is the unit that ``move`` gave this name."""
    path = _mark(unit)
    if unit.exists() or not path.is_file():
        return None
    facts = json.loads(path.read_bytes())
    return dict(facts["record"]) if facts["inode"] == folder.stat().st_ino else None


@contextmanager
def whole_or_gone(*units: Path) -> Iterator[None]:
    """What proves to be no whole set is not kept for the next call, which may have a better one.

    Its fault is told of the source: the unit is gone by then.
    """
    try:
        yield
    except (DataError, RefusedError) as error:
        told = _of_source(error, units)
        for unit in units:
            forget(unit)
            shutil.rmtree(unit, ignore_errors=True)
        raise told from error


def _of_source(error: SegkitError, units: tuple[Path, ...]) -> SegkitError:
    for unit in units:
        if Path(error.where).is_relative_to(unit) and _note(unit).is_file():
            source = Path(json.loads(_note(unit).read_bytes())["source"])
            inner = Path(error.where).relative_to(unit)
            where = source / inner if source.is_dir() else f"{source}: {inner}"
            return type(error)(error.name, where, error.what, error.fix)
    return error


def _note(unit: Path) -> Path:
    return unit.with_name(f"{unit.name}.json")


def _mark(unit: Path) -> Path:
    return unit.with_name(f"{unit.name}.moved.json")
