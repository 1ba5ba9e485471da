"""The console script and ``python -m segkit``: streams and signals first, all else after.

Imports take seconds, and whoever stops a command in them is to read one line, too. What remains
are the first hundredths of a second, in which Python itself starts and knows no handler of ours.
"""

import os
import signal
import sys


def entry() -> None:
    """Take over streams and signals, then run the command line."""
    open_missing_streams()
    if "RANK" in os.environ:  # one of several processes: none outlives its launcher
        from segkit.lifeline import end_with_parent
        from segkit.ranks import launcher

        end_with_parent(launcher(), signal.SIGTERM)
    elif parent := os.environ.pop("SEGKIT_CHILD", ""):  # one of the commands of segkit table
        from segkit.lifeline import end_with_parent

        end_with_parent(int(parent), signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stopped)
    from segkit.cli import entry as run

    run()


def stopped(number: int, frame: object) -> None:  # noqa: ARG001
    """Leave at once: nothing is under way that had to be saved.

    A task that has something to save takes the signals over (``engine.signals``). No exception
    instead: imports are full of places that would swallow it.
    """
    name, code = ("SIGINT", 130) if number == signal.SIGINT else ("SIGTERM", 143)
    line = f"segkit: error[STOP-{name}]: stopped; what was saved before is whole\n"
    try:
        if "SEGKIT_LAUNCHED" not in os.environ:  # its launcher says it, once for all
            os.write(2, line.encode())
    finally:
        os._exit(code)


def open_missing_streams() -> None:
    """Open what ``<&-``, ``>&-`` or ``2>&-`` closed, to nowhere.

    The next file to be opened would get the number, and what a library prints would go into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    entry()
