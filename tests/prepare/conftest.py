"""The room's tests import their makers as ``small_sets`` and ``servers``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
