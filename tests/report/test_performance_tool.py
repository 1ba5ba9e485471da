"""tools/performance.py as a person runs it, and this repository's own pages."""

import json
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARKS = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
ROW = {
    "name": "v3 R50",
    "against": "torchvision",
    "seconds": 0.5,
    "theirs": 1.0,
    "ratio": 2.0,
    "spread": [1.9, 2.125],
    "peak": 2**30,
    "their_peak": 2**31,
    "least": 1.05,
    "most": None,
    "most_memory": 0.8,
    "note": "",
    "met": True,
}
NOTHING = dict.fromkeys(ROW) | {"name": "v3 on CUDA", "least": 1.5, "note": "no card"}
MACHINE = {"cpu": "A Processor", "cores": 2, "load": 0.1, "python": "3.11.1", "torch": "2.0"}


@pytest.fixture
def tool(monkeypatch, capsys):
    """``tool(*arguments) -> (code, stdout, stderr)``; it finds its neighbour as a script does."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    found = runpy.run_path(str(ROOT / "tools" / "performance.py"))

    def call(*arguments):
        code = found["main"]([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def project(tmp_path):
    place = tmp_path / "docs/results/bench/cpu"
    place.mkdir(parents=True)
    (tmp_path / "README.md").write_text(MARKS)
    memory = "<!-- memory:begin -->\n<!-- memory:end -->\n"
    (tmp_path / "docs/performance.md").write_text(MARKS + memory)
    parts = [
        NOTHING | {"name": f"a step, {way}: {part}", "seconds": seconds}
        for way, part, seconds in (
            ("plain", "convolutions", 2.0),
            ("plain", "loss", 1.0),
            ("fast", "convolutions", 1.5),
        )
    ]
    late = {"seconds": 0.2, "least": None, "most": 0.15, "met": False, "note": "a_b"}
    start = NOTHING | late | {"name": "help"}
    documents = {
        "train_step": [ROW, NOTHING],
        "startup": [start],
        "growth": [ROW],
        "profiles": parts,
        "memory": [ROW],
    }
    for name, rows in documents.items():
        document = {"title": f"title of {name}", "machine": MACHINE, "rows": rows}
        (place / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def test_pages_say_what_was_measured_and_what_was_not(project, tool):
    assert tool("--root", project)[0] == 0
    page, readme = (
        (project / "docs/performance.md").read_text(),
        (project / "README.md").read_text(),
    )
    assert "| v3 R50 | torchvision | 500 ms | 1.00 s | 2.00 (1.90 to 2.12) |" in page
    assert "1024 MiB, x 0.50" in page
    assert "A Processor, 2 cores" in page
    assert "torch 2.0" in page
    step = "| title of train\\_step: "
    assert f"{step}v3 R50 | torchvision | 2.00 times as fast | ≥ 1.05 times | A P" in readme
    assert f"{step}v3 on CUDA |  | not measured | ≥ 1.5 times | A Processor |" in readme
    assert "| title of startup: help |  | 200 ms | ≤ 150 ms | A Processor |" in readme
    assert "≤ 0.15 s | **missed**, a\\_b |" in page
    assert "title of growth" in page
    assert "title of growth" not in readme
    for text in (page, readme):
        assert text.startswith("before\n")
        assert "old" not in text
    assert "| torchvision | 1.0 GiB | 2.0 GiB | 0.50 |" in page


def test_the_figure_is_to_scale(project, tool):
    tool("--root", project)
    drawing = ElementTree.fromstring((project / "docs/performance-time.svg").read_text())
    bars = [
        (float(rect.get("x")), float(rect.get("width")))
        for rect in drawing.iter("{http://www.w3.org/2000/svg}rect")
        if rect.find("{http://www.w3.org/2000/svg}title") is not None
    ]
    (start, convolutions), (then, loss), (below, fast) = bars
    assert start == below
    assert then == pytest.approx(start + convolutions, abs=0.1)
    assert convolutions == pytest.approx(2 * loss, abs=0.2)
    assert fast == pytest.approx(0.75 * convolutions, abs=0.2)


def test_check_changes_nothing_and_tells_what_is_stale(project, tool):
    code, _, said = tool("--root", project, "--check")
    assert code == 1
    assert "performance.md is out of date" in said
    assert (project / "README.md").read_text() == MARKS
    tool("--root", project)
    assert tool("--root", project, "--check") == (0, "", "")


def test_this_repository_is_up_to_date(tool):
    assert tool("--check") == (0, "", "")
