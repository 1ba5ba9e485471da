"""``segkit table`` as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Finished
from tiny import ROWS, config_dir

from segkit import table
from segkit.ablation.engines import local
from segkit.ablation.work import Outcome
from segkit.cli import main
from segkit.completion import completions
from segkit.errors import SegkitError


def typed(finished: Finished, *words: str) -> list[str]:
    where = ["--config-dir", str(finished.conf), f"runs={finished.runs}", "engine.isolate=false"]
    return ["table", "tiny.t1", *where, *words]


def files(finished: Finished) -> dict[str, bytes]:
    folder = finished.runs / "tables/tiny.t1-paper"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_call_starts_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "in_this_process", None)  # whoever asks for it fails
    assert main(typed(finished)) == 0
    assert "2 of 2 trainings are done and scored" in capsys.readouterr().out
    first = files(finished)
    assert set(first) == {"table.json", "table.md", "table.csv", "table.html"}
    cells = [row["numbers"]["mIoU"] for row in json.loads(first["table.json"])["rows"]]
    assert [cell["state"] for cell in cells] == ["scored"] * 3
    assert main(typed(finished)) == 0
    assert files(finished) == first


def test_a_failing_row_leaves_the_others_and_gives_its_code(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = finished.plan.jobs
    for path in (first.evaluations[1].score, second.evaluations[0].score):
        path.unlink()
    # A checkpoint torn by somebody else: that job fails with the code of weights, 4.
    for torn in first.run.glob("checkpoints/step-*/model.safetensors"):
        torn.write_bytes(torn.read_bytes()[:-9])
    assert main(typed(finished)) == 4
    out = capsys.readouterr().out
    assert "[1/2] tiny.t1 plain, flipped: failed: error[CKPT-" in out
    assert "[2/2] tiny.t1 bare: 1 score" in out
    cells = [
        row["numbers"]["mIoU"]["state"] for row in json.loads(files(finished)["table.json"])["rows"]
    ]
    assert cells[0] == cells[2] == "scored"
    assert cells[1].startswith("failed 4: error[CKPT-")
    assert main(typed(finished, "--status")) == 0
    status = capsys.readouterr().out
    assert "failed, trained, 1 of 2 scores" in status
    assert "code 4: error[CKPT-" in status
    assert status.endswith("2 trainings: 1 failed, 1 done\n")


def test_check_goes_through_every_cell(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(finished, "--trust", "json")) == 0
    path = finished.runs / "tables/tiny.t1-paper/table.json"
    document = json.loads(path.read_bytes())
    assert document["command"].endswith(f" --config-dir {finished.conf} --trust json")
    capsys.readouterr()
    assert main(typed(finished, "--check")) == 0
    assert capsys.readouterr().out == f"{path}: 3 numbers are those of their score files\n"
    document["rows"][2]["numbers"]["mIoU"] |= {"ours": 71.0, "n": 0, "seeds": []}
    path.write_text(json.dumps(document))
    assert main(typed(finished, "--check")) != 0
    said = capsys.readouterr().err
    assert f"error[DATA-TABLE]: {path}: tiny.t1 bare, mIoU: ours is 71.0, not None" in said


def test_other_trainings_are_another_table(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "work", lambda *_: [Outcome("done")])
    assert main(typed(finished)) == 0
    first = files(finished)
    for words in (["--", "schedule.power=0.8"], ["scale.lr=2"]):
        assert main(typed(finished, *words)) == 0
        assert files(finished) == first, words
    (one, other) = sorted(finished.runs.glob("tables/tiny.t1-paper-??????"))
    said = {
        (folder / "table.md").read_text().partition("every training with: ")[2]
        for folder in (one, other)
    }
    assert {text.partition("\n")[0] for text in said} == {
        "schedule.power=0.8",
        "scale.lr=2.0",
    }
    # Where, how fast, and a key at the scale's own value, change no training.
    assert main(typed(finished, "workers=0", "scale.lr=1", "--", "eval.batch=2")) == 0
    assert len(list(finished.runs.glob("tables/*"))) == 3


@pytest.mark.parametrize("look", ["--plan", "--status"])
def test_looks_start_nothing(
    finished: Finished,
    look: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local, "in_this_process", None)
    finished.plan.jobs[0].evaluations[1].score.unlink()
    before = sorted(finished.runs.rglob("*"))
    assert main(typed(finished, look, "--only", "flipped", "device=cpu")) == 0
    out = capsys.readouterr().out
    assert "waiting, trained, 0 of 1 scores" in out or "done, trained" in out
    assert "bare" not in out
    if look == "--plan":
        assert "2 steps x 2 of 33, 1 score" in out
        assert f"segkit eval ckpt={finished.plan.jobs[0].run} " in out
        assert "1 training, 1 score; 1 to do" in out
    assert sorted(finished.runs.rglob("*")) == before


def test_a_run_of_one_row(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = finished.plan.jobs
    for job in (first, second):
        job.evaluations[0].score.unlink()
    assert main(typed(finished, "--only=plain")) == 0
    assert "[1/1] tiny.t1 plain: 1 score" in capsys.readouterr().out
    states = [
        row["numbers"]["mIoU"]["state"] for row in json.loads(files(finished)["table.json"])["rows"]
    ]
    assert states == ["scored", "scored", "trained, not scored"]


def test_a_malformed_table_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config_dir(tmp_path)
    (tmp_path / "ablation" / "mine.t1.yaml").write_text("title: mine\n")
    assert main(["table", "--list", "--config-dir", folder]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 28
    assert "mine.t1.yaml: has no key" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error[CFG-USAGE]: table: names no table"),
        (["v3.t55"], "'v3.t55' is no table; segkit table --list shows them; did you mean v3.t5?"),
        (["v3.t5", "--onyl", "a"], "--onyl: no such option; see segkit table --help; did you mean"),
        (["v3.t5", "--only"], "--only: needs a value"),
        (["v3.t5", "--only", "mg11"], "'mg11' is no row; rows: mg111"),
        (["v3.t5", "scal=smoke"], "scal: no such key; did you mean scale?"),
        (["v3.t5", "seeds=[]"], "seeds: []; different numbers of 0 or more, at least one"),
        (["v3.t5", "seeds=[1,1]"], "seeds: [1, 1]"),
        (["v3.t5", "engine.per_device=0"], "engine.per_device: 0; allowed: 1 or more"),
        (["v3.t5", "scale.crop=0"], "scale.crop: 0.0; allowed: above 0"),
        (
            ["v3.t5", "--", "multi_grid=1-2-4"],
            "-- multi_grid=1-2-4: the rows of v3.t5 differ in it",
        ),
        (["v3.t5", "--", "name=x"], "-- name=x: is what the table says of each training"),
    ],
)
def test_wrong_words_are_one_line_and_code_2(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", *words]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_list_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed if line.startswith("v3.t5")] == ["v3.t5"]
    assert main(["table", "v1", "--help"]) == 0
    page = capsys.readouterr().out
    assert "  scale " in page
    assert "--status             how the rows stand" in page


def test_completion() -> None:
    assert completions(["table", "v3plus.t2"]) == ["v3plus.t2"]
    assert {"v3plus", "all", "scale=", "seeds="} <= set(completions(["table", ""]))
    assert completions(["table", "v3.t5", "--st"]) == ["--status"]
    assert "mg111" in completions(["table", "v3.t5", "--only", "mg"])
    assert "scale=smoke" in completions(["table", "v3.t5", "scale=s"])
    assert completions(["table", "v3.t5", "--", "backb"]) == ["backbone="]


def test_the_code_is_the_first_failed_jobs_and_a_stop_is_before_all() -> None:
    done, fourth, third = Outcome("done"), Outcome("failed", 4, "torn"), Outcome("failed", 3)
    with pytest.raises(SegkitError, match="2 of 3 trainings failed; the first: torn") as failed:
        table.check(3, [done, fourth, third])
    assert (failed.value.code, failed.value.id) == (4, "TABLE-FAILED")
    with pytest.raises(SegkitError) as stopped:
        table.check(2, [fourth, Outcome("stopped", 143)])
    assert (stopped.value.code, stopped.value.id) == (143, "STOP-SIGTERM")
    table.check(1, [done])
    table.check(0, [])


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("isolate", ["true", "false"])
def test_killed_at_any_moment_the_same_command_gives_the_same_table(
    tmp_path: Path, isolate: str
) -> None:
    conf = config_dir(tmp_path / "conf", ROWS)
    words = ["table", "tiny.t1", "--config-dir", conf, f"engine.isolate={isolate}", "device=cpu"]
    command = [sys.executable, "-m", "segkit", *words]

    def start(runs: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, f"runs={runs}"], stdout=subprocess.DEVNULL)

    def scores(runs: Path) -> dict[str, object]:
        found = runs.glob("*/scores/*/score.json")
        return {
            str(path.relative_to(runs)): json.loads(path.read_bytes())["confusion"]
            for path in found
        }

    assert start(tmp_path / "whole").wait() == 0
    hurt = tmp_path / "hurt"
    for path in ("jobs/*.json", "*/metrics.jsonl", "*/scores/*/score.json"):
        killed = start(hurt)
        while killed.poll() is None and not list(hurt.glob(path)):
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    stopped = start(hurt)
    time.sleep(1.0)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() in (0, 143)
    assert start(hurt).wait() == 0
    assert scores(hurt) == scores(tmp_path / "whole")
    numbers = [
        [row["numbers"] for row in json.loads(text)["rows"]]
        for text in (
            Path(f"{runs}/tables/tiny.t1-paper/table.json")
            .read_text()
            .replace(os.fspath(runs), "RUNS")
            for runs in (hurt, tmp_path / "whole")
        )
    ]
    assert numbers[0] == numbers[1]
