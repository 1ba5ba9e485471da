"""The protocol as typed: batches and windows in ``segkit eval``, and in a training's validation."""

import json
from pathlib import Path
from typing import Any

import pytest
from once import loaded_once

from segkit import cli
from segkit.engine import checkpoint

TINY = (
    *("experiment=quickstart", "dataset.count=8", "dataset.val.count=5"),
    *("augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu", "log.tensorboard=false"),
    *("schedule.stages.0.steps=1", "schedule.stages.1.steps=1", "eval.every=2"),
    *("dataset.size=[41,49]", "schedule.stages.0.lr=1e-9", "schedule.stages.1.lr=1e-9", "seed=1"),
)
PLAIN = ("eval.report=false", "eval.boundaries=false", "eval.pictures=0")
WINDOWS = ("eval.window.size=25", "eval.window.weighting=linear", "eval.batch=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole`` validated on whole images, ``windows`` in windows.

    What they are is what they were drawn as: with this seed, networks that find three classes.
    """
    folder = tmp_path_factory.mktemp("runs")
    for name, words in {"whole": (), "windows": WINDOWS}.items():
        assert cli.main(["train", *TINY, f"name={name}", f"runs={folder}", *words]) == 0
    return folder


@pytest.fixture
def score(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loaded_once(monkeypatch)

    def evaluated(run: str, *words: str) -> dict[str, Any]:
        typed = ["device=cpu", "workers=0", *PLAIN, f"out={tmp_path}", *words]
        assert cli.main(["eval", f"ckpt={runs / run}", *typed]) == 0
        found: dict[str, Any] = json.loads((tmp_path / "score.json").read_text())
        return found

    return evaluated


@pytest.mark.parametrize("more", [(), ("ms=true", "flip=true"), ("eval.window.size=33",)], ids=len)
def test_a_batch_changes_no_count(score: Any, more: tuple[str, ...]) -> None:
    """E1, over eval.batch."""
    matrices = [score("whole", f"eval.batch={n}", *more)["confusion"] for n in (1, 2, 7)]
    assert all(matrix == matrices[0] for matrix in matrices)
    assert sum(any(column) for column in zip(*matrices[0], strict=True)) > 2, "says nothing"


def test_validation_is_the_evaluation_that_a_run_inherits(runs: Path, score: Any) -> None:
    found = {}
    for run in ("whole", "windows"):
        lines = (runs / run / "metrics.jsonl").read_text().splitlines()
        *_, validation = [
            row["validation"] for row in map(json.loads, lines) if "validation" in row
        ]
        found[run] = score(run)
        assert validation["miou"] == found[run]["miou"]
    assert checkpoint.newest(runs / "whole").name == checkpoint.newest(runs / "windows").name
    assert "window" not in found["whole"]["signature"]
    window = {"size": 25, "overlap": 0.33, "weighting": "linear"}
    assert found["windows"]["signature"]["window"] == window
    assert found["windows"]["confusion"] != found["whole"]["confusion"]


def test_what_is_typed_of_a_window_counts_and_the_rest_is_the_runs(score: Any) -> None:
    signature = score("windows", "eval.window.overlap=0.5")["signature"]
    assert signature["window"] == {"size": 25, "overlap": 0.5, "weighting": "linear"}
    whole = score("windows", "eval.window.size=null")
    assert whole["signature"].get("window") is None
    assert whole["confusion"] == score("whole")["confusion"]


WINDOW = "eval.window.overlap=0.5"


@pytest.mark.parametrize(
    ("run", "words", "notes"),
    [
        (
            "whole",
            ("densecrf.iterations=3",),
            ["densecrf.iterations does nothing without crf=true"],
        ),
        ("whole", ("densecrf.preset=v2_vgg", "crf=true"), []),
        ("whole", (WINDOW,), ["eval.window.overlap does nothing without eval.window.size"]),
        ("whole", (WINDOW, "eval.window.size=33"), []),
        ("windows", (WINDOW,), []),
        ("whole", ("tta.scales=[0.5,1]", "flip=true"), ["tta.scales does nothing without ms=true"]),
        (
            "whole",
            ("tta.fusion=max", "tta.scales=[0.5,1]"),
            [
                "tta.fusion does nothing without ms=true or flip=true",
                "tta.scales does nothing without ms=true",
            ],
        ),
        ("whole", ("tta.fusion=max", "flip=true"), []),
        ("whole", ("tta.fusion=max", "ms=true"), []),
    ],
)
def test_keys_that_change_nothing_are_said(
    score: Any, capsys: pytest.CaptureFixture[str], run: str, words: Any, notes: list[str]
) -> None:
    if "crf=true" in words:
        pytest.importorskip("pydensecrf", reason="the exact one takes a while")
    capsys.readouterr()
    score(run, "eval.limit=1", *words)
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "does nothing" in line] == [f"note: {n}" for n in notes]


def test_the_line_and_the_folder_say_windows(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("eval.window.size=33", *PLAIN)
    for more in ((), ("eval.batch=3",), ("eval.window.overlap=0.5",)):
        typed = ["eval", f"ckpt={runs / 'whole'}", "device=cpu", "workers=0", *words, *more]
        assert cli.main(typed) == 0
    out = capsys.readouterr().out
    assert "| window 33/0.33 uniform fit |" in out
    assert "| window 33/0.5 uniform fit |" in out
    folders = [path.name for path in (runs / "whole/scores").glob("shapes-val-window33-*")]
    assert len(folders) == 2, "a batch makes no other score"
