"""R1, R5, R10, R11: what the machine takes away, and what a training survives."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import figures
import pytest
from sandbox import TINY, Running, Sandbox, living, outcome
from seven_checks import check_all_seven, look

EVAL_CRF = ("eval", "crf=true", "workers=2", "eval.pictures=0")


@pytest.fixture(scope="module")
def orphans() -> Iterator[list[float]]:
    """Seconds from kill -9 to the end of the last child, of every trial."""
    seconds: list[float] = []
    yield seconds
    if seconds:
        figures.keep("B5", orphans_worst_seconds=round(max(seconds), 2), kills=len(seconds))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ((*TINY, "name=y", "workers=2"), "pause:step/3/20"),
        pytest.param((*TINY, "name=y", "workers=2"), "reading:hangs/5", marks=pytest.mark.faults),
        (EVAL_CRF, "pause:scoring/1/20"),
        pytest.param(EVAL_CRF, "crf:SIGSTOP", marks=pytest.mark.faults),
    ],
    ids=["train", "train-hung-worker", "eval-crf", "eval-hung-crf"],
)
def test_children_end_with_a_killed_parent(
    trained: Sandbox, orphans: list[float], words: tuple[str, ...], fault: str
) -> None:
    """R1."""
    running = trained.start(*(w for w in words if w != "name=x"), inject=fault)
    if fault == "crf:SIGSTOP":
        assert running.wait_for(lambda: len(living(running.pid, 0)) >= 3)
        time.sleep(0.3)
    else:
        assert running.wait_for((trained.work / "mark").exists)
    assert len(living(running.pid, 0)) > 1, "no child to look at"
    began = time.monotonic()
    running.kill(signal.SIGKILL)
    assert running.wait(10).code == -signal.SIGKILL
    assert not living(running.pid, 10)
    orphans.append(time.monotonic() - began)


def piped(box: Sandbox, shell: str, *words: str) -> Running:
    """``shell`` with the console script's own call in place of ``SEGKIT``."""
    return box.start(*words, prefix=["sh", "-c", shell.replace("SEGKIT", '"$@"'), "sh"])


@pytest.mark.faults
@pytest.mark.parametrize(
    "shell",
    [
        "SEGKIT | head -1",
        "SEGKIT 2>&1 | head -1",
        "SEGKIT 2>&1 | true",
        "SEGKIT <&- >&- 2>&-",
        "exec nohup SEGKIT",
    ],
)
def test_a_training_needs_no_reader(box: Sandbox, finished_run: Path, shell: str) -> None:
    """R5: whoever looked at the console has gone; the training has not."""
    running = piped(box, shell, *TINY)
    if "nohup" in shell:
        assert running.wait_for(lambda: box.steps_logged() > 0)
        os.killpg(running.pid, signal.SIGHUP)
    result = running.wait(60)
    assert result.code == 0, result.err
    assert not living(running.pid, 20)
    assert "Traceback" not in result.out + result.err
    assert "BrokenPipe" not in result.out + result.err
    assert outcome(box.run_folder) == outcome(finished_run)


@pytest.mark.faults
def test_a_mebibyte_of_shared_memory_is_enough(box: Sandbox, finished_run: Path) -> None:
    """R11: batches lie in anonymous memory."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    can = (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False
        ).returncode
    )
    if not can:
        pytest.skip("unshare -m and mount are barred here")
    words = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    result = box.run(*TINY, "workers=2", prefix=words)
    assert result.code == 0, result.err
    assert outcome(box.run_folder) == outcome(finished_run)


@pytest.mark.faults
@pytest.mark.parametrize("gigabytes", [0.3, 1.5])
def test_too_little_memory_for_torch_itself(box: Sandbox, gigabytes: float) -> None:
    """R10: memory ends in the imports."""
    before = look(box)
    result = box.run(*TINY, prefix=["prlimit", f"--as={int(gigabytes * 1e9)}"])
    check_all_seven(box, before, result, code=6, error="ENV-MEMORY", names="schedule.batch")


@pytest.mark.faults
def test_a_killed_worker_in_the_middle_of_a_long_run(box: Sandbox, finished_run: Path) -> None:
    """What the kernel's OOM killer does: the run is told, saved before, and goes on."""
    result = box.run(*TINY, "workers=2", inject="reading:killed/5")
    assert "if memory ran out" in result.last_line
    box.ok(*TINY, "resume=true")
    assert outcome(box.run_folder) == outcome(finished_run)
