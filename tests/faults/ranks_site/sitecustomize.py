"""On the path of processes that a launcher starts: lays ``SEGKIT_FAULT`` over the ranks alone."""

import os
import sys
from pathlib import Path

if "RANK" in os.environ and "SEGKIT_FAULT" in os.environ:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import injectors

    injectors.install(os.environ["SEGKIT_FAULT"])
