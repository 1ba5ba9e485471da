"""What this machine reaches: from trainings that ran on it, else from a second's probe."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.ablation.scored import timing
from segkit.ablation.update import PASSES, updates_of
from segkit.config import Composed
from segkit.errors import SegkitError

if TYPE_CHECKING:
    from torch import nn

# Each stage of the probe takes so many seconds and rounds at least, after one to warm up.
SECONDS, ROUNDS = 0.4, 3
# Runs that are looked at, the latest first: reading a config takes a tenth of a second.
RUNS = 6


@dataclass(frozen=True)
class Seen:
    """A run on this machine: its seconds for an update over those that the probe foretells."""

    run: str
    choices: tuple[str, str]
    steps: int
    factor: float


@dataclass(frozen=True)
class Rate:
    """Multiply-adds and bytes a second of training, and the runs by which both are corrected."""

    macs: float
    moved: float
    half: bool = False
    basis: str = "as given"
    seen: tuple[Seen, ...] = ()
    device: str = "cpu"

    def seconds(self, macs: float, moved: float) -> float:
        return macs / self.macs + moved / self.moved

    def told(self, choices: Mapping[str, str]) -> tuple[float, str]:
        """The correction for a network, and its reason: by runs of the same one, else by all."""
        mine = (choices["model"], choices["backbone"])
        same = [run for run in self.seen if run.choices == mine]
        if not self.seen:
            return 1.0, self.basis
        taken = same or self.seen
        steps = sum(run.steps for run in taken)
        of = f"of {' on '.join(mine)}" if same else "of other networks"
        factor = statistics.median(run.factor for run in taken)
        return factor, f"{steps} updates {of} on this machine ({', '.join(r.run for r in taken)})"


def rate_of(values: Mapping[str, Any], runs: Path, config_dir: str | None = None) -> Rate:
    """What the device and the precision of ``values`` (a training's) reach; probed once."""
    from segkit.parts import device_of, precision_of

    device = device_of(values)
    return _rate(device.type, str(precision_of(values, device)), runs, config_dir)


@cache
def _rate(device: str, precision: str, runs: Path, config_dir: str | None) -> Rate:
    half = precision == "bf16"
    probed = probe(device, half=half)
    seen = tuple(_seen(probed, device, runs, config_dir))
    return Rate(probed.macs, probed.moved, half, probed.basis, seen, device)


# -- runs that there are ---------------------------------------------------------------------------


def _seen(probed: Rate, device: str, runs: Path, config_dir: str | None) -> list[Seen]:
    found: list[Seen] = []
    newest = sorted(runs.glob("*/timing.jsonl"), key=lambda path: -path.stat().st_mtime)
    for path in newest:
        if len(found) == RUNS:
            break
        one = _of_run(path.parent, probed, device, config_dir)
        if one is not None:
            found.append(one)
    return found


def _of_run(folder: Path, probed: Rate, device: str, config_dir: str | None) -> Seen | None:
    """None for a run of another kind of machine, another precision, or that is no longer read."""
    from segkit.parts import stages_of

    rows = timing(folder)
    if len(rows) < 2 or not _same_machine(folder, device):
        return None
    try:
        composed = _restored(folder, config_dir)
        update = updates_of(composed.values, half=probed.half)[0]
    except (SegkitError, KeyError, ValueError):
        return None
    if not _same_precision(composed.values, device, probed.half):
        return None
    batch = stages_of(composed.values)[0]["batch"]
    # The first bunch of steps holds the warm-up. Later stages are few and short.
    speed = statistics.median(float(row["images_per_second"]) for row in rows[1:])
    choices = (composed.choices["model"], composed.choices["backbone"])
    factor = batch / speed / probed.seconds(update.macs, update.moved)
    return Seen(folder.name, choices, int(rows[-1]["step"]), factor)


def _same_machine(folder: Path, device: str) -> bool:
    import torch

    from segkit.record import environment_before, environment_now

    before, now = environment_before(folder), environment_now(torch.device(device))
    keys = ("device", "card", "cores", "threads", "cpu_capability", "ranks")
    return all(before.get(key, now[key]) == now[key] for key in keys)


def _restored(folder: Path, config_dir: str | None) -> Composed:
    import yaml

    from segkit.stored import restore

    path = folder / "config.yaml"
    return restore(yaml.safe_load(path.read_text(encoding="utf-8")), config_dir, path)


def _same_precision(values: Mapping[str, Any], device: str, half: bool) -> bool:
    import torch

    from segkit.parts import precision_of

    return (precision_of(values, torch.device(device)) == "bf16") == half


# -- the probe -------------------------------------------------------------------------------------


@cache
def probe(device: str, *, half: bool) -> Rate:
    """Two stages trained for half a second each: one of a ResNet, and one of depthwise filters.

    Not one large matrix product, which reaches what no network does. A CPU is asked for one thread,
    by the time that the thread had, and all are taken for as fast: what else runs now is over by
    the time of a training.
    """
    import torch

    threads = torch.get_num_threads() if device == "cpu" else 1
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        dense, light = (_timed(make, device, half) for make in (_dense, _light))
    finally:
        if device == "cpu":
            torch.set_num_threads(threads)
    macs, moved = solved(dense, light)
    told = f", {threads} threads as if nothing else ran" if device == "cpu" else ""
    return Rate(threads * macs, threads * moved, half, f"a probe of this {device}{told}")


Timed = tuple[float, float, float]


def solved(dense: Timed, light: Timed) -> tuple[float, float]:
    """Rates of multiply-adds and bytes from two measurements (macs, bytes, seconds).

    Where the two times are so far from the model that one of the rates would be negative, all of
    ``dense`` is laid to its multiply-adds and all of ``light`` to its bytes.
    """
    (a, b, s), (c, d, t) = dense, light
    over = a * d - b * c
    per_mac, per_byte = (s * d - b * t) / over, (a * t - s * c) / over
    if per_mac <= 0 or per_byte <= 0:
        return a / s, d / t
    return 1 / per_mac, 1 / per_byte


def _dense() -> "tuple[nn.Module, tuple[int, int, int]]":
    """Two units of ResNet's block3 and their input, of crop 513."""
    from torch import nn

    layers: list[nn.Module] = []
    for before, after, kernel in 2 * [(1024, 256, 1), (256, 256, 3), (256, 1024, 1)]:
        conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers), (1024, 33, 33)


