"""The data room's tests import their file makers as ``pictures``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
