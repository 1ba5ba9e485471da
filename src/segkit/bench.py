"""``segkit bench``: ours beside what a user would pick instead, measured in one run.

The rows are files under ``benchmarks/``, each run as a process of its own: nothing of one is warm
for the next, and its peak of memory is its own. This process imports nothing heavy.
"""

import ast
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from segkit.conf_files import nearest
from segkit.errors import ConfigError, EnvironmentFault, ExitCode, one_line
from segkit.lifeline import end_with_parent
from segkit.whole_files import write_whole

USAGE = """\
segkit bench [NAME ...] [--list] [--rounds N] [--device cpu|cuda] [--out DIR | --keep]

  segkit bench                       every row on the CPU (about a quarter of an hour)
  segkit bench input crf             two of them
  segkit bench --list                names and titles
  segkit bench --device cuda --keep  every row that has a CUDA part, written down

Prints a table: ours, what a user would pick instead, how many times as fast ours is, memory, and
the bar. A missed bar is said, and no error. It needs a checkout, for the rows are its benchmarks/.

  --rounds N     so many rounds of each comparison, however long they take; otherwise as many as
                 fit into the row's own time (a minute or so), three at least
  --out DIR      write DIR/NAME.json for each row
  --keep         the same in docs/results/bench/cpu, or in the card's name instead of cpu"""

DEVICES = ("cpu", "cuda")
SECONDS = 60.0  # of a row that says no SECONDS of its own: then it starts no further round
PATIENCE = 300.0  # of a row, its last rounds included: then it is ended
TAIL = 8  # lines of a crashed row that are shown


@dataclass(frozen=True)
class Title:
    """What a row is called, and after how many seconds it should start no further round."""

    title: str
    seconds: float


@dataclass
class Words:
    """The command line taken apart."""

    names: list[str] = field(default_factory=list)
    rounds: int | None = None
    device: str = "cpu"
    out: str | None = None
    keep: bool = False
    list: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the rows and print the table; EnvironmentFault at the end where a row crashed."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    words = parse(argv)
    folder = rows_folder()
    titles = titles_of(folder)
    for name in words.names:
        if name not in titles:
            fix = "rows: " + ", ".join(titles) + nearest(name, titles)
            raise ConfigError("ROW", name, "no such row", fix)
    if words.list:
        print("\n".join(f"{name:<12} {row.title}" for name, row in titles.items()))
        return ExitCode.OK
    card = card_name() if words.device == "cuda" else ""
    with tempfile.TemporaryDirectory(prefix="segkit-bench-") as scratch:
        out = Path(words.out or scratch)
        if words.keep:
            out = folder.parent / "docs/results/bench" / (slug(card) if card else "cpu")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "give another --out"
            raise EnvironmentFault("BENCH-OUT", out, error.strerror or str(error), fix) from error
        return measure(folder, words, words.names or list(titles), out, Path(scratch))


def parse(argv: Sequence[str]) -> Words:
    """ConfigError for what is not understood."""
    words = Words()
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--list":
            words.list = True
        elif word == "--keep":
            words.keep = True
        elif name in ("--rounds", "--device", "--out"):
            take(words, name, value if equals else next(rest, ""))
        elif word.startswith("-") or equals:
            raise ConfigError("USAGE", word, "not understood", "see segkit bench --help")
        else:
            words.names.append(word)
    if words.keep and words.out:
        raise ConfigError("USAGE", "--keep", "does not go together with --out", "leave one out")
    return words


def take(words: Words, name: str, value: str) -> None:
    """Put the value of an option into its place."""
    if not value:
        raise ConfigError("USAGE", name, "needs a value", "see segkit bench --help")
    if name == "--rounds":
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 10**6):
            raise ConfigError("USAGE", name, f"{value!r}", "a whole number, at least 1")
        words.rounds = int(value)
    elif name == "--device":
        if value not in DEVICES:
            raise ConfigError("USAGE", name, f"{value!r}", "one of: " + ", ".join(DEVICES))
        words.device = value
    else:
        words.out = value


