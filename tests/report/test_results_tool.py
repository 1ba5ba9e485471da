"""tools/results.py as a person runs it, and this repository's own tables."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from segkit.report.signature import Signature, score_document

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "results.py"
README = "# segkit\n\nbefore\n\n<!-- results:begin -->\nold\n<!-- results:end -->\n\nafter\n"

SIGNATURE = Signature(
    dataset="camvid",
    split="val",
    images=101,
    model="v3",
    backbone="mnv2",
    train_os=(16,),
    eval_os=16,
    multi_grid=None,
    pad="fit",
    scales=(1.0,),
    fusion="mean",
    flip=False,
    crf=None,
    weights="imagenet:mnv2.pth",
    checkpoint="last",
    step=1200,
    seed=0,
    precision="fp32",
    device="cpu",
    segkit="0.1.0",
    torch="2.11.0",
)


def command_line(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def results(capsys):
    """The tool in this process: ``results(*arguments) -> (code, stdout, stderr)``."""
    tool = runpy.run_path(str(TOOL))

    def call(*arguments):
        code = tool["main"]([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def save_score(path, signature, miou, iou):
    document = score_document(
        signature, miou=miou, iou=iou, images=101, pixels=5, confusion=[[5]], seconds={}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "README.md").write_text(README)
    place = tmp_path / "docs/results/camvid_cpu"
    save_score(place / "score.json", SIGNATURE, 0.5117, {"sky": 0.9, "a|b": None})
    full = replace(SIGNATURE, eval_os=8, flip=True)
    save_score(place / "score_full.json", full, 0.55, {"sky": 0.91, "a|b": 0.1})
    run = {"command": "segkit train experiment=camvid_cpu", "minutes": 41.5, "machine": "2 cores"}
    (place / "run.json").write_text(json.dumps(run))
    (place / "curve.png").write_bytes(b"")
    return tmp_path


def test_rewrites_both_pages_and_then_finds_them_fresh(checkout):
    stale = command_line("--root", checkout, "--check")
    assert stale.returncode == 1
    assert "README.md is out of date" in stale.stderr
    assert (checkout / "README.md").read_text() == README
    assert command_line("--root", checkout).returncode == 0
    assert command_line("--root", checkout, "--check").returncode == 0
    assert command_line("--root", checkout).stdout == "", "a fresh page was written again"
    readme = (checkout / "README.md").read_text()
    assert readme.startswith("# segkit\n\nbefore\n\n<!-- results:begin -->\n| experiment |")
    assert readme.endswith("<!-- results:end -->\n\nafter\n")
    assert "old" not in readme


def test_every_row_shows_its_protocol(checkout, results):
    results("--root", checkout)
    rows = [line for line in (checkout / "README.md").read_text().splitlines() if "mnv2" in line]
    assert len(rows) == 2
    single, full = rows
    assert "| os 16-\\>16, mg none, whole fit, ms 1 mean, no flip, no crf" in single
    assert "| 51.17 | 101 |" in single
    assert "| os 16-\\>8, mg none, whole fit, ms 1 mean, flip, no crf" in full
    assert "| 55.00 | 101 |" in full
    assert "(docs/results/README.md#camvid_cpu)" in single


def test_the_page_has_run_signatures_classes_and_pictures(checkout, results):
    results("--root", checkout)
    page = (checkout / "docs/results/README.md").read_text()
    assert "    segkit train experiment=camvid_cpu\n" in page
    assert "41.5 minutes, 2 cores" in page
    assert "    mIoU 51.17 = camvid:val:101 | v3 mnv2 | os 16->16 | " in page
    assert "| a\\|b | n/a | 10.00 |" in page
    assert "![curve](camvid_cpu/curve.png)" in page
    assert "[score\\_full](camvid_cpu/score_full.json)" in page


def test_without_results_the_table_says_so(tmp_path, results):
    (tmp_path / "README.md").write_text(README)
    assert results("--root", tmp_path)[0] == 0
    assert "\nNo results yet.\n" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("README.md", "no marks", "README.md"),
        ("README.md", README + README, "README.md"),
        ("docs/results/camvid_cpu/score.json", "{", "score.json"),
        ("docs/results/camvid_cpu/score.json", "[]", "score.json"),
        ("docs/results/camvid_cpu/score.json", '{"miou": NaN}', "score.json"),
        ("docs/results/camvid_cpu/score.json", '{"signature": {"seed": 1}}', "score.json"),
        ("docs/results/camvid_cpu/score.json", '{"miou": 1}', "score.json"),
        ("docs/results/camvid_cpu/run.json", "x", "run.json"),
    ],
)
def test_bad_files_are_named_in_one_line(checkout, results, name, content, word):
    (checkout / name).write_text(content)
    code, _, complaint = results("--root", checkout)
    assert code == 3
    assert complaint.count("\n") == 1
    assert complaint.startswith("segkit: error[DATA-")
    assert word in complaint


def test_the_tables_of_this_repository_are_fresh(results):
    if not list((ROOT / "docs/results").glob("*/score*.json")):
        pytest.skip("no results are kept in this checkout")
    code, _, complaint = results("--check")
    assert code == 0, complaint


def test_only_promises_with_all_their_figures_are_told(results, tmp_path):
    marks = "<!-- reliability:begin -->\nold\n<!-- reliability:end -->\n"
    (tmp_path / "README.md").write_text(README + marks)
    figures = {"B8": {"differing_cells": 0}, "B3": {"cuts": 200}}
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/reliability.json").write_text(json.dumps(figures))
    assert results("--root", tmp_path)[0] == 0
    told = (tmp_path / "README.md").read_text().partition(marks[:26])[2]
    assert "**0 cells**" in told
    assert "old" not in told
    assert "cuts" not in told


def bench_row(name, **said):
    row = dict.fromkeys(("seconds", "theirs", "ratio", "least", "most", "met"))
    return {**row, "name": name, "against": "theirs", "note": "", **said}


def keep_bench(root, name, rows):
    path = root / "docs/results/bench" / name
    path.parent.mkdir(parents=True)
    machine = {"cpu": "x", "cores": 2, "load": 0.5}
    path.write_text(json.dumps({"machine": machine, "rows": rows}))


def test_the_crfs_figures_are_told(results, tmp_path):
    row = {"normalization": "after", "largest_difference": 1.2e-5, "least_equal_labels": 0.99999}
    agreement = {
        "classes": 21,
        "size": "44x40",
        "cases": 12,
        "against_the_sums": [{"way": "exact_way", **row}],
        "pydensecrf_against_exact": [
            {"images": "hard", "size": "72x64", "normalization": "after", "equal_labels": 0.977}
        ],
    }
    unknown = bench_row("exact, CUDA", least=10.0, most=0.5, note="not measured: no device")
    pool = bench_row("two_at_once", seconds=5.125, theirs=0.5, ratio=0.1, least=1.8, met=False)
    machines = {"cpu": [unknown, pool], "card": [bench_row("exact, CUDA", seconds=0.25)]}
    (tmp_path / "README.md").write_text(README)
    for name, rows in machines.items():
        keep_bench(tmp_path, f"{name}/crf.json", rows)
    (tmp_path / "docs/evaluation.md").write_text("<!-- crf:begin -->\nold\n<!-- crf:end -->\n")
    (tmp_path / "docs/results/crf_agreement.json").write_text(json.dumps(agreement))
    assert results("--root", tmp_path)[0] == 0
    told = (tmp_path / "docs/evaluation.md").read_text()
    assert "| exact\\_way | after | 1.2e-05 | 99.99 % |" in told
    assert "| hard | 72x64 | after | 97.70 % |" in told
    assert "| exact, CUDA | theirs |  |  |  | ≥ 10, ≤ 500.00 ms | not measured: no device |" in told
    assert "| two\\_at\\_once | theirs | 5.12 s | 500.00 ms | 0.10 | ≥ 1.8 missed |  |" in told
    assert "| exact, CUDA | theirs | 250.00 ms |  |  |  |  |" in told
    assert "old" not in told


def test_what_input_costs_is_told_with_its_bars(results, tmp_path):
    rows = [
        bench_row("segkit_row", seconds=0.002, theirs=0.003, ratio=1.5, least=1.15, met=True),
        bench_row("alone", seconds=0.001),
    ]
    keep_bench(tmp_path, "cpu/input.json", rows)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "docs/input.md").write_text("<!-- input:begin -->\nold\n<!-- input:end -->\n")
    assert results("--root", tmp_path)[0] == 0
    told = (tmp_path / "docs/input.md").read_text()
    assert "| segkit\\_row | theirs | 2.00 ms | 3.00 ms | 1.50 | ≥ 1.15 |  |" in told
    assert "| alone | theirs | 1.00 ms |  |  |  |  |" in told
    assert "Measured on x, 2 cores, load 0.5." in told
    assert "old" not in told
