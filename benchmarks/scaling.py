"""How much faster N processes train than one: ``segkit train devices=N`` with one global batch.

    python benchmarks/scaling.py [--rounds 2] [--device cpu|cuda] [--out docs/results/scaling.json]

Images a second come from the run's own ``timing.jsonl``, without the steps up to ``SKIPPED`` (the
first build kernels and fill queues). Efficiency is speed(N) / (N * speed(1)): 1 would be perfect.
It is stated and has no bar.

On the CPU a "device" is a core: N processes have N of them and one process has one, held by the
mask of cores that the command and all it starts inherit (as ``taskset`` does), its loader worker
included. Threads follow from that: a process alone takes as many as it has cores, the launcher
gives each of N cores / N. Two cores share caches and memory, which two cards do not. On CUDA N is
the number of cards, and the one process sees the same batch in N parts.
"""

import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from common import Row, run

from segkit.lifeline import end_with_parent

TITLE = "scaling, N processes beside one"
SECONDS = 60
STEPS, SKIPPED, EVERY = 40, 10, 5
CPU_WORDS = ("model=v3_mnv2", "backbone=mnv2", "augment.crop=129", "device=cpu")
CUDA_WORDS = ("model=v3", "backbone=r50", "augment.crop=513", "device=cuda")
COMMON = (
    "dataset=shapes", "pretrained=none", "eval.every=null", "checkpoint.every=null",
    "log.images=0", f"log.every={EVERY}",
    f"schedule.stages=[{{name: os16, steps: {STEPS}, lr: 0.007, bn: train}}]",
)  # fmt: skip


def rows(rounds: int, device: str) -> list[Row]:
    """N processes beside one."""
    if device == "cuda":
        return on_cards(rounds)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return [Row("2 processes", "1 process", note="not measured: one core")]
    words = (*CPU_WORDS, "schedule.batch=8", "workers=1")
    alone = functools.partial(speed, (*words, "devices=1"), cores[:1])
    both = functools.partial(speed, (*words, "devices=2"), cores[:2])
    return [beside(alone, both, 2, rounds)]


def on_cards(rounds: int) -> list[Row]:
    """All cards, 16 images on each; the one that is alone takes them in turn."""
    import torch

    cards = torch.cuda.device_count()
    if cards < 2:
        found = f"{cards} CUDA devices" if cards != 1 else "one CUDA device"
        return [Row("all cards", "one card", note=f"not measured: {found}")]
    cores = os.sched_getaffinity(0)
    words = (*CUDA_WORDS, f"schedule.batch={16 * cards}")
    alone = functools.partial(speed, (*words, f"schedule.accumulate={cards}"), cores)
    both = functools.partial(speed, (*words, f"devices={cards}"), cores)
    return [beside(alone, both, cards, rounds)]


def beside(alone: Callable[[], float], many: Callable[[], float], count: int, rounds: int) -> Row:
    """One after the other in every round; seconds are those of an image."""
    pairs = [(alone(), many()) for _ in range(rounds)]
    one, all_of_them = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    note = f"{one:.1f} and {all_of_them:.1f} images/s: efficiency {ratio / count:.2f}"
    return Row(
        f"{count} processes",
        "1 process",
        seconds=1 / all_of_them,
        theirs=1 / one,
        ratio=ratio,
        note=note,
    )


def speed(words: Sequence[str], cores: Collection[int]) -> float:
    """Images a second of a training that runs on ``cores`` alone."""
    with tempfile.TemporaryDirectory(prefix="segkit-scaling-") as folder:
        command = [sys.executable, "-m", "segkit", "train", *COMMON, *words, f"runs={folder}"]
        start = functools.partial(pinned, os.getpid(), cores)
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=start)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        (log,) = Path(folder).glob("*/timing.jsonl")
        entries = [json.loads(line) for line in log.read_text().splitlines()]
    counted = [entry for entry in entries if entry["step"] > SKIPPED]
    images = sum(entry["images_per_second"] * entry["seconds"] for entry in counted)
    return images / sum(entry["seconds"] for entry in counted)


def pinned(parent: int, cores: Collection[int]) -> None:
    """Of the process that is started: its cores, and no life without this one."""
    os.sched_setaffinity(0, cores)
    end_with_parent(parent, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=2))
