"""What every benchmark shares: paired timing, peak memory, the machine, the table, the file.

A row is a file ``benchmarks/NAME.py`` with ``TITLE`` and ``rows(rounds, device) -> list[Row]``; it
runs by itself (``python benchmarks/NAME.py``) and under ``segkit bench NAME``.

    python benchmarks/common.py docs/results/bench/cpu/*.json

prints the table of files that were written earlier.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

Result = TypeVar("Result")

VERSIONS = (
    "torch", "torchvision", "numpy", "albumentations", "torchmetrics",
    "segmentation-models-pytorch", "opencv-python-headless", "pillow",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table. Seconds are medians; None is "not measured", and ``note`` says why.

    ``ratio`` is how many times as fast ours is: the median over rounds of theirs / ours, in which
    both were taken one after the other; ``spread`` its first and third quartile. ``least`` is the
    bar for ``ratio``, ``most`` that for ``seconds``; ``most_memory`` that for ours / theirs peak
    bytes.
    """

    name: str
    against: str | None = None
    seconds: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    rounds: int | None = None
    spread: tuple[float, float] | None = None
    peak: int | None = None
    their_peak: int | None = None
    least: float | None = None
    most: float | None = None
    most_memory: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether every bar is; None without one, or where nothing was measured."""
        said = []
        if self.least is not None and self.ratio is not None:
            said.append(self.ratio >= self.least)
        if self.most is not None and self.seconds is not None:
            said.append(self.seconds <= self.most)
        if self.most_memory is not None and self.peak and self.their_peak:
            said.append(self.peak <= self.most_memory * self.their_peak)
        return all(said) if said else None


# What is timed. Work that gives seconds is believed: it knows what part of it is meant.
Work = Callable[[], object]

FEWEST = 3  # rounds, also when the time is up

# When this process should come to an end, by the monotonic clock: run() sets it.
_ends = math.inf


def taken(
    works: Mapping[str, Work],
    *,
    rounds: int,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each work in every round, one after the other, so a busy machine hurts all.

    Fewer rounds than asked for where the time is up, but not fewer than ``FEWEST``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warm, rounds):
        if number >= FEWEST and time.monotonic() > _ends:
            break
        # Who comes first changes, for the others find warm caches.
        for name, work in list(works.items())[:: 1 if number % 2 else -1]:
            began = clock()
            own = work()
            spent = own if isinstance(own, float) else clock() - began
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def paired(
    ours: Work,
    theirs: Work,
    *,
    rounds: int,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Seconds of both in every round; see ``taken``."""
    both = taken({"ours": ours, "theirs": theirs}, rounds=rounds, warm=warm, clock=clock)
    return both["ours"], both["theirs"]


