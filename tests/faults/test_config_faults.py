"""Configs, paths and arguments that must go well, or be refused in one process."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases_config import BOMB
from PIL import Image
from sandbox import TINY, Sandbox

import segkit
from segkit.config import compose
from segkit.errors import ConfigError, SegkitError
from segkit.sound_yaml import sound_text

# -- G8: secrets -----------------------------------------------------------------------------------

SECRET = "canary-of-the-environment"

MODULE = """
import os
from collections.abc import Sequence
from segkit.data.shapes import Shapes

class Secret(Shapes):
    def __init__(self, split: str, token: str, root: str, size: int, count: int) -> None:
        super().__init__(split, size, count)
        self.root = root

    def read(self, index: int):
        if "BREAK" in os.environ and index == 7:
            raise OSError(2, "no such file", f"{self.root}/7.png")
        return super().read(index)
"""

DATASET = """# @package _global_
dataset:
  name: secret
  _target_: own.Secret
  token: ${oc.env:SECRET}
  root: ${dataset.token}/pictures
  size: 33
  count: 8
  train_split: train
  val_split: val
  val: {count: 2}
"""

OWN = ("dataset=secret", "--config-dir=conf", "--trust=own")


@pytest.fixture
def own_data(box: Sandbox) -> Sandbox:
    """A sandbox with a data set of the user's own, which is told a secret."""
    (box.work / "own.py").write_text(MODULE)
    (box.work / "conf/dataset").mkdir(parents=True)
    (box.work / "conf/dataset/secret.yaml").write_text(DATASET)
    box.env["SECRET"] = SECRET
    return box


def holding(secret: str, folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


def test_a_value_from_the_environment_is_written_nowhere(own_data: Sandbox) -> None:
    own_data.ok(*TINY, *OWN, inject="own_modules:")
    words = ("eval", "workers=0", "ckpt=runs/x", "--config-dir=conf", "--trust=own")
    own_data.ok(*words, inject="own_modules:")
    assert "${oc.env:SECRET}" in (own_data.run_folder / "config.yaml").read_text()
    assert list(own_data.run_folder.rglob("score.json"))
    assert not holding(SECRET, own_data.work / "runs")


def test_a_failing_run_does_not_tell_either(own_data: Sandbox) -> None:
    result = own_data.run(*TINY, *OWN, inject="own_modules:", env={"BREAK": "1"})
    assert result.code not in (0, 2), result.err
    assert (own_data.run_folder / "logs/error-rank0.log").is_file()
    assert "${oc.env:SECRET}" in result.last_line
    assert not holding(SECRET, own_data.work / "runs")


@pytest.mark.faults
def test_a_stored_secret_is_asked_for_by_its_key(own_data: Sandbox) -> None:
    mine = own_data.work / "conf/dataset/secret.yaml"
    own_data.ok(*TINY, *OWN, inject="own_modules:")
    mine.write_text(DATASET.replace("${oc.env:SECRET}", "${oc.env:OTHER,x}"))
    words = ("eval", "workers=0", "ckpt=runs/x", "--config-dir=conf", "--trust=own")
    result = own_data.run(*words, inject="own_modules:")
    assert (result.code, "dataset.token" in result.last_line) == (2, True), result.err
    assert "type dataset.token=..." in result.last_line
    typed = ("dataset.token=a", "dataset.root=b")
    own_data.ok(*words, *typed, inject="own_modules:")


def test_an_alias_bomb_costs_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    (tmp_path / "bomb.yaml").write_text(BOMB)
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"bomb\.yaml:\d+:\d+: aliases expand"):
        sound_text(tmp_path / "bomb.yaml")
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


# -- G10: paths ------------------------------------------------------------------------------------

