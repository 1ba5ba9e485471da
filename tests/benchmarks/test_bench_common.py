"""benchmarks/common.py: rounds and ratios, which bars are met, the table and the files."""

import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks/common.py"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_common", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_common", module)
    spec.loader.exec_module(module)
    return module


class Clock:
    """A clock that works move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        spent: Iterator[float] = itertools.cycle(seconds)

        def work() -> None:
            self.now += next(spent)

        return work


def test_a_ratio_is_the_median_of_its_rounds(common: ModuleType) -> None:
    found = common.compared([1.0, 2.0, 4.0], [3.0, 4.0, 40.0])
    assert (found["seconds"], found["theirs"], found["ratio"]) == (2.0, 4.0, 3.0)
    assert found["rounds"] == 3
    assert found["spread"] == (2.0, 10.0)
    assert common.compared([1.0], [2.0])["spread"] == (2.0, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        common.compared([1.0, 1.0], [1.0])


def test_warm_rounds_do_not_count(common: ModuleType) -> None:
    clock = Clock()
    ours, theirs = clock.work(100.0, 1.0, 1.0), clock.work(100.0, 3.0, 3.0)
    assert common.paired(ours, theirs, rounds=2, clock=clock) == ([1.0, 1.0], [3.0, 3.0])


def test_who_comes_first_changes(common: ModuleType) -> None:
    order: list[str] = []
    works = {name: lambda n=name: order.append(n) for name in "ab"}
    common.taken(works, rounds=3, warm=0)
    assert "".join(order) == "baabba"


def test_work_that_knows_its_seconds_is_believed(common: ModuleType) -> None:
    assert common.taken({"a": lambda: 0.25}, rounds=2) == {"a": [0.25, 0.25]}


def test_no_further_round_when_the_time_is_up(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "_ends", 0.0)
    assert len(common.taken({"a": lambda: 1.0}, rounds=9)["a"]) == common.FEWEST == 3
    assert len(common.taken({"a": lambda: 1.0}, rounds=2)["a"]) == 2


@pytest.mark.parametrize(
    ("said", "met"),
    [
        ({"ratio": 1.5, "least": 1.5}, True),
        ({"ratio": 1.49, "least": 1.5}, False),
        ({"seconds": 0.3, "most": 0.3}, True),
        ({"seconds": 0.31, "most": 0.3}, False),
        ({"seconds": 0.1, "most": 0.3, "ratio": 0.9, "least": 1.0}, False),
        ({"peak": 80, "their_peak": 100, "most_memory": 0.8}, True),
        ({"peak": 81, "their_peak": 100, "most_memory": 0.8}, False),
        ({"peak": 81, "most_memory": 0.8}, None),
        ({"ratio": 0.1}, None),
        ({"least": 1.5, "most": 0.3}, None),
    ],
)
def test_a_bar_is_met_missed_or_not_measured(
    common: ModuleType, said: dict[str, Any], met: bool | None
) -> None:
    assert common.Row("x", **said).met is met


def test_the_table_tells_each_row(common: ModuleType) -> None:
    lines = common.table(
        [
            common.Row("a", "b", 0.0125, 2.5, 200.0, 3, peak=2**21, their_peak=2**22, least=5.0),
            common.not_measured("c", most=0.3),
        ]
    ).splitlines()
    words = " ".join(lines[1].split())
    assert words == "a / b 12.50 ms 2.50 s 200.00 2 MiB x0.50 >= 5 met"
    assert lines[2].endswith("<= 0.3 s  (not measured: no CUDA device)")


def test_files_are_read_back_and_told_in_one_table(
    common: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = {
        "good": [common.Row("good", "x", 1.0, 2.0, 2.0, 3, (1.5, 2.5), least=1.5)],
        "bad": [common.Row("bad", None, 9.0, most=3.0), common.not_measured("far", "y")],
    }
    codes = []
    for name, rows in made.items():
        path = str(tmp_path / f"to/{name}.json")
        monkeypatch.setattr(sys, "argv", ["row", "--rounds", "4", "--out", path])
        codes.append(
            common.run(name, lambda rounds, device, r=rows: asked(rounds, device, r), rounds=1)
        )
    assert codes == [0, 1]
    paths = sorted((tmp_path / "to").iterdir())
    document = json.loads(paths[0].read_text())
    assert document["title"] == "bad"
    assert [row["met"] for row in document["rows"]] == [False, None]
    assert {"cpu", "cores", "load", "python", "torch"} <= set(document["machine"])
    capsys.readouterr()
    assert common.main([str(path) for path in paths]) == 0
    told = capsys.readouterr().out
    assert "good / x" in told
    assert "MISSED bad: 9.00 s, memory -, bar <= 3 s" in told
    assert told.count("measured on ") == 1
    assert told.endswith("1 bars met, 1 missed, 1 rows not measured\n")


def asked(rounds: int, device: str, rows: list[Any]) -> list[Any]:
    assert (rounds, device) == (4, "cpu")
    return rows


GROWING = """
import sys
sys.path.insert(0, sys.argv[1])
import common
kept = []
print(common.grown(lambda: kept.append(bytes(range(256)) * 2**16)))
"""


def test_growth_of_memory_is_seen() -> None:
    """In a process that has freed nothing yet, which it would use first."""
    command = [sys.executable, "-c", GROWING, str(FILE.parent)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 15 * 2**20 < int(told.stdout) < 64 * 2**20
