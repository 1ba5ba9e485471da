"""Decoded samples in a file or in memory: the same pixels, whole or absent."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import png, random_rgb, write

from segkit.data import cache
from segkit.data.bars import size
from segkit.data.cache import Stopped, estimate, in_ram, on_disk
from segkit.data.cache_file import Cached
from segkit.data.content import cache_folder, content_key
from segkit.data.folder import Folder
from segkit.data.labels import label_set
from segkit.data.shapes import Shapes
from segkit.errors import DataError, EnvironmentFault

KEY = "0123456789abcdef" * 2


class Sizes:
    """Samples of very different sizes, with labels of two bytes."""

    labels = label_set("sizes", [f"c{i}" for i in range(300)])
    shapes = ((1, 1), (300, 7), (2, 500), (64, 64), (129, 33), (40, 41), (3, 3))
    ids = np.array([f"s{i}" for i in range(len(shapes))])

    def __len__(self) -> int:
        return len(self.shapes)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(index)
        shape = self.shapes[index]
        label = rng.integers(0, 300, shape, dtype=np.uint16)
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8), label


def options(**changes: object) -> dict:
    plain = {"without": (), "workers": 0, "say": lambda _: None, "should_stop": lambda: False}
    return {**plain, **changes}


def same(one, two) -> bool:
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for index in range(len(two))
        for a, b in zip(one.read(index), two.read(index), strict=True)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Six photos and masks of a user's own."""
    for number in range(6):
        shape = (20 + number, 30)
        mask = np.random.default_rng(number).integers(0, 3, shape, dtype=np.uint8)
        for kind, pixels in (("images", random_rgb(*shape, number)), ("masks", mask)):
            (tmp_path / "own" / kind).mkdir(parents=True, exist_ok=True)
            write(tmp_path / "own" / kind / f"{number}.png", png(pixels))
    return Folder(tmp_path / "own", split="all", classes=["a", "b", "c"])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("dataset", [Shapes(size=(40, 33), count=9), Sizes()], ids=["u8", "u16"])
def test_the_pixels_are_the_data_sets_own(tmp_path: Path, dataset, workers: int) -> None:
    ram = in_ram(dataset, **options(workers=workers))
    disk = on_disk(dataset, tmp_path / "a/b/c.cache", KEY, **options(workers=workers))
    for made in (ram, disk):
        assert len(made) == len(dataset)
        assert list(made.ids) == list(dataset.ids)
        assert made.labels is dataset.labels
        assert same(made, dataset)
        assert not made.read(0)[0].flags.writeable


def test_it_is_made_once(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "c.cache"
    on_disk(Sizes(), path, KEY, **options(say=said.append))
    assert any(
        "decoding 7 samples" in line and str(path) in line and "free" in line for line in said
    )
    status, said[:] = path.stat(), []
    again = on_disk(Sizes(), path, KEY, **options(say=said.append))
    assert same(again, Sizes())
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert len(said) == 1, "which file is read, and how large it is"
    assert size(status.st_size) in said[0]
    assert names(tmp_path) == ["c.cache", "c.cache.lock"]


def test_the_size_announced_is_about_the_size_that_comes(tmp_path: Path) -> None:
    path, dataset = tmp_path / "c.cache", Shapes(size=65, count=50)
    on_disk(dataset, path, KEY, **options())
    assert abs(estimate(dataset) / path.stat().st_size - 1) < 0.02


@pytest.mark.parametrize("place", ["header", "table", "end", "empty", "other key"])
def test_a_damaged_file_is_made_again(tmp_path: Path, place: str) -> None:
    path, dataset, said = tmp_path / "c.cache", Sizes(), []
    on_disk(dataset, path, KEY, **options())
    content = bytearray(path.read_bytes())
    if place == "header":
        content[60] ^= 1
    elif place == "table":
        content[-30] ^= 1
    elif place == "other key":
        content[20] ^= 1
    path.write_bytes({"end": content[:-100], "empty": b""}.get(place, content))
    assert same(on_disk(dataset, path, KEY, **options(say=said.append)), dataset)
    assert "damaged" in said[0]


def test_a_flipped_pixel_is_noticed_at_its_first_reading(tmp_path: Path) -> None:
    path, dataset = tmp_path / "c.cache", Sizes()
    on_disk(dataset, path, KEY, **options())
    content = bytearray(path.read_bytes())
    content[4096 + 64 + 64 + 10] ^= 1  # after the only pixel and label of the first sample
    path.write_bytes(content)
    made = on_disk(dataset, path, KEY, **options())
    made.read(0)
    with pytest.raises(DataError, match=r"c\.cache: sample s1 .* remove the file"):
        made.read(1)


def test_a_full_disk_is_told_with_the_way_out(tmp_path: Path, monkeypatch) -> None:
    """Before a byte is written, and in the middle; nothing is left behind."""
    path = tmp_path / "c.cache"
    usage = SimpleNamespace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(
            EnvironmentFault, match=r"dataset\.cache_dir=.* dataset\.cache=none"
        ) as e:
            on_disk(Sizes(), path, KEY, **options())
    assert e.value.name == "DISK-FULL"

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for workers in (0, 2):
        with pytest.raises(EnvironmentFault, match=r"dataset\.cache_dir=") as e:
            on_disk(Sizes(), path, KEY, **options(workers=workers))
        assert e.value.name == "DISK-FULL"
    assert names(tmp_path) == ["c.cache.lock"]


def test_too_little_memory_is_told_before(monkeypatch) -> None:
    monkeypatch.setattr(cache, "free_memory", lambda: 10_000)
    with pytest.raises(EnvironmentFault, match=r"dataset\.cache=disk"):
        in_ram(Sizes(), **options())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"dataset\.cache_dir="):
        on_disk(Sizes(), tmp_path / "file/c.cache", KEY, **options())


