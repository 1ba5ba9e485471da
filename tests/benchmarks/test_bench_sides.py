"""benchmarks/sides.py: another process does the work, with the settings of its side."""

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SPIN = "GOMP_SPINCOUNT"


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # the other process imports this file
    yield importlib.import_module("sides")
    for name in ("sides", "common"):
        sys.modules.pop(name, None)


def noting(path: Path) -> Callable[[], None]:
    """Work that takes 10 ms and writes down where it was done."""

    def work() -> None:
        with path.open("a") as file:
            file.write(f"{os.getpid()} {os.environ.get(SPIN)}\n")
        time.sleep(0.01)

    return work


def failing() -> Callable[[], None]:
    raise ValueError("cannot be made")


def test_each_side_has_its_process_and_its_settings(
    sides: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SPIN, "1000")  # as `segkit bench` leaves it to its rows
    files = [tmp_path / name for name in ("ours", "theirs")]
    mine, others = sides.apart(*((noting, file) for file in files), rounds=2)
    assert len(mine) == len(others) == 2
    assert all(0.01 <= seconds < 5 for seconds in (*mine, *others))
    (ours,), (theirs,) = (set(file.read_text().splitlines()) for file in files)
    assert [ours.split()[1], theirs.split()[1]] == ["1000", "None"]
    assert len({ours.split()[0], theirs.split()[0], str(os.getpid())}) == 3
    assert os.environ[SPIN] == "1000"
    assert not multiprocessing.active_children()


def test_a_side_that_fails_is_an_error(
    sides: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="one side ended with code 1"):
        sides.Side(failing, as_command=False)
    assert "ValueError: cannot be made" in capfd.readouterr().err
