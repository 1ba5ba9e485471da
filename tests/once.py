"""Networks out of checkpoints, each rebuilt once: most of what a call with one picture takes."""

from pathlib import Path
from typing import Any

import pytest

from segkit import restored
from segkit.restored import Trained

_loaded: dict[str, Trained] = {}


def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``restored.load`` give what it gave for the same words before."""
    load = restored.load

    def kept(path: Path, **how: Any) -> Trained:
        key = f"{path} {how}"
        if key not in _loaded:
            _loaded[key] = load(path, **how)
        return _loaded[key]

    monkeypatch.setattr(restored, "load", kept)