def test_a_stop_leaves_nothing(tmp_path: Path) -> None:
    asked = iter([False, False, True, True, True])
    with pytest.raises(Stopped):
        on_disk(Sizes(), tmp_path / "c", KEY, **options(should_stop=lambda: next(asked)))
    assert names(tmp_path) == ["c.lock"]


def test_an_unreadable_sample_is_named(tmp_path: Path) -> None:
    class Broken(Sizes):
        def read(self, index: int):
            if index == 4:
                raise DataError("UNREADABLE", "four.png", "damaged picture")
            return super().read(index)

    for workers in (0, 2):
        with pytest.raises(DataError, match=r"four\.png"):
            on_disk(Broken(), tmp_path / "c", KEY, **options(workers=workers))
    made = on_disk(Broken(), tmp_path / "c", KEY, **options(without=[4]))
    assert np.array_equal(made.read(5)[0], Sizes().read(5)[0])
    with pytest.raises(DataError):
        made.read(4)


class Slow(Sizes):
    def read(self, index: int):
        time.sleep(0.15)
        return super().read(index)


def _build(path: Path, said: "multiprocessing.Queue[str]") -> None:
    made = on_disk(Slow(), path, KEY, **options(say=said.put))
    said.put(f"equal {same(made, Sizes())}")


def test_two_builders_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    both = [context.Process(target=_build, args=(tmp_path / "c", said)) for _ in range(2)]
    for process in both:
        process.start()
    lines = []
    while sum(line.startswith("equal") for line in lines) < 2:
        lines.append(said.get(timeout=20))
    for process in both:
        process.join(5)
    assert lines.count("equal True") == 2
    assert sum("decoding" in line for line in lines) == 1
    assert sum("another process; waiting" in line for line in lines) == 1


def test_a_killed_builder_leaves_nothing_that_is_taken_for_a_cache(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import test_cache as t; from pathlib import "
        "Path; t.on_disk(t.Slow(), Path(sys.argv[1]), t.KEY, **t.options(workers=2))"
    )
    here = str(Path(__file__).parent)
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "c", here])
    while not list(tmp_path.glob(".*.tmp")):
        assert child.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    child.kill()
    child.wait()
    assert not (tmp_path / "c").exists()
    assert same(on_disk(Sizes(), tmp_path / "c", KEY, **options()), Sizes())
    assert not list(tmp_path.glob(".*.tmp"))


def test_another_content_is_another_key(folder: Folder, tmp_path: Path) -> None:
    before = content_key(folder, "")
    assert before == content_key(Folder(folder.root, split="all", classes=["a", "b", "c"]), "")
    assert before != content_key(folder, "other arguments")
    assert before != content_key(Folder(folder.root, split="all", classes=["a", "b", "d"]), "")
    moved = shutil.copytree(folder.root, tmp_path / "moved")  # keeps the times
    assert before == content_key(Folder(moved, split="all", classes=["a", "b", "c"]), "")
    mask = folder.mask_path(2)
    content, status = mask.read_bytes(), mask.stat()
    mask.write_bytes(content)
    assert before != content_key(folder, ""), "written anew"
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert before == content_key(folder, "")
    mask.unlink()
    with pytest.raises(DataError, match=r"2\.png"):
        content_key(folder, "")


def test_what_has_no_files_is_known_by_its_pixels() -> None:
    one, same, other = (Shapes(size=33, count=5, seed=seed) for seed in (0, 0, 1))
    assert content_key(one, "") == content_key(same, "") != content_key(other, "")


def test_where_caches_lie(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder(None) == tmp_path / "x/segkit"
    assert cache_folder("~/big") == tmp_path / "big"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == tmp_path / ".cache/segkit"


def test_a_sample_stays_out_of_memory_but_for_what_is_read(tmp_path: Path) -> None:
    class Large(Sizes):
        shapes = ((3000, 4000),)
        ids = np.array(["large"])

    path = tmp_path / "c.cache"
    made = on_disk(Large(), path, KEY, **options())
    rgb, label = made.read(0)  # verified, too
    assert _resident(path) < 2e6
    assert rgb[1000:1010].sum() > 0
    assert label.shape == (3000, 4000)
    assert _resident(path) < 4e6
    assert isinstance(made, Cached)


def _resident(path: Path) -> int:
    text = Path("/proc/self/smaps").read_text()
    entry = text[text.index(str(path)) :]
    return int(entry[entry.index("Rss:") + 4 :].split()[0]) * 1024
