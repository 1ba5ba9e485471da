"""A data set is prepared once: locked while at work, and marked by a manifest written last."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.pairs import FilePairs
from segkit.data.tree import shown
from segkit.errors import DataError, EnvironmentFault, SegkitError
from segkit.lock import Lock
from segkit.prepare.files import put, settle
from segkit.prepare.notes import Record
from segkit.prepare.progress import each
from segkit.whole_files import clean, faults

MANIFEST = "segkit-data.json"
IN_PLACE = "in place"
_FORMAT = 1
_MOST_BYTES = 1 << 24
_APART = ("train", "trainaug", "val", "test")  # no two of them share a sample

Splits = Mapping[str, FilePairs]


@dataclass(frozen=True)
class Prepared:
    """What there is now, and whether its manifest is new."""

    name: str
    folder: Path
    record: Record
    is_new: bool

    @property
    def verb(self) -> str:
        """For messages: what this call did."""
        if not self.is_new:
            return "is already prepared"
        in_place = all(source["kind"] == IN_PLACE for source in self.record["sources"])
        return "was there; counted" if in_place else "prepared"


def prepare_once(
    name: str,
    folder: Path,
    work: Path,
    splits: Callable[[], Splits],
    build: Callable[[], list[Record]],
) -> Prepared:
    """Have ``build`` make the set ``name`` in ``folder``, unless its manifest says it is there.

    ``build`` may leave finished parts in ``work``, which goes when all is done, and returns what is
    known of the sources. Nobody else works there meanwhile. Raises what ``build`` raises,
    ``DataError`` for unreadable masks, ``EnvironmentFault`` where another process is at it.
    """
    record = _recorded(name, folder, splits)
    if record is not None and not work.exists() and not _lock_file(work).exists():
        return Prepared(name, folder, record, is_new=False)
    with _locked(work):
        record = _recorded(name, folder, splits)  # by whoever held the lock before
        is_new = record is None
        if record is None:
            sources = build()
            record = _survey(splits(), sources)
            settle()
            _write(name, folder, record, work)
        shutil.rmtree(work, ignore_errors=True)
    return Prepared(name, folder, record, is_new)


def expect(where: Path, kind: str, found: int, expected: int) -> None:
    """``DataError`` DATA-COUNT with both counts unless they are equal; ``kind`` is what counts."""
    if found != expected:
        fix = "the set is not whole, or not the official one"
        raise DataError("COUNT", where, f"found {found} {kind}, expected {expected}", fix)


def expect_counts(folder: Path, splits: Splits, expected: Mapping[str, int]) -> None:
    """``DataError`` for a split that has not its official number of samples (DATA-COUNT), where one
    is known, and for two that share a sample (DATA-LEAK)."""
    for split, pairs in splits.items():
        where = folder / pairs.layout.list_file
        expect(where, f"samples of {split}", len(pairs), expected.get(split, len(pairs)))
    for one, other in combinations([split for split in _APART if split in splits], 2):
        shared = sorted(set(splits[one].ids.tolist()) & set(splits[other].ids.tolist()))
        if shared:
            where = folder / splits[other].layout.list_file
            what = f"{len(shared)} samples of {other} are in {one} too: {shown(shared)}"
            raise DataError("LEAK", where, what, "get the owner's lists again")


def in_place(folder: Path) -> Record:
    """The source of what nobody but the user has put there."""
    return {"name": folder.name, "kind": IN_PLACE}


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """``work`` is there and this process's own; what a killed one left half-made is not."""
    with faults(work, 0):
        work.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(_lock_file(work))
    try:
        with faults(work, 0):
            work.mkdir(exist_ok=True)
        clean(work)
        yield
    finally:
        with suppress(OSError):
            work.rmdir()  # where nothing was begun
        with suppress(OSError):
            lock.path.unlink()
        lock.release()


def _lock_file(work: Path) -> Path:
    return work.with_name(f"{work.name}.lock")


def _lock(path: Path) -> Lock:
    """The lock at ``path``, which its last owner has removed while holding it."""
    while True:
        lock = Lock(path, "DATA-LOCKED", "wait for it, or choose another root=")
        try:
            lock.check()
        except EnvironmentFault:  # opened before it was removed
            lock.release()
        else:
            return lock


def _recorded(name: str, folder: Path, splits: Callable[[], Splits]) -> Record | None:
    """What the manifest says of ``name``, if all of it is still so as far as names tell."""
    record = _manifest(folder).get(name)
    if record is None:
        return None
    try:
        now = {split: _identity(pairs) for split, pairs in splits().items()}
        told = record["splits"]
        then = {s: {key: facts[key] for key in now[s]} for s, facts in told.items()}
        sound = all(_are_counts(facts.get("pixels", {})) for facts in told.values())
        sound = sound and _are_sources(record["sources"])
    except (SegkitError, KeyError, TypeError, AttributeError):  # not whole, or another version's
        return None
    return record if sound and now == then else None


def _are_counts(pixels: Any) -> bool:
    """Whether this is a table of counts, as ``_survey`` writes them."""
    return isinstance(pixels, dict) and all(type(n) is int and n >= 0 for n in pixels.values())


def _are_sources(sources: Any) -> bool:
    """Whether these are records, at least one, as ``build`` returns them."""
    return (
        isinstance(sources, list)
        and bool(sources)
        and all(isinstance(source, dict) for source in sources)
        and all(isinstance(source.get(key), str) for source in sources for key in ("name", "kind"))
    )


def _manifest(folder: Path) -> dict[str, Record]:
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            written = json.loads(file.read(_MOST_BYTES))
        sets = written["sets"] if written["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return sets if isinstance(sets, dict) else {}


def _write(name: str, folder: Path, record: Record, work: Path) -> None:
    sets = {**_manifest(folder), name: record}
    text = json.dumps({"format": _FORMAT, "sets": sets}, indent=2)
    put(folder / MANIFEST, text.encode() + b"\n", work)


def _identity(pairs: FilePairs) -> Record:
    listed = "".join(f"{name}\n" for name in pairs.ids.tolist())
    return {"samples": len(pairs), "list_sha256": sha256(listed.encode()).hexdigest()}


def _survey(splits: Splits, sources: list[Record]) -> Record:
    """Decode every mask once: counts of samples and, by class, of pixels."""
    jobs = {
        pairs.mask_path(index): (pairs, index)
        for pairs in splits.values()
        if getattr(pairs, "has_labels", True)
        for index in range(len(pairs))
    }
    counted = each("count pixels", list(jobs.values()), lambda job: _histogram(*job), "mask")
    pixels = dict(zip(jobs, counted, strict=True))
    facts = {}
    for split, pairs in splits.items():
        facts[split] = _identity(pairs)
        if getattr(pairs, "has_labels", True):
            total = sum(pixels[pairs.mask_path(index)] for index in range(len(pairs)))
            names = (*pairs.labels.names, "(ignored)")
            facts[split]["pixels"] = dict(zip(names, np.asarray(total).tolist(), strict=True))
    versions = {name: version(name) for name in ("segkit", "numpy", "pillow")}
    return {"splits": facts, "sources": sources, "versions": versions}


def _histogram(pairs: FilePairs, index: int) -> np.ndarray:
    """Pixels of every class, the ignored ones last."""
    labels = pairs.read_label(index)
    classes = pairs.labels.num_classes
    counts = np.bincount(labels.ravel(), minlength=pairs.labels.ignore_label + 1)
    return np.append(counts[:classes], counts[pairs.labels.ignore_label])
