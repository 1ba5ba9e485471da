"""segkit model weights: every backbone's line, what is here, and a changed file accepted."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from segkit import cli
from segkit.conf_files import choices_of
from segkit.models.backbones.resnet import resnet
from segkit.models.known_weights import compare, known

SYMMETRIC = ("r50_beta", "r101_beta", "x41", "x65", "x71")
KEYS = (
    *("backbone", "file", "address", "source", "checksum", "sha256_at_first_use", "licence"),
    *("preprocessing", "path", "note"),
)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``$SEGKIT_WEIGHTS``, and an empty cache beside it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(folder))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder


def table(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    assert cli.main(["model", "weights", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("room")
def test_every_backbone_has_its_lines(capsys):
    rows = table(capsys)
    assert list(dict.fromkeys(row["backbone"] for row in rows)) == choices_of("backbone")
    for row in rows:
        assert tuple(row) == KEYS
        assert row["path"] is None
        pixels = row["preprocessing"]
        assert (pixels["channels"], pixels["range"]) == ("RGB", [0, 1])
        if row["backbone"] in SYMMETRIC:
            assert pixels["mean"] == pixels["std"] == [0.5] * 3
        if row["file"] is None:
            assert row["note"]
            continue
        assert row["licence"]
        assert row["source"]
        assert (row["checksum"] == "unverified") == (row["address"] is None)
    without = {row["backbone"]: row["note"] for row in rows if row["file"] is None}
    assert without.keys() >= {"r_tiny", "r101_caffe", "r50_beta", "r101_beta"}
    assert "resnet_v1_101_2018_05_04.tar.gz" in without["r101_beta"]
    assert "resnet_v1_50_beta" in without["r50_beta"]
    assert "ResNet-101-model.caffemodel" in without["r101_caffe"]
    assert "caffe, which replaces ImageNet's pixels" in without["r101_caffe"]


@pytest.mark.parametrize("name", ["r101_caffe", "r50_beta", "r101_beta", "r50_v1c", "r101_v1c"])
def test_the_key_names_a_converted_file_needs(name, capsys):
    """All there are in front of the blocks."""
    (row,) = table(capsys, f"backbone={name}")
    depth, style = name[1:].split("_")
    with torch.device("meta"):
        own = resnet(int(depth), style, output_stride=32).state_dict()
    stem = {key.rpartition(".")[0] for key in own if not key.startswith("layer")}
    said = row["note"].partition("a converted file has ")[2].partition(": pretrained=FILE")[0]
    words = {word.strip("(,:").removesuffix(".*").removesuffix(".weight") for word in said.split()}
    assert {word for word in words if word.startswith(("conv1", "bn1"))} == stem


def test_what_is_here_and_what_it_was(room, capsys):
    name = "resnet50_msra_keras_fp16.pth"
    torch.save({"a": torch.ones(1)}, room / name)
    digest = sha256((room / name).read_bytes()).hexdigest()
    (row,) = table(capsys, "backbone=r50_caffe")
    assert (row["path"], row["checksum"]) == (str(room / name), "unverified")
    assert (row["licence"], row["sha256_at_first_use"]) == ("MIT", None)
    compare(name, "0" * 64)
    assert cli.main(["model", "weights", f"accept={name}"]) == 0
    assert digest in capsys.readouterr().out
    assert known() == {name: digest}
    (row,) = table(capsys, "backbone=r50_caffe")
    assert row["sha256_at_first_use"] == digest
    assert cli.main(["model", "weights", "backbone=r50_caffe"]) == 0
    head, line, _, *story, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["backbone", "file", "checksum", "here"]
    assert line.split()[:2] == ["r50_caffe", name]
    assert line.split()[-1] == "yes"
    assert f"unverified, {digest[:8]}... at first use" in line
    for word in (name, "MIT", "RGB/255", str(room)):
        assert word in " ".join(story)
    assert last.endswith("known-weights.json")


@pytest.mark.usefixtures("room")
def test_the_address_stands_in_the_line(capsys):
    assert cli.main(["model", "weights", "backbone=x65"]) == 0
    _, line, _, *story, _ = capsys.readouterr().out.splitlines()
    assert line.split() == ["x65", "tf_xception_65-c9ae96e8.pth", "c9ae96e8...", "no"]
    assert story[-1].endswith("/tf_xception_65-c9ae96e8.pth")
    assert "Apache-2.0" in " ".join(story)
    assert "RGB from -1 to 1" in " ".join(story)


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("accept=nothing.pth", "CFG-UNKNOWN-CHOICE", "nothing.pth"),
        ("accept=../x.pth", "CFG-UNKNOWN-CHOICE", "../x.pth"),
        ("accept=x.pth --json", "CFG-USAGE", "accept"),
        ("backbone=r51", "CFG-UNKNOWN-CHOICE", "did you mean r50?"),
        ("model=v3", "CFG-USAGE", "model=v3"),
        ("--fast", "CFG-USAGE", "--fast"),
    ],
)
def test_one_line_and_code_2(words, error, said, capsys):
    assert cli.main(["model", "weights", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"segkit: error[{error}]")
    assert said in err


@pytest.mark.usefixtures("room")
def test_a_backbone_of_ones_own_needs_trust(tmp_path, monkeypatch, capsys):
    """The class is the user's, so its module is named on this very command."""
    (tmp_path / "own/backbone").mkdir(parents=True)
    (tmp_path / "own/backbone/mine.yaml").write_text("_target_: my_networks.mine\n")
    (tmp_path / "my_networks.py").write_text(
        "from segkit.models.backbones.resnet import r_tiny as mine\n"
        "from segkit.models.weights import ImageNetWeights, WeightFile\n"
        "def mine(*, output_stride, multi_grid=None, make=mine):\n"
        "    net = make(output_stride=output_stride, multi_grid=multi_grid)\n"
        "    net.imagenet = ImageNetWeights((WeightFile('mine.pth', licence='MIT'),))\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["backbone=mine", "--config-dir", "own"]
    assert cli.main(["model", "weights", *words]) == 7
    assert "--trust" in capsys.readouterr().err
    (row,) = table(capsys, *words, "--trust", "my_networks")
    assert (row["file"], row["licence"]) == ("mine.pth", "MIT")