def compared(mine: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """``seconds``, ``theirs``, ``ratio``, ``rounds`` and ``spread`` of a row."""
    ratios = sorted(b / a for a, b in zip(mine, others, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "seconds": statistics.median(mine),
        "theirs": statistics.median(others),
        "ratio": statistics.median(ratios),
        "rounds": len(ratios),
        "spread": (low, high),
    }


def grown(work: Callable[[], object]) -> int:
    """Bytes by which this process's resident set grows in ``work``, at its highest.

    For ``in_fresh_process``: what was freed before would be used again. Linux alone can say it.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the highest is now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def in_fresh_process(work: Callable[..., Result], *arguments: object) -> Result:
    """``work(*arguments)`` in a process that did nothing before; both must be found by name.

    It is forked from one that has imported torch and segkit, and nothing else.
    """
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["segkit.train", "segkit.protocol"])
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(work, *arguments).result()


def own_peak() -> int:
    """Bytes of this process's largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- machine -----------------------------------------------------------------------------------


def machine(device: Literal["cpu", "cuda"]) -> dict[str, object]:
    """Processor or card, cores, load, versions: what a ratio is a ratio on."""
    there = {name: _version(name) for name in VERSIONS}
    found: dict[str, object] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version for name, version in there.items() if version},
    }
    if device == "cuda":
        import torch

        found["card"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    for line in lines.read_text().splitlines() if lines.exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


# -- output ------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """For a terminal, a line a row."""
    names = [f"{row.name} / {row.against}" if row.against else row.name for row in rows]
    wide = max(map(len, names), default=0)
    lines = [f"{'':{wide}} {'ours':>10} {'theirs':>10} {'ratio':>7}  {'memory':>14}  bar"]
    for name, row in zip(names, rows, strict=True):
        lines.append(
            f"{name:{wide}} {_time(row.seconds):>10} {_time(row.theirs):>10} "
            f"{_ratio(row):>7}  {_memory(row):>14}  {_bar(row)}{_note(row)}"
        )
    return "\n".join(lines)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _ratio(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f}"


def _memory(row: Row) -> str:
    if row.peak is None:
        return "-"
    ours = f"{row.peak / 2**20:.0f} MiB"
    return ours if not row.their_peak else f"{ours} x{row.peak / row.their_peak:.2f}"


def _bar(row: Row) -> str:
    bars = {">= {:g}": row.least, "<= {:g} s": row.most, "memory <= {:g}": row.most_memory}
    said = ", ".join(form.format(bar) for form, bar in bars.items() if bar is not None)
    verdict = {True: " met", False: " MISSED", None: ""}[row.met]
    return said + verdict


def _note(row: Row) -> str:
    return f"  ({row.note})" if row.note else ""


def document(title: str, rows: Sequence[Row], device: Literal["cpu", "cuda"]) -> dict[str, object]:
    """What a result file holds."""
    written = [{**asdict(row), "met": row.met} for row in rows]
    return {"title": title, "machine": machine(device), "rows": written}


def run(title: str, rows: Callable[[int, str], list[Row]], *, rounds: int) -> int:
    """The command line of a row file: ``[--rounds N] [--device cpu|cuda] [--out FILE] ...``.

    Returns 1 if a bar is missed, which is how ``segkit bench`` hears of it.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--seconds", type=float, default=math.inf, help="then no further rounds")
    options = parser.parse_args()
    global _ends
    _ends = time.monotonic() + options.seconds
    found = rows(options.rounds, options.device)
    print(f"\n{title}\n{table(found)}", flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        text: Mapping[str, object] = document(title, found, options.device)
        options.out.write_text(json.dumps(text, indent=1) + "\n")
    return int(any(row.met is False for row in found))


def not_measured(name: str, against: str | None = None, **bars: float) -> Row:
    """Of a row that wants a CUDA device where there is none."""
    return Row(name, against, note="not measured: no CUDA device", **bars)  # type: ignore[arg-type]


def read(path: Path) -> tuple[dict[str, object], list[Row]]:
    """The machine and the rows of a file that ``run`` wrote."""
    found = json.loads(path.read_text())
    known = {field.name for field in fields(Row)}
    rows = [Row(**{k: v for k, v in row.items() if k in known}) for row in found["rows"]]
    return found["machine"], rows


def told(machine: Mapping[str, object]) -> str:
    """The machine in a line, without its load."""
    words = [f"{machine['cpu']}, {machine['cores']} cores"]
    words += [str(machine["card"])] if machine.get("card") else []
    names = ("python", *VERSIONS)
    return "; ".join([*words, *(f"{n} {machine[n]}" for n in names if n in machine)])


def main(paths: Sequence[str]) -> int:
    """Print one table of result files, the machine, and a line for each bar that was missed."""
    found = [read(Path(path)) for path in paths]
    rows = [row for _, own in found for row in own]
    print(table(rows))
    loads: dict[str, list[float]] = {}
    for machine, _ in found:
        loads.setdefault(told(machine), []).append(float(str(machine["load"])))
    for where, load in loads.items():
        print(f"\nmeasured on {where}; load {min(load):g} to {max(load):g}")
    missed = [row for row in rows if row.met is False]
    for row in missed:
        against = f" / {row.against}" if row.against else ""
        print(f"MISSED {row.name}{against}: {_found(row)}, bar {_bar(row).removesuffix(' MISSED')}")
    met = sum(row.met is True for row in rows)
    unknown = sum(row.met is None and row.seconds is None for row in rows)
    print(f"\n{met} bars met, {len(missed)} missed, {unknown} rows not measured")
    return 0


def _found(row: Row) -> str:
    ratio = "" if row.ratio is None else f", ratio {row.ratio:.2f}"
    return f"{_time(row.seconds)}{ratio}, memory {_memory(row)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
