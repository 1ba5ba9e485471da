"""``segkit eval`` writes report.html: the same everywhere, without places, secrets or clocks."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segkit import cli
from segkit.engine.team import Alone
from segkit.errors import hide
from segkit.eval_report import _gathered, settings

TINY = [
    *("experiment=quickstart", "dataset.size=33", "dataset.count=8", "dataset.val.count=14"),
    *("augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu", "log.tensorboard=false"),
    *("schedule.stages.0.steps=3", "schedule.stages.1.steps=2", "eval.every=2", "log.images=0"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", *TINY, "name=tiny", f"runs={folder}"]) == 0
    return folder / "tiny"


def evaluated(run: Path, out: Path, *words: str) -> str:
    assert cli.main(["eval", f"ckpt={run}", f"out={out}", "workers=0", "device=cpu", *words]) == 0
    return (out / "report.html").read_text()


def test_a_page_beside_the_score(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = evaluated(run, tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    assert f"report: {tmp_path / 'out/report.html'}" in printed
    assert printed[-1].startswith("mIoU ")
    score = json.loads((tmp_path / "out/score.json").read_text())
    assert f"<dd>{100 * score['miou']:.2f}</dd>" in text
    assert text.count("<figure") == 12
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    worst = min(images, key=lambda row: row["miou"])
    assert re.search(r"<figcaption><bdi>(.*?)</bdi>", text)[1] == worst["id"]
    assert "Loss, learning rate and validation over 5 steps" in text
    assert "schedule:" in text, "the training's config"
    assert str(tmp_path) not in text, "no place"
    assert str(run.parent) not in text


def test_it_can_be_left_out(run: Path, tmp_path: Path) -> None:
    words = ["eval", f"ckpt={run}", f"out={tmp_path}", "eval.report=false", "workers=0"]
    assert cli.main(words) == 0
    assert (tmp_path / "score.json").is_file()
    assert not (tmp_path / "report.html").exists()


def test_the_same_bytes_elsewhere(run: Path, tmp_path: Path) -> None:
    """Another place, working directory, hash seed and time (row K15)."""
    here = evaluated(run, tmp_path / "here")
    other = tmp_path / "other/place"
    shutil.copytree(run, other / "tiny")
    words = ["eval", "ckpt=tiny", "out=there", "device=cpu", "workers=0"]
    env = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "segkit", *words]
    subprocess.run(command, cwd=other, env=env, check=True, capture_output=True)
    assert (other / "there/report.html").read_text() == here


def test_settings_have_no_secrets_and_no_places() -> None:
    hide('it\'s a "secret" \u2028 of many words', "${oc.env:TOKEN}")
    values = {
        "runs": "/home/me", "out": "/tmp/x", "flip": True, "name": "طريق",
        "dataset": {"root": "/data", "note": "it's a \"secret\" \u2028 of many words, used"},
    }  # fmt: skip
    assert settings(values) == "flip: true\nname: طريق\ndataset:\n  note: ${oc.env:TOKEN}, used\n"
    assert values["runs"] == "/home/me", "the values themselves stay"


@pytest.mark.slow
def test_two_processes_write_the_same_page(run: Path, tmp_path: Path) -> None:
    def alike(text: str) -> str:
        return re.sub(r"<dt>(ranks|threads)</dt>.*|^devices: .*", "", text, flags=re.MULTILINE)

    one = evaluated(run, tmp_path / "one")
    two = evaluated(run, tmp_path / "two", "devices=2")
    assert alike(two) == alike(one)


class Pair(Alone):
    """A process of two: what the other adds is known."""

    size = 2

    def __init__(self, *others: torch.Tensor) -> None:
        self.others = list(others)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + self.others.pop(0)


def test_what_another_process_kept_comes_here() -> None:
    theirs = torch.zeros((3, 4), dtype=torch.uint8)
    theirs[1] = torch.tensor(list(b"abcd"))
    team = Pair(torch.tensor([0, 4, 0]), theirs)
    assert _gathered([b"xy", b"", b""], team) == [b"xy", b"abcd", b""]
    assert _gathered([], Alone()) == []
    assert _gathered([b""], Alone()) == [b""]
