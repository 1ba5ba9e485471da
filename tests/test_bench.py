"""segkit bench: which rows there are, what a missed bar and a crash do, where files go."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit import bench, cli

ROOT = Path(__file__).parents[1]

ROW = """
import sys
from common import Row, run
TITLE = "{title}"
def rows(rounds, device):
    found = dict(seconds=1.0, theirs={theirs}, ratio={theirs}, rounds=rounds)
    return [Row("ours", "theirs", **found, least=1.5)]
if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=7))
"""
CRASH = 'TITLE = "falls"\nraise RuntimeError("no such library")\n'
SLEEP = """
import os, subprocess, sys, time
from pathlib import Path
TITLE = "sleeps"
child = subprocess.Popen(["sleep", "60"])
Path(__file__).with_name("child").write_text(str(child.pid))
Path(__file__).with_name("pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with rows of its own: one that meets its bar, one that does not."""
    folder = tmp_path / "checkout/benchmarks"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks/common.py", folder)
    (folder / "fast.py").write_text(ROW.format(title="wins", theirs=2.0))
    (folder / "slow.py").write_text(ROW.format(title="loses", theirs=0.5))
    (folder / "helper.py").write_text("raise SystemExit('no row: it has no title')\n")
    monkeypatch.setattr(bench, "rows_folder", lambda: folder)
    return folder


def test_the_rows_of_this_checkout_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--list"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"startup", "input", "confusion", "crf"} <= set(told)
    assert told["startup"] == "start-up"
    assert not {"common", "steps"} & set(told)


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from segkit.cli import main; main(['bench', '--list']); "
        "sys.exit(','.join({'torch', 'numpy', 'cv2', 'hydra', 'common'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_table_of_all_rows_and_a_missed_bar_is_no_error(
    rows: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench"]) == 0
    told = capfd.readouterr().out
    assert told.count("ours / theirs") == 3  # two in the table, one that missed
    assert "2.00" in told
    assert "MISSED ours / theirs: 1.00 s, ratio 0.50, memory -, bar >= 1.5" in told
    assert "measured on " in told
    assert told.endswith("1 bars met, 1 missed, 0 rows not measured\n")
    assert not (rows.parent / "docs").exists()


@pytest.mark.parametrize(("words", "rounds"), [([], 7), (["--rounds", "2"], 2)])
def test_files_are_written_where_asked(
    rows: Path, tmp_path: Path, words: list[str], rounds: int
) -> None:
    assert rows.is_dir()
    assert cli.main(["bench", "fast", "--out", str(tmp_path / "a/b"), *words]) == 0
    (file,) = (tmp_path / "a/b").iterdir()
    found = json.loads(file.read_text())
    assert file.name == "fast.json"
    assert found["title"] == "wins"
    assert found["rows"][0]["met"] is True
    assert found["rows"][0]["rounds"] == rounds


def test_a_row_that_is_not_about_this_device_leaves_no_file(
    rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (rows / "fast.py").read_text()
    (rows / "none.py").write_text(text.replace("    return [Row", "    return [] and [Row"))
    assert cli.main(["bench", "none", "slow", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["slow.json"]
    assert capfd.readouterr().out.count("ours / theirs") == 2


def test_kept_files_go_into_the_checkout(rows: Path) -> None:
    assert cli.main(["bench", "slow", "--keep"]) == 0
    assert (rows.parent / "docs/results/bench/cpu/slow.json").is_file()


def test_a_crashed_row_is_said_and_the_others_run(
    rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (rows / "crash.py").write_text(CRASH)
    (tmp_path / "crash.json").write_text("{}")  # of an earlier run: kept, and no answer
    assert cli.main(["bench", "crash", "fast", "--out", str(tmp_path)]) == 6
    told, complaint = capfd.readouterr()
    assert "CRASHED crash" in told
    assert "ours / theirs" in told
    last = complaint.splitlines()[-1]
    assert last.startswith(
        "segkit: error[ENV-BENCH-ROW]: benchmarks/crash.py: RuntimeError: no such"
    )
    assert "Traceback" not in complaint
    assert 'crash.py", line 2' in complaint
    assert (tmp_path / "crash.json").read_text() == "{}"


def test_a_row_that_does_not_end_is_ended(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (rows / "sleep.py").write_text(SLEEP)
    monkeypatch.setattr(bench, "PATIENCE", 1.0)
    assert cli.main(["bench", "sleep"]) == 6
    assert "not done after 1 s" in capfd.readouterr().err
    assert not Path(f"/proc/{(rows / 'pid').read_text()}").exists()
    wait_until(lambda: not alive(int((rows / "child").read_text())))


def test_ctrl_c_ends_the_row_and_what_it_started(rows: Path) -> None:
    (rows / "sleep.py").write_text(SLEEP)
    code = (
        "import sys; from pathlib import Path; from segkit import bench, cli; "
        f"bench.rows_folder = lambda: Path({str(rows)!r}); sys.exit(cli.main(['bench', 'sleep']))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pid = rows / "pid"
    wait_until(lambda: pid.exists() and pid.read_text() != "")
    command.send_signal(signal.SIGINT)
    assert command.wait(20) == 130
    for name in ("pid", "child"):
        wait_until(lambda name=name: not alive(int((rows / name).read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="lifeline is Linux's")
def test_a_row_ends_with_the_command(rows: Path) -> None:
    (rows / "sleep.py").write_text(SLEEP)
    code = (
        "import sys; from pathlib import Path; from segkit import bench, cli; "
        f"bench.rows_folder = lambda: Path({str(rows)!r}); cli.main(['bench', 'sleep'])"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        pid = rows / "pid"
        wait_until(lambda: pid.exists() and pid.read_text() != "")
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
    wait_until(lambda: not alive(int(pid.read_text())))


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slwo"], "CFG-ROW]: slwo: no such row; rows: fast, slow; did you mean slow?"),
        (["--rounds", "0"], "CFG-USAGE]: --rounds: '0'; a whole number, at least 1"),
        (["--rounds=x"], "--rounds: 'x'"),
        (["--rounds"], "--rounds: needs a value"),
        (["--device", "tpu"], "--device: 'tpu'; one of: cpu, cuda"),
        (["--fast"], "--fast: not understood"),
        (["rounds=3"], "rounds=3: not understood"),
        (["--keep", "--out", "x"], "--keep: does not go together with --out"),
    ],
)
def test_wrong_words_end_with_2(
    rows: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert rows.is_dir()
    assert cli.main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_wheel_has_no_rows_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "lib/site-packages/segkit/bench.py"))
    assert cli.main(["bench"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("segkit: error[CFG-BENCH]: ")
    assert "clone the repository and type make bench" in line
    assert cli.main(["bench", "--help"]) == 0


def test_a_place_that_cannot_be_written_is_named(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows.is_dir()
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "--out", str(tmp_path / "file/out")]) == 6
    assert f"{tmp_path}/file/out: Not a directory" in capsys.readouterr().err


def test_without_a_cuda_device_it_ends_with_6_and_one_line(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows.is_dir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cli.main(["bench", "--device", "cuda"]) == 6
    line = capsys.readouterr().err
    assert line.startswith("segkit: error[ENV-NO-CUDA]: --device cuda: ")
    assert line.count("\n") == 1


def test_a_card_has_a_folder_of_its_name() -> None:
    assert bench.slug("NVIDIA H200 (80 GB)") == "nvidia-h200-80-gb"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["startup", "confusion", "input", "crf"])
def test_rows_run_alone(name: str, tmp_path: Path) -> None:
    """Every alternative works, and has its time; whether a bar is met is not asked here."""
    file = tmp_path / "found.json"
    words = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--rounds", "1"]
    done = subprocess.run([*words, "--out", str(file)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(file.read_text())["rows"]
    assert found
    assert all(row["ratio"] > 0 or "CUDA" in row["name"] for row in found if row["seconds"])
    assert all(row["seconds"] or "no CUDA device" in row["note"] for row in found)
    assert os.listdir(tmp_path) == ["found.json"]  # noqa: PTH208
