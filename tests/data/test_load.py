"""Row L1: many files in little time, and memory that stays flat over the epochs."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, png, random_rgb

from segkit.data.labels import label_set
from segkit.data.loader import train_batches
from segkit.data.pairs import FilePairs, Layout
from segkit.data.transforms import TrainTransform

LABELS = label_set("tiny", ["a", "b", "c"])
LAYOUT = Layout("tiny", "", "images", "masks", "list.txt")
WORKERS, BATCH = 2, 100


class Named(FilePairs):
    """Its files are looked up and not decoded: many names are to be gone through in little time."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.image_path(index).exists()
        assert self.mask_path(index).exists()
        return np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)


def many(root: Path, count: int) -> Path:
    """``count`` pairs of 8×8 pixels. Links of few pictures, as only the names are many."""
    for folder, ending, content in (
        ("images", "jpg", jpeg(random_rgb(8, 8))),
        ("masks", "png", png(np.eye(8, dtype=np.uint8))),
    ):
        (root / folder).mkdir()
        for number in range(count):
            path = root / folder / f"sample-{number:08d}.{ending}"
            if number % 10_000 == 0:
                first = path
                first.write_bytes(content)
            else:
                os.link(first, path)
    (root / "list.txt").write_text("".join(f"sample-{number:08d}\n" for number in range(count)))
    return root


def private(pid: int) -> int:
    """Bytes that are this process's own: what a leak, or a copy of the list of names, adds to."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kept = [line.split() for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))]
    return 1024 * sum(int(size) for _, size, _ in kept)


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def growth_per_epoch(dataset: FilePairs, began: float, passes: int) -> np.ndarray:
    """Bytes that each worker gained from one pass to the next [passes, W].

    Not this process: what other tests left in it counts as its own or as shared by turns.
    """
    size, before = len(dataset) // BATCH, set(children())
    stream = train_batches(
        dataset,
        TrainTransform(9),
        seed=0,
        stage=0,
        batch=BATCH,
        first_step=0,
        last_step=passes * size + 1,
        workers=WORKERS,
    )
    next(stream)
    assert time.monotonic() - began < 5, "the first batch"
    processes = sorted(set(children()) - before)
    assert len(processes) == WORKERS
    seen = [[private(pid) for pid in processes]]
    for step, _ in enumerate(stream, start=1):
        if step % size == 0:
            seen.append([private(pid) for pid in processes])
    assert len(seen) == 1 + passes
    return np.diff(np.array(seen), axis=0)


def test_row_l1_memory_is_flat_over_epochs(tmp_path: Path) -> None:
    root = many(tmp_path, 10_000)
    began = time.monotonic()
    growth = growth_per_epoch(Named(root, LAYOUT, LABELS), began, passes=3)
    assert growth.max() < 20e6, growth


@pytest.mark.slow
def test_row_l1_100_000_files_are_read(tmp_path: Path) -> None:
    """With decoding; the first batch comes within the five seconds, too."""
    root = many(tmp_path, 100_000)
    began = time.monotonic()
    growth = growth_per_epoch(FilePairs(root, LAYOUT, LABELS), began, passes=1)
    assert growth.max() < 20e6, growth