def rows_folder() -> Path:
    """``benchmarks/`` of the checkout this package lies in; ConfigError without one."""
    source = Path(__file__).resolve().parents[1]
    folder = source.parent / "benchmarks"
    if source.name != "src" or not (folder / "common.py").is_file():
        fix = "clone the repository and type make bench there"
        raise ConfigError("BENCH", source, "has no benchmarks/ beside it: no checkout", fix)
    return folder


def titles_of(folder: Path) -> dict[str, Title]:
    """What every row says of itself, by name: read, not imported."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        said = {
            ast.unparse(line.targets[0]): line.value.value
            for line in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
        }
        if "TITLE" in said:
            seconds = float(str(said.get("SECONDS", SECONDS)))
            found[path.stem] = Title(str(said["TITLE"]), seconds)
    return found


def card_name() -> str:
    """The CUDA device's name; EnvironmentFault without one. Asked in another process."""
    asked = "import torch; print(torch.cuda.get_device_name())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no answer"]
        raise EnvironmentFault(
            "NO-CUDA", "--device cuda", f"no CUDA device answers ({said[-1]})", "see segkit doctor"
        )
    return done.stdout.strip()


def slug(card: str) -> str:
    """``nvidia-h200``: a card's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def measure(folder: Path, words: Words, names: Sequence[str], out: Path, scratch: Path) -> int:
    """Run the rows one after the other, then print one table of them all.

    What a row writes gets its place in ``out`` when it is whole: one that crashes leaves the old.
    """
    started = time.monotonic()
    crashed: dict[str, str] = {}
    written: list[str] = []
    known = titles_of(folder)
    for name in names:
        print(f"{name} ...", file=sys.stderr, end="", flush=True)
        began = time.monotonic()
        file = scratch / f"row/{name}.json"
        fault = run_row(folder / f"{name}.py", words, file, known[name].seconds)
        print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if fault:
            crashed[name] = fault[-1]
            print("\n".join(f"  {line}" for line in fault), file=sys.stderr, flush=True)
        elif json.loads(file.read_text(encoding="utf-8"))["rows"]:  # else not about this device
            write_whole(out / file.name, file.read_bytes())
            written.append(str(out / file.name))
    if written:
        subprocess.run([sys.executable, str(folder / "common.py"), *written], check=True)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes in all", file=sys.stderr, flush=True)
    for name in crashed:
        print(f"CRASHED {name}", flush=True)
    if crashed:
        name, said = next(iter(crashed.items()))
        where = ", ".join(f"benchmarks/{name}.py" for name in crashed)
        fix = f"python benchmarks/{name}.py shows all of it"
        raise EnvironmentFault("BENCH-ROW", where, said, fix)
    return ExitCode.OK


def run_row(row: Path, words: Words, file: Path, seconds: float) -> list[str]:
    """Run a row; nothing if it wrote its file, otherwise the last lines of what it said.

    After ``seconds`` it starts no further round, unless it is told how many.
    """
    given = ["--device", words.device, "--out", str(file)]
    if words.rounds is None:
        given += ["--seconds", str(seconds)]
    else:
        given += ["--rounds", str(words.rounds)]
    patience = PATIENCE if words.rounds is None else math.inf
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, str(row), *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # a group with all that it starts
            preexec_fn=functools.partial(end_with_parent, os.getpid(), signal.SIGTERM),
        )
        try:
            code = process.wait(None if patience == math.inf else patience)
        except subprocess.TimeoutExpired:
            return [f"not done after {patience:.0f} s"]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if file.exists():
            return []
        said.seek(0)
        lines = [one_line(line) for line in said.read().splitlines()]
    lines = [line for line in lines if line.strip() and not line.startswith("Traceback")]
    return lines[-TAIL:] or [f"ended with code {code} and said nothing"]
