"""SIGKILL a toy run at random moments, resume it, compare its end. Run by test_resume.py.

    python kill_trials.py FOLDER TRIALS KILLS

Every other trial accumulates its gradients over two parts.

Every run is a fork of this process, which imports torch and starts no thread of it.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # seconds of imports at the first optimiser: here once
import toy_training as toy


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # The run's own bar and lines must not mix with the report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(folder: Path, parts: int) -> None:
    pid = child(lambda: train(folder, parts))
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{folder}: the run ended with {status}")


def train(folder: Path, parts: int) -> None:
    stages = [toy.plan(0, 14, accumulate=parts), toy.plan(1, 10, accumulate=parts)]
    toy.train_toy(folder, resume=True, stages=stages)


def kill_after(folder: Path, parts: int, seconds: float) -> bool:
    """Whether the kill hit a run that was still going."""
    pid = child(lambda: train(folder, parts))
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{folder}: the resumed run failed")
    return os.WIFSIGNALED(status)


def read(folder: Path) -> dict[str, str]:
    """The outcome, as JSON through a fork: reading tensors might start threads."""
    result = folder.with_suffix(".json")
    os.waitpid(child(lambda: result.write_text(json.dumps(toy.outcome(folder))) and None), 0)
    found: dict[str, str] = json.loads(result.read_text())
    found.pop("kept")
    return found


def main(base: Path, trials: int, kills: int) -> None:
    wholes = {}
    for parts in (1, 2):
        began = time.monotonic()
        finish(base / f"whole-{parts}", parts)
        span = time.monotonic() - began
        wholes[parts] = read(base / f"whole-{parts}")
    draw = random.Random(11)
    hits, different = 0, []
    for trial in range(trials):
        folder, parts = base / f"trial-{trial}", 1 + trial % 2
        for _ in range(kills):
            hits += kill_after(folder, parts, draw.uniform(0, span))
        finish(folder, parts)
        found = read(folder)
        wrong = [key for key in wholes[parts] if found.get(key) != wholes[parts][key]]
        different += [f"{trial}: {key}" for key in wrong]
    print(json.dumps({"hits": hits, "different": different, "span": span}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
