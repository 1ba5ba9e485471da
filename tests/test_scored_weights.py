"""Which weights a command takes: the average of a run that kept one, or the raw ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import segkit
from segkit import cli
from segkit.engine import checkpoint
from segkit.engine.seal import digest, seal, unseal
from segkit.errors import ConfigError
from segkit.report.signature import Signature

TINY = [
    *("experiment=quickstart", "dataset.size=33", "dataset.count=8", "dataset.val.count=2"),
    *("augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu", "log.tensorboard=false"),
    *("schedule.stages.0.steps=3", "schedule.stages.1.steps=2", "eval.every=null"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``averaged`` kept an average, ``plain`` did not, ``raw`` has one but validated without.

    So few steps teach nothing: raw weights say class 1 everywhere, averaged ones class 2.
    """
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"plain": [], "averaged": ["schedule.ema=0.9"]}
    kinds["raw"] = [*kinds["averaged"], "eval.weights=raw"]
    for name, words in kinds.items():
        assert cli.main(["train", *TINY, f"name={name}", f"runs={folder}", *words]) == 0
        point = checkpoint.newest(folder / name)
        says(point, "model.safetensors", 1)
        if name != "plain":
            says(point, "average.safetensors", 2)
    return folder


def says(point: Path, name: str, label: int) -> None:
    """Have the weights in the file ``name`` find ``label`` everywhere, rightly sealed."""
    tensors = load_file(point / name)
    tensors["head.classifier.weight"].zero_()
    bias = tensors["head.classifier.bias"]
    bias.copy_(torch.eye(len(bias))[label])
    save_file(tensors, point / name)
    data, manifest = (point / name).read_bytes(), point / checkpoint.MANIFEST
    told = unseal(manifest.read_bytes(), manifest)
    told["files"][name] = {"bytes": len(data), "sha256": digest(data)}
    manifest.write_bytes(seal(told))


CASES = [
    ("plain", (), 1, None),
    ("plain", ("eval.weights=raw",), 1, None),
    ("averaged", ("eval.weights=average",), 2, "average"),
    ("averaged", (), 2, "average"),
    ("averaged", ("eval.weights=raw",), 1, "raw"),
    ("raw", (), 1, "raw"),
    ("raw", ("eval.weights=auto",), 2, "average"),
]


@pytest.mark.parametrize(("run", "words", "label", "scored"), CASES)
def test_eval_scores_the_average_where_there_is_one(
    runs: Path, capsys: pytest.CaptureFixture[str], run: str, words: tuple[str, ...], label: int,
    scored: str | None,
) -> None:  # fmt: skip
    before = set((runs / run).glob("scores/*"))
    plain = ["workers=0", "eval.report=false", "eval.boundaries=false"]
    assert cli.main(["eval", f"ckpt={runs / run}", "device=cpu", *plain, *words]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert ("| last 5 |" if scored is None else f"| last 5 {scored} |") in line
    newest = max((runs / run).glob("scores/*"), key=lambda path: path.stat().st_mtime_ns)
    score = json.loads((newest / "score.json").read_text())
    found = np.array(score["confusion"]).sum(0)
    assert found.argmax() == label
    assert found[label] == found.sum()
    assert score["signature"].get("scored") == scored
    assert str(Signature.from_dict(score["signature"])) in line
    # One folder for each of the two, whatever word was typed for them.
    assert len({*before, newest}) <= (1 if run == "plain" else 2)


@pytest.mark.parametrize(("run", "words", "label", "scored"), [CASES[0], *CASES[3:]])
def test_predict_and_python_take_the_same(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str,
    words: tuple[str, ...], label: int, scored: str | None,
) -> None:  # fmt: skip
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((33, 33, 3), np.uint8)).save(photo)
    command = ["predict", str(photo), f"ckpt={runs / run}", f"out={tmp_path}", "device=cpu"]
    assert cli.main([*command, *words]) == 0
    assert np.unique(Image.open(tmp_path / "labels/photo.png")) == [label]
    assert (f"weights: {scored}" in capsys.readouterr().err) == (scored is not None)
    asked = words[0].partition("=")[2] if words else None
    net = segkit.load(runs / run, weights=asked)
    assert net(net.preprocess(photo)).argmax(1).unique() == label


@pytest.mark.parametrize("command", [["eval"], ["predict", "."]])
def test_an_average_that_is_not_there_is_named_by_its_key(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    Image.fromarray(np.zeros((33, 33, 3), np.uint8)).save(tmp_path / "photo.png")
    words = [str(tmp_path) if word == "." else word for word in command]
    words += [f"ckpt={runs / 'plain'}", "eval.weights=average", "device=cpu"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("segkit: error[CFG-AVERAGE]: eval.weights: ")
    assert "step-00000005" in said
    assert "schedule.ema" in said


def test_python_names_it_too(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval\.weights"):
        segkit.load(runs / "plain", weights="average")
    with pytest.raises(ConfigError, match="auto, average, raw"):
        segkit.load(runs / "plain", weights="best")


def test_an_average_cannot_begin_in_the_middle_of_a_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "name=plain", f"runs={runs}", "resume=true", "schedule.ema=0.9"]
    assert cli.main(["train", *words]) == 2
    assert "schedule.ema: None -> 0.9" in capsys.readouterr().err
    more = "resume_allow=[schedule.ema,schedule.stages.1.steps]"
    assert cli.main(["train", *words, "schedule.stages.1.steps=4", more]) == 4
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("segkit: error[CKPT-NO-AVERAGE]: ")
