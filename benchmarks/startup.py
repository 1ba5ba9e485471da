"""How long a command takes before it does anything: processes, elapsed time.

    python benchmarks/startup.py [--rounds 10]

The alternative is ``python -c "import torch"``: any script of the field has that behind it before
it can print its help or its config. ``--help`` and ``--cfg job`` are what is typed most often while
an experiment is put together.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import Row, compared, paired, run

TITLE = "start-up"
SECONDS = 25
THEIRS = 'python -c "import torch"'
HELP, COMPOSED = 0.15, 1.5  # seconds


def process(*words: str) -> Callable[[], int]:
    """Runs a command to its end, which is peak bytes of memory; a failing one is an error."""

    # By way of a shell's child, for resource usage is known of children as a whole.
    def start() -> int:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, *words], cwd=folder, capture_output=True, check=True
            )
        return int(done.stdout)

    return start


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def timed(words: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


def rows(rounds: int, device: str) -> list[Row]:
    """Nothing on CUDA, which no command touches before it starts."""
    if device == "cuda":
        return []
    segkit = str(Path(sys.executable).with_name("segkit"))
    torch = [sys.executable, "-c", "import torch"]
    found = []
    for words, bars in (
        (["--help"], {"most": HELP}),
        (["train", "--cfg", "job"], {"most": COMPOSED, "least": 1.0}),
    ):
        ours = [segkit, *words]
        seconds = compared(*paired(timed(ours), timed(torch), rounds=rounds))
        peaks = {"peak": process(*ours)(), "their_peak": process(*torch)()}
        found.append(Row("segkit " + " ".join(words), THEIRS, **seconds, **peaks, **bars))
    return found


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=10))
