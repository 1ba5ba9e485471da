"""Figures that a suite measured, kept where ``SEGKIT_FIGURES`` says.

``docs/results/reliability.json`` is such a file; the README's sentence is generated from it.
"""

import json
import os
from pathlib import Path
from typing import Any


def keep(guarantee: str, **figures: Any) -> None:
    """Put ``figures`` under the name of the guarantee (B1, B2 ...), beside those of other tests.

    Numbers only ever come from the run that calls this; a figure of the same name is replaced.
    """
    print(f"{guarantee}: {figures}")
    if not (place := os.environ.get("SEGKIT_FIGURES")):
        return
    path = Path(place)
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(guarantee, {}).update(figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