NAMES = {
    "space": "my own runs",
    "nfc": unicodedata.normalize("NFC", "läufe"),
    "nfd": unicodedata.normalize("NFD", "läufe"),
    "newline": "a\nb",
    "dash": "-x",
    "quote": "it's",
    "grammar": "a,b=[c]{d}:$e",
    "backslash": "a\\",
    "unclosed": "$(x",
    "long": "x" * 255,
    "hash": "a #b",
    "percent": "100%",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_folder_of_any_name_holds_runs(name: str) -> None:
    assert compose("train", [f"runs={name}"]).values["runs"] == name
    assert compose("eval", [f"ckpt=runs/{name}", f"out={name}"]).values["out"] == name


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_config_dir_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / "experiment/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nseed: 7\n")
    values = compose("train", ["experiment=mine"], str(tmp_path / name)).values
    assert values["seed"] == 7


@pytest.mark.faults
def test_odd_names_go_through_train_eval_and_predict(box: Sandbox) -> None:
    (box.work / "real").mkdir()
    (box.work / "läufe, meine").symlink_to("real")
    pictures = ["a b.png", "ä.png", unicodedata.normalize("NFD", "ö.png"), "-x.png", "it's.png"]
    pictures.append("y" * 251 + ".png")
    for picture in pictures:
        Image.new("RGB", (33, 33)).save(box.work / picture)
    box.ok(*TINY, "runs=läufe, meine")
    assert (box.work / "real/x/status.json").is_file()
    box.ok("eval", "workers=0", "runs=läufe, meine", "out=it's out")
    assert (box.work / "it's out/score.json").is_file()
    box.ok("predict", *pictures, "ckpt=läufe, meine/x", "out=p q")
    assert len(list((box.work / "p q/labels").iterdir())) == len(pictures)


def test_a_checkpoint_does_not_know_where_it_was_made(trained: Sandbox, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    trained.ok(*TINY, f"runs={elsewhere}", "resume=true")
    files = sorted((elsewhere / "x/checkpoints").glob("step-*/*"))
    assert files
    for file in files:
        twin = trained.run_folder / file.relative_to(elsewhere / "x")
        assert file.read_bytes() == twin.read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes()


@pytest.mark.faults
def test_a_typed_root_is_found_again_and_stays_out_of_the_checkpoint(own_data: Sandbox) -> None:
    own_data.ok(*TINY, *OWN, "dataset.root=/my/place", inject="own_modules:")
    assert not holding("/my/place", own_data.run_folder / "checkpoints")
    assert "/my/place" in (own_data.run_folder / "config.yaml").read_text()
    words = ("eval", "workers=0", "ckpt=runs/x", "--config-dir=conf", "--trust=own")
    own_data.ok(*words, inject="own_modules:")


# -- the Python side -------------------------------------------------------------------------------


def build(**changed: Any) -> object:
    return segkit.build(**{"backbone": "r_tiny", "overrides": ("model.channels=8",), **changed})


ARGUMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "num_classes": (lambda _: build(num_classes=0), "num_classes"),
    "num_classes-type": (lambda _: build(num_classes="21"), "num_classes"),
    "overrides": (lambda _: build(overrides="model.channels=8"), "overrides"),
    "os": (lambda _: build(os=0), "os"),
    "os-type": (lambda _: build(os="sixteen"), "os"),
    "load-kind": (lambda run: segkit.load(run, kind="x"), "kind"),
    "load-os": (lambda run: segkit.load(run, os=0), "os"),
    "load-device": (lambda run: segkit.load(run, device="tpu"), "device"),
    "float-image": (lambda run: picture(run, np.zeros((33, 33, 3))), "image"),
    "grey-image": (lambda run: picture(run, np.zeros((33, 33), np.uint8)), "image"),
    "empty-image": (lambda run: picture(run, np.zeros((0, 33, 3), np.uint8)), "image"),
    "text-image": (lambda run: picture(run, [1, 2]), "image"),
}


def picture(run: Path, image: Any) -> object:
    return segkit.load(run).preprocess(image)


@pytest.mark.parametrize("call", ARGUMENTS, ids=ARGUMENTS.keys())
def test_a_wrong_argument_is_named(finished_run: Path, call: str) -> None:
    enter, name = ARGUMENTS[call]
    with pytest.raises(SegkitError) as caught:
        enter(finished_run)
    assert caught.value.where == name, caught.value.line()
