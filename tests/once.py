"""Configs and networks made once for the same words: most of what a call with one picture takes."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segkit import api, config, model_import, restored, stored
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
    """Have the commands' own ``compose`` give what it gave for the same words before.

    Words are composed anew where something else than they and the shipped files has a say: a
    folder of the user's, or the environment. Tests that call ``compose`` themselves have the real
    one.
    """
    compose = config.compose

    def kept(
        command: str, overrides: Sequence[str] = (), config_dir: str | None = None
    ) -> Composed:
        if config_dir is not None or any("${" in word for word in overrides):
            return compose(command, overrides, config_dir)
        key = f"{command} {list(overrides)}"
        if key not in _composed:
            _composed[key] = compose(command, overrides)
        return copy.deepcopy(_composed[key])

    for module in (config, stored, api, model_import):
        monkeypatch.setattr(module, "compose", kept)
