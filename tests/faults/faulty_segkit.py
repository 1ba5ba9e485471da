"""``segkit`` with faults: what ``SEGKIT_FAULT`` names is installed, then the command runs.

Segkit itself knows no failpoint: faults are laid over it from here, by tests alone.
"""

import os
import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> None:
    """The console script's own way in."""
    if spec := os.environ.get("SEGKIT_FAULT"):
        import injectors

        injectors.install(spec)
    sys.argv = ["segkit", *words]
    from segkit.__main__ import entry

    entry()


if __name__ == "__main__":
    main(sys.argv[1:])
