"""What ``segkit plan`` foretells against what a fresh process then takes, time and memory.

A row is one config. Its seconds and bytes are those measured, "theirs" the predicted ones, so that
ratio is predicted / measured; the bar of issue 8 is a ratio within 25 % on a CPU, 10 % on CUDA.
"""

import json
import subprocess
import sys

from common import Row, not_measured, run

TITLE = "plan: predicted against measured (a training step)"

CONFIGS = {
    "v1 VGG-16, 161, 2": "model=v1 backbone=vgg16 augment.crop=161 schedule.batch=2",
    "v2 R50, 161, 2": "model=v2 backbone=r50 augment.crop=161 schedule.batch=2",
    "v3 R50 OS16, 161, 2": "backbone=r50 augment.crop=161 schedule.batch=2",
    "v3 R50 OS16, 321, 2": "backbone=r50 augment.crop=321 schedule.batch=2",
    "v3 R50 OS8, 161, 2": "backbone=r50 os=8 augment.crop=161 schedule.batch=2",
    "v3 R50 OS16, 225, 4, two parts": (
        "backbone=r50 augment.crop=225 schedule.batch=4 schedule.accumulate=2"
    ),
    "v3 R50 OS16, 225, 2, frozen": (
        "backbone=r50 augment.crop=225 schedule.batch=2 schedule.stages.0.bn=frozen"
    ),
    "v3 MobileNetV2 OS16, 321, 4": "backbone=mnv2 augment.crop=321 schedule.batch=4",
    "v3 MobileNetV2 OS16, 513, 2": "backbone=mnv2 augment.crop=513 schedule.batch=2",
    "v3 MobileNetV2 OS16, 225, 4, bf16": (
        "backbone=mnv2 augment.crop=225 schedule.batch=4 precision=bf16"
    ),
    "v3+ R50 OS16, 257, 2": "model=v3plus backbone=r50 augment.crop=257 schedule.batch=2",
    "v3+ Xception-65 OS16, 193, 2": "model=v3plus backbone=x65 augment.crop=193 schedule.batch=2",
}

# In a process of its own: what is measured must not find the caches, or the heap, of another.
MEASURE = """
import json, resource, sys
import torch
from segkit.config import compose
from segkit.engine.loop import Update, _tune
from segkit.parts import precision_of, stages_of
from segkit.plan import resident
from segkit.planning.clock import seconds_of
from segkit.planning.remembered import Remembered
from segkit.planning.schedule import size_of, step_of, update_seconds
from segkit.planning.speed import Speed
from segkit.planning.update import batch_of, network_of, update_of

mode, rounds, device, *words = sys.argv[1:]
values, device = compose("train", words).values, torch.device(device)
stage, precision = stages_of(values)[0], precision_of(values, device)
size = size_of(values, stage)
step = step_of(values, stage, size, 21, device=device.type, precision=precision)
base = resident() if device.type == "cpu" else 0
_tune(device)
if mode == "predict":
    speed = Speed(device, precision, Remembered(device, fresh=True))
    seconds, peak = update_seconds(values, stage, size, 21, speed), base + step.peak
else:
    net = network_of(values, stage, 21, device)
    update = update_of(Update, net, values, stage, size, device, precision)
    batch = batch_of(size, device)
    found = [seconds_of(lambda: update(batch, 0, 0), device) for _ in range(int(rounds))]
    seconds = min(found)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


def asked(mode: str, rounds: int, device: str, words: str) -> dict[str, float]:
    """Seconds of an update and peak bytes, predicted or measured."""
    command = [sys.executable, "-c", MEASURE, mode, str(rounds), device, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, words: str, rounds: int, device: str) -> Row:
    said = asked("predict", rounds, device, words)
    took = asked("measure", rounds, device, words)
    time, memory = said["seconds"] / took["seconds"], said["peak"] / took["peak"]
    least, most = (0.9, 1.1) if device == "cuda" else (0.75, 1.25)
    kept = all(least <= ratio <= most for ratio in (time, memory))
    return Row(
        name,
        "predicted",
        seconds=took["seconds"],
        theirs=said["seconds"],
        ratio=time,
        peak=int(took["peak"]),
        their_peak=int(said["peak"]),
        note=f"memory predicted / measured {memory:.2f}; both must be {least}..{most}: "
        + ("met" if kept else "MISSED"),
    )


def rows(rounds: int, device: str) -> list[Row]:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return [not_measured(name, "predicted") for name in CONFIGS]
    return [row(name, words, rounds, device) for name, words in CONFIGS.items()]


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=1))
