"""``segkit data prepare`` as it is typed."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_sets as small

from segkit import cli
from segkit.errors import ExitCode
from segkit.lock import Lock
from segkit.prepare import camvid, command, files
from segkit.prepare.camvid import Facts

SMALL = Facts({"train": 2, "val": 1})


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The room of SEGKIT_DATA, with SegNet's tree in reach and the small counts in force."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "room"))
    small.lay(small.segnet_tree(), tmp_path / "has")
    prepare = camvid.prepare
    monkeypatch.setattr(camvid, "prepare", lambda order: prepare(order, SMALL))
    return tmp_path / "room"


def typed(*words: str) -> int:
    return cli.main(["data", "prepare", *words])


def test_prepared_then_already_prepared(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("camvid", f"from={room.parent / 'has'}") == ExitCode.OK
    first = capsys.readouterr().out
    assert f"camvid prepared: {room / 'camvid'}" in first
    assert "next: segkit data check dataset=camvid" in first
    assert "then: segkit train dataset=camvid" in first
    assert typed("camvid") == ExitCode.OK
    assert "camvid is already prepared" in capsys.readouterr().out


def test_another_room_is_named_in_what_to_type_next(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = room.parent / "other"
    assert typed("camvid", f"from={room.parent / 'has'}", f"root={other}") == ExitCode.OK
    assert f"next: SEGKIT_DATA={other} segkit data check" in capsys.readouterr().out
    assert (other / "camvid/train.txt").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing"], "CFG-COMMAND"),
        (["vok"], "did you mean voc?"),
        (["voc", "rot=x"], "did you mean root?"),
        (["voc", "root="], "type root=VALUE"),
        (["voc", "from"], "type from=VALUE"),
        (["voc", "download=yes"], "CFG-TYPE"),
        (["voc", "link=1"], "CFG-TYPE"),
        (["voc", "--force"], "CFG-UNKNOWN-KEY"),
    ],
)
@pytest.mark.usefixtures("room")
def test_words_that_are_not_understood(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(*words) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize("name", command.SETS)
def test_nothing_there_is_one_line_and_leaves_nothing(
    room: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(name) == ExitCode.DATA
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segkit: error[DATA-SOURCE]: ")
    assert "type from=PATH" in line
    assert list(room.iterdir()) == []


def test_two_at_once(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    room.mkdir()
    lock = Lock(room / ".segkit-camvid.lock")
    assert typed("camvid", f"from={room.parent / 'has'}") == ExitCode.ENVIRONMENT
    (line,) = capsys.readouterr().err.splitlines()
    assert "ENV-DATA-LOCKED" in line
    assert f"pid {os.getpid()}" in line
    lock.release()
    assert typed("camvid", f"from={room.parent / 'has'}") == ExitCode.OK


def test_a_room_that_is_a_file(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    room.write_text("")
    assert typed("camvid", f"from={room.parent / 'has'}") == ExitCode.ENVIRONMENT
    assert "NO-FOLDER" in capsys.readouterr().err


def test_a_full_disk_is_told_and_the_work_goes_on_after_it(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_handle: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_all", full)
        assert typed("camvid", f"from={room.parent / 'has'}") == ExitCode.ENVIRONMENT
    assert "DISK-FULL" in capsys.readouterr().err
    assert not (room / "camvid").exists()
    assert typed("camvid", f"from={room.parent / 'has'}") == ExitCode.OK


def test_ctrl_c_ends_it_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    """SIGINT in the middle of a conversion of many masks: 130, one line, nobody left."""
    (tmp_path / "has").mkdir()
    script = (
        "import sys, time\n"
        "from segkit import cli\n"
        "from segkit.prepare import camvid\n"
        "camvid._convert_one = lambda *job: time.sleep(0.05)\n"
        f"camvid._ids = lambda *split: [str(i) for i in range(2000)]\n"
        f"sys.exit(cli.main(['data', 'prepare', 'camvid', 'from={tmp_path / 'has'}']))\n"
    )
    small.lay(small.segnet_tree(), tmp_path / "has")
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "SEGKIT_DATA": str(tmp_path / "room")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "room/.segkit-camvid/camvid/labels").is_dir():
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, said = process.communicate(timeout=10)
    assert time.monotonic() - begun < 3
    assert process.returncode == ExitCode.SIGINT
    assert said.splitlines()[-1].startswith("segkit: error[STOP-SIGINT]")
    assert "Traceback" not in said


@pytest.mark.parametrize("words", [["data"], ["data", "--help"], ["data", "prepare", "--help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == ExitCode.OK
    assert "prepare" in capsys.readouterr().out


def test_help_and_usage_import_nothing_heavy() -> None:
    script = (
        "import sys; from segkit import cli; cli.main(['data', 'prepare', '--help']); "
        "print([m for m in ('torch', 'scipy', 'albumentations', 'hydra') if m in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert said.splitlines()[-1] == "[]"
