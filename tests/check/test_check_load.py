"""Row L1: many pairs in little time and memory, and an end that leaves nobody behind."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, png
from small_folders import SmallFolder, checked

from segkit.check.scan import scan
from segkit.data.folder import Folder
from segkit.errors import ExitCode

PAIRS = 10_000


def many(root: Path, count: int, side: int) -> Path:
    """``count`` pairs of noise, no two of them equal."""
    folder = SmallFolder(root).fill("")
    rng = np.random.default_rng(0)
    for number in range(count):
        folder.image(f"{number:05d}", jpeg(rng.integers(0, 256, (side, side, 3), np.uint8)))
        folder.mask(f"{number:05d}", png(rng.integers(0, 3, (side, side), np.uint8)))
    return root


def test_parallel_and_here_give_the_same(tmp_path: Path) -> None:
    data = Folder(many(tmp_path, 60, 8), "all")
    here, beside = (scan("all", data, workers) for workers in (0, 3))
    for name in ("digests", "mask_digests", "looks", "sizes", "pixels", "images", "present"):
        assert np.array_equal(getattr(here, name), getattr(beside, name)), name
    assert here.total == beside.total == 60 * 64
    assert here.colour_sums.tolist() == beside.colour_sums.tolist()


def test_a_scan_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    scan("all", Folder(many(tmp_path, 5, 8), "all"), 0)
    assert "all:   0%|          | 0/5 [" in capsys.readouterr().err


def test_facts_of_good_pairs_are_a_few_bytes(tmp_path: Path) -> None:
    survey = scan("all", Folder(many(tmp_path, 20, 8), "all"), 0)
    assert not survey.faulty
    kept = (survey.digests, survey.mask_digests, survey.looks, survey.sizes)
    assert sum(array.nbytes for array in kept) == 20 * 72


@pytest.mark.slow
@pytest.mark.parametrize("side", [8, 64])
def test_row_l1_ten_thousand_pairs(
    side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many(tmp_path, PAIRS, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    answer = checked(capsys, root, workers=2)
    seconds = time.monotonic() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert (answer.code, sum(s["pairs"] for s in answer.facts["splits"].values())) == (0, PAIRS)
    print(f"{PAIRS} pairs of {side}x{side}: {seconds:.1f} s, {grown:.0f} MiB more")
    assert seconds < 60
    assert grown < 200


def in_session(session: int) -> list[int]:
    """Processes of a session that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stop_leaves_no_process(how: signal.Signals, tmp_path: Path) -> None:
    root = many(tmp_path, 3000, 64)
    words = [sys.executable, "-m", "segkit", "data", "check", str(root), "workers=2"]
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    while len(in_session(running.pid)) < 3:
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    # Ctrl-C reaches the whole group, a kill the one process.
    (os.killpg if how == signal.SIGINT else os.kill)(running.pid, how)
    _, err = running.communicate(timeout=20)
    codes = {signal.SIGINT: ExitCode.SIGINT, signal.SIGTERM: ExitCode.SIGTERM}
    assert running.returncode == codes.get(how, -signal.SIGKILL)
    assert "Traceback" not in err
    deadline = time.monotonic() + 5
    while in_session(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not in_session(running.pid)
