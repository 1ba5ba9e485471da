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
from segkit.errors import EnvironmentFault, hide
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


PLAIN = ("eval.boundaries=false", "eval.limit=4")


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_nothing_of_a_former_score_stays_beside_the_new_one(run: Path, tmp_path: Path) -> None:
    out, own = tmp_path / "out", tmp_path / "out/pictures/own.png"
    evaluated(run, out, *PLAIN, "eval.pictures=3", "eval.save_predictions=true")
    own.write_bytes(b"mine")
    ids = [row["id"] for row in json.loads((out / "images.json").read_text())["images"]]
    for kind in ("pictures", "predictions"):
        assert {path.stem for path in (out / kind).iterdir()} >= set(ids[:3])
    words = [*PLAIN, "eval.pictures=1", "eval.limit=2", "eval.report=false", "workers=0"]
    assert cli.main(["eval", f"ckpt={run}", f"out={out}", "device=cpu", *words]) == 0
    left = {"score.json", "images.json", f"pictures/{ids[0]}.png", "pictures/own.png"}
    assert files(out) == left
    assert not (out / "predictions").exists()


def test_what_only_looks_like_a_former_score_stays(run: Path, tmp_path: Path) -> None:
    """A folder of other things, and an images.json that leads out of it or through a link."""
    out, away = tmp_path / "out", tmp_path / "away"
    kept = [tmp_path / "away.png", away / "far.png", out / "report.html", out / "predictions/a.png"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    (out / "pictures").mkdir()
    (out / "pictures/link").symlink_to(away)
    ids = ["../../away", "link/far", "\0", "x" * 5000, f"{tmp_path}/away"]
    (out / "images.json").write_text(json.dumps({"images": [{"id": name} for name in ids]}))
    words = [*PLAIN, "eval.pictures=0", "eval.report=false", "workers=0", "device=cpu"]
    assert cli.main(["eval", f"ckpt={run}", f"out={out}", *words]) == 0
    assert all(path.read_bytes() == b"mine" for path in kept)


@pytest.mark.parametrize("pictures", [0, 1])
def test_a_score_is_gone_before_new_pictures_come_and_not_earlier(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: int
) -> None:
    evaluated(run, tmp_path, *PLAIN, "eval.pictures=1")
    before = files(tmp_path)
    asked = ["eval", f"ckpt={run}", f"out={tmp_path}", *PLAIN, "workers=0", "device=cpu"]
    assert cli.main([*asked, "dataset.root=/nowhere", "dataset.wrong=1"]) == 2
    assert files(tmp_path) == before

    def breaks(*_: object, **__: object) -> None:
        raise EnvironmentFault("BROKEN", "here", "stopped in the middle")

    monkeypatch.setattr("segkit.engine.evaluate.Score", breaks)
    assert cli.main([*asked, f"eval.pictures={pictures}"]) != 0
    gone = {"score.json", "report.html"} if pictures else set()
    assert before - files(tmp_path) == gone


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
