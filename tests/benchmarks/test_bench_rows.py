"""Every row file: its title, its rows, and what it says of CUDA where there is no card."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from segkit import bench

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(bench.titles_of(FOLDER))


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Row files as their own folder sees them, forgotten afterwards with what they set."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("GOMP_SPINCOUNT", "NO_ALBUMENTATIONS_UPDATE"):
        monkeypatch.setenv(name, "1000")
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_file_has_what_the_command_asks(
    row: Callable[[str], ModuleType], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    module = row(name)
    assert isinstance(module.TITLE, str)
    assert list(inspect.signature(module.rows).parameters) == ["rounds", "device"]
    if name == "memory":  # counts on the meta device, which takes its time
        return
    for found in module.rows(1, "cuda"):
        assert found.note.startswith("not measured: ")
        assert found.seconds is found.ratio is found.met is None
