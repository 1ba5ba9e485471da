"""Disks that are full for a while, read-only or gone: rows C5, C6, C10, R6, R8, R10."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sandbox import TINY, Result, Sandbox, hashes, outcome
from seven_checks import check_all_seven, look

from segkit.engine import checkpoint


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("call", ["write", pytest.param("fsync", marks=pytest.mark.faults)])
def test_logs_return_with_the_room(box: Sandbox, call: str) -> None:
    """R6: no row is lost or doubled, and it is said once."""
    faults = [f"fail:{call}:ENOSPC:{part}:2-3" for part in (".jsonl", "tfevents", "status.json")]
    words = (*TINY, "checkpoint.every=5", "eval.every=null", "log.tensorboard=true")
    box.ok(*words, "name=plain")
    result = box.ok(*words, inject=",".join(faults))
    assert result.err.count("no room for logs") == 1
    assert [row["step"] for row in rows(box.run_folder / "timing.jsonl")] == list(range(1, 7))
    assert outcome(box.run_folder) == outcome(box.work / "runs/plain")
    assert shown(box.run_folder / "tb") == list(range(1, 7))


def shown(folder: Path) -> list[int]:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(folder)).Reload()
    return [event.step for event in board.Scalars("train/loss")]


def test_saves_return_with_the_room(box: Sandbox, finished_run: Path) -> None:
    """C5: with on_error=warn a run outlives three failed saves, and ends in the same bits."""
    words = (*TINY, "checkpoint.every=1", "checkpoint.on_error=warn")
    result = box.ok(*words, inject="fail:write:ENOSPC:/checkpoints/:2-4")
    assert [f"step {step} is not saved" in result.err for step in range(1, 7)] == [
        *(False, True, True, True, False, False)
    ]
    assert result.err.count("needs ") == 3
    assert outcome(box.run_folder) == outcome(finished_run)
    assert list(box.run_folder.rglob("*.tmp")) == []


def test_a_run_goes_on_from_before_the_full_disk(box: Sandbox, finished_run: Path) -> None:
    """C5: what stood before the failed save is all that a resumed run needs."""
    result = box.run(*TINY, inject="fail:write:ENOSPC:/checkpoints/:3-9")
    assert result.code == 6
    assert checkpoint.newest(box.run_folder).name == "step-00000002"
    box.ok(*TINY, "resume=true")
    assert outcome(box.run_folder) == outcome(finished_run)


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_what_went_away_is_not_made_anew(box: Sandbox, how: str) -> None:
    """R8: also not by the record of the failure itself."""
    assert box.run(*TINY, inject=f"{how}_run_at:3").code == 6
    found = sorted(path.name for path in box.run_folder.glob("*"))
    assert found == []
    assert box.run_folder.exists() == (how == "replace")


def test_a_second_run_in_one_folder_is_refused(box: Sandbox, finished_run: Path) -> None:
    """C10: and goes on as soon as the first is killed."""
    first = box.start(*TINY, inject="hang_at:3")
    points = box.run_folder / "checkpoints"
    try:
        # The third step is saved, and what it retires is gone.
        assert first.wait_for(
            lambda: box.steps_logged() == 3 and not any(points.glob("*step-00000000*"))
        )
        before = look(box)
        second = box.run(*TINY, "resume=true")
        check_all_seven(
            *(box, before, second),
            code=6,
            error="ENV-RUN-LOCKED",
            names=f"pid {first.pid} on host",
        )
    finally:
        first.kill()
    first.wait()
    third = box.ok(*TINY, "resume=true")
    # R10, second half.
    assert "runs/x: the previous run ended without a record at step 3" in third.err
    assert outcome(box.run_folder) == outcome(finished_run)


def test_an_end_with_a_record_is_no_lost_end(box: Sandbox) -> None:
    """R10: SIGTERM leaves a record."""
    assert box.run(*TINY, inject="terminate_at:3").code == 143
    said = box.ok(*TINY, "resume=true").err
    assert "without a record" not in said
    assert "checkpoints of" not in said, "there is room enough (C6)"


# -- with mounts, which need root or a user namespace -------------------------------------------


def mountable() -> list[str]:
    """How to get a mount table of one's own; [] where that is barred."""
    for command in (["unshare", "-m"], ["unshare", "-Urm"]):
        probe = [*command, "sh", "-c", "mount -t tmpfs none /mnt"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            return command
    return []


def run_mounted(box: Sandbox, mount: str, *words: str) -> Result:
    """A command that sees ``runs`` through ``mount``; what it left there is in ``runs`` after."""
    if not (own := mountable()):
        pytest.skip("mounts are barred here")
    script = f'mkdir -p runs; {mount} || exit 99; "$@"; code=$?; cp -a runs kept; exit $code'
    result = box.run(*words, prefix=[*own, "bash", "-c", script, "--"])
    shutil.rmtree(box.work / "runs")
    (box.work / "kept").rename(box.work / "runs")
    return result


@pytest.mark.faults
def test_a_full_file_system(box: Sandbox) -> None:
    """C5, C6: eight MiB hold the untrained weights and no checkpoint with momentum."""
    before = look(box)
    result = run_mounted(box, "mount -t tmpfs -o size=8m none runs", *TINY)
    check_all_seven(
        *(box, before, result),
        code=6,
        error="ENV-DISK-FULL",
        names="step-00000002: No space left on device: needs 77",
        status=True,
    )
    assert "up to 4 checkpoints of 77" in result.err
    assert "lower checkpoint.keep (2)" in result.err
    assert checkpoint.newest(box.run_folder).name == "step-00000000"
    assert list(box.run_folder.rglob("*.tmp")) == []


@pytest.mark.faults
@pytest.mark.parametrize("words", [["resume=true"], ["name=other"]])
def test_a_read_only_file_system(trained: Sandbox, words: list[str]) -> None:
    before, there = look(trained), hashes(trained.work)
    mount = "mount --bind runs runs && mount -o remount,bind,ro runs"
    result = run_mounted(trained, mount, *TINY, *words)
    check_all_seven(*(trained, before, result), code=6, error="ENV-WRITE", names="Read-only")
    assert hashes(trained.work) == there
