"""Saving: no moment and no fault of the disk costs the last good state (rows C1 to C10)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import figures
import pytest

HERE = Path(__file__).parent


def crashes(folder: Path, mode: str) -> dict[str, Any]:
    """The report of ``save_crashes.py``; a process of its own, for it forks."""
    command = [sys.executable, HERE / "save_crashes.py", folder, mode]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def check(report: dict[str, Any]) -> int:
    """The number of points, of each kind at least one."""
    assert report["wrong"] == []
    for fault in ("SIGKILL", "ENOSPC", "EIO", "EDQUOT"):
        for call in ("write", "fsync", "rename", "mkdir"):
            assert report["points"][f"{fault} {call}"] > 0
    return int(sum(report["points"].values()))


@pytest.mark.faults
def test_a_save_hurt_at_each_of_its_calls(tmp_path: Path) -> None:
    """C1, C5 where ptrace is barred: the fault is laid over Python's own calls."""
    check(crashes(tmp_path, "calls"))


def traceable() -> bool:
    """Whether a process may be traced here: containers often forbid it."""
    if not shutil.which("strace"):
        return False
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return probe.returncode == 0


@pytest.mark.faults
def test_a_save_hurt_at_each_system_call(tmp_path: Path) -> None:
    """C1, B2."""
    if not traceable():
        pytest.skip("no strace, or ptrace is barred")
    report = crashes(tmp_path, "strace")
    kills = sum(n for name, n in report["points"].items() if name.startswith("SIGKILL"))
    points = check(report)
    figures.keep("B2", crash_points=kills, failing_calls=points - kills, unloadable=0)
