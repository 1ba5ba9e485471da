"""Configs and networks made once for the same words: most of what a call with one picture takes."""

import copy
from pathlib import Path
from typing import Any

import pytest

from segkit import config, restored
from segkit.config import Composed
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


_composed: dict[str, Composed] = {}


def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command line's own ``compose`` give what it gave for the same words before."""
    compose = config.compose

    def kept(command: str, *how: Any) -> Composed:
        key = f"{command} {how}"
        if key not in _composed:
            _composed[key] = compose(command, *how)
        return copy.deepcopy(_composed[key])

    monkeypatch.setattr(config, "compose", kept)