def _light() -> "tuple[nn.Module, tuple[int, int, int]]":
    """What MobileNetV2's fourth unit has between its 1x1 convolutions, three times."""
    from torch import nn

    layers: list[nn.Module] = []
    for _ in range(3):
        conv = nn.Conv2d(144, 144, 3, padding=1, groups=144, bias=False)
        layers += [conv, nn.BatchNorm2d(144), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers), (144, 65, 65)


def _timed(
    make: "Callable[[], tuple[nn.Module, tuple[int, int, int]]]", device: str, half: bool
) -> Timed:
    """Multiply-adds and bytes as those of an update are counted, and the seconds for them."""
    import torch

    from segkit.models.cost import counted

    images = 16 if device == "cuda" else 2
    with torch.device("meta"):
        net, shape = make()
        image = torch.empty(images, *shape)
        cost = counted(lambda: net(image), net)
    with torch.random.fork_rng(devices=[]):
        real = make()[0].to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.ones(images, *shape, device=device, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last)

    clock = time.thread_time if device == "cpu" else time.perf_counter

    def once() -> float:
        began = clock()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            found = real(x)
        found.float().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    once()
    seconds = [once()]
    while len(seconds) < ROUNDS or sum(seconds) < SECONDS:
        seconds.append(once())
    moved = cost.moved // (2 if half else 1)
    return PASSES * cost.macs, PASSES * moved, statistics.median(seconds)
