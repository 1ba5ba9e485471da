"""``dataset.cache``: every sample decoded once, into a file or into memory (``cache_file``)."""

import fcntl
import os
import shutil
import time
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import numpy as np

from segkit.data.bars import shown, size
from segkit.data.cache_file import ALIGN, ENTRY, FIRST, Cached, Say, aligned, finish, opened, write
from segkit.data.content import lock, probes
from segkit.data.loader import Dataset, read_sample
from segkit.data.workers import Note, in_order, shared_array
from segkit.errors import DataError, EnvironmentFault
from segkit.limits import free_memory
from segkit.lock import Lock
from segkit.whole_files import faults, sync_folder


class Stopped(Exception):
    """The caller asked for the end while the cache was made."""


def in_ram(
    dataset: Dataset,
    *,
    without: Collection[int],
    workers: int,
    say: Say,
    should_stop: Callable[[], bool],
) -> Cached:
    """``dataset`` decoded into memory that forked workers share.

    Samples ``without`` are left out and cannot be read. Raises EnvironmentFault MEMORY where there
    is too little, ``Stopped``, and what reading raises.
    """
    needed, free = estimate(dataset, without), free_memory()
    say(f"dataset.cache=ram: decoding {len(dataset)} samples into about {size(needed)} of memory")
    if free is not None and needed > 0.9 * free:
        what = f"about {size(needed)} of pixels, {size(free)} of memory are free"
        raise EnvironmentFault("MEMORY", "dataset.cache", what, "type dataset.cache=disk")
    # Not bound to the size of /dev/shm, and gone with the last process that has it.
    handle = os.memfd_create("segkit-cache", os.MFD_CLOEXEC)
    try:
        table = _fill(handle, Path("memory"), dataset, without, workers, should_stop)
        return Cached(dataset, handle, table, "dataset.cache=ram")
    except BaseException:
        os.close(handle)
        raise


def on_disk(
    dataset: Dataset,
    path: Path,
    key: str,
    *,
    without: Collection[int],
    workers: int,
    say: Say,
    should_stop: Callable[[], bool],
) -> Cached:
    """``dataset`` out of the file ``path`` of the content ``key``, made if it is not there.

    It is made under another name, by one process; others wait for it and say so. Raises
    EnvironmentFault (no room, unwritable) with what to type, ``Stopped``, and what reading raises.
    """
    try:
        with faults(path, 0):
            path.parent.mkdir(parents=True, exist_ok=True)
        found = opened(dataset, path, key, say)
        if found is None:
            held = _wait_for(path, say, should_stop)
            try:
                found = opened(dataset, path, key, say)  # another one may have made it
                if found is None:
                    _make(dataset, path, key, without, workers, say, should_stop)
                    found = opened(dataset, path, key, say)
            finally:
                held.release()
    except EnvironmentFault as fault:
        if fault.name not in ("DISK-FULL", "WRITE", "NO-FOLDER"):
            raise
        fix = "type dataset.cache_dir=/a/larger/place or dataset.cache=none"
        raise EnvironmentFault(fault.name, path, fault.what, fix) from fault
    if found is None:
        raise DataError("CACHE", path, "was made and cannot be read", "look at the disk")
    return found


def estimate(dataset: Dataset, without: Collection[int] = ()) -> int:
    """Bytes of all samples decoded, judged by a few of them."""
    indices = [index for index in range(len(dataset)) if index not in without]
    seen = [read_sample(dataset, indices[place]) for place in probes(len(indices))]
    each = sum(rgb.nbytes + label.nbytes + 2 * ALIGN for rgb, label in seen) / max(1, len(seen))
    return FIRST + int(len(indices) * each) + len(dataset) * ENTRY.itemsize


def _wait_for(path: Path, say: Say, should_stop: Callable[[], bool]) -> Lock:
    """The right to make ``path``, once nobody else has it."""
    told = False
    while (held := lock(path)) is None:
        if not told:
            told = True
            say(f"{path} is being made by another process; waiting for it")
        if should_stop():
            raise Stopped
        time.sleep(0.5)
    return held


def _make(
    dataset: Dataset,
    path: Path,
    key: str,
    without: Collection[int],
    workers: int,
    say: Say,
    should_stop: Callable[[], bool],
) -> None:
    needed, free = estimate(dataset, without), shutil.disk_usage(path.parent).free
    say(
        f"dataset.cache=disk: decoding {len(dataset)} samples into {path}, about {size(needed)} "
        f"({size(free)} are free there)"
    )
    if needed > free:
        what = f"the decoded samples need about {size(needed)}, {size(free)} are free"
        raise EnvironmentFault("DISK-FULL", path, what)
    fresh = path.with_name(f".{path.name[:40]}.{key}.tmp")  # the lock's owner may replace it
    with faults(path, needed):
        fresh.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(fresh, flags, 0o666)
    try:
        table = _fill(handle, path, dataset, without, workers, should_stop)
        with faults(path, needed):
            finish(handle, key, table)
            fresh.replace(path)
            sync_folder(path.parent)
    finally:
        os.close(handle)
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _fill(
    handle: int,
    path: Path,
    dataset: Dataset,
    without: Collection[int],
    workers: int,
    should_stop: Callable[[], bool],
) -> np.ndarray:
    """Write every sample, in any order; returns the table."""
    end = shared_array((1,), np.int64)
    end[0] = FIRST
    indices = [index for index in range(len(dataset)) if index not in without]

    def work(index: int, note: Note) -> tuple[int, ...]:
        note(index)
        rgb, label = (np.ascontiguousarray(a) for a in read_sample(dataset, index))
        with faults(path, rgb.nbytes + label.nbytes):
            # A record lock belongs to a process: forked workers exclude one another.
            fcntl.lockf(handle, fcntl.LOCK_EX)
            place = int(end[0])
            end[0] = aligned(aligned(place + rgb.nbytes) + label.nbytes)
            fcntl.lockf(handle, fcntl.LOCK_UN)
            write(handle, rgb.data.cast("B"), place)
            write(handle, label.data.cast("B"), aligned(place + rgb.nbytes))
        sums = zlib.crc32(rgb.data), zlib.crc32(label.data)
        return place, *label.shape, label.itemsize, *sums

    table = np.zeros(len(dataset), ENTRY)
    results = in_order(
        indices,
        work,
        workers=workers,
        name_of=lambda index: dataset.ids[index],
        should_stop=should_stop,
    )
    count = 0
    for row in shown(results, "decoding", len(indices), "image"):
        table[indices[count]] = row
        count += 1
    if count < len(indices):
        raise Stopped
    with faults(path, 0):
        os.ftruncate(handle, int(end[0]))  # the last sample ends at a multiple of 64, too
    return table
