"""segkit export: the files, what is said in them, and that an unchecked one is none."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import segkit
from segkit import cli, export
from segkit.errors import EnvironmentFault
from segkit.models import export as graphs
from segkit.models.export import Answer
from segkit.schema import Export

TINY = [
    *("experiment=quickstart", "name=tiny", "dataset.size=33", "dataset.count=8"),
    *("dataset.val.count=2", "augment.crop=33", "schedule.batch=4", "workers=0"),
    *("schedule.stages.0.steps=2", "schedule.stages.1.steps=1", "log.tensorboard=false"),
    *("schedule.ema=0.5", "schedule.stages.0.lr=0.001", "schedule.stages.1.lr=0.001"),
]
NAME = "tiny-step3-os8-average"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    assert cli.main(["train", *TINY, f"runs={folder}"]) == 0
    return folder / "tiny"


@pytest.fixture(scope="module")
def written(run: Path) -> tuple[Path, str, str]:
    """Both files as a user makes them, and what the command printed."""
    pytest.importorskip("onnxruntime")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.main(["export", f"ckpt={run}", "os=8", "format=both"]) == 0
    return run / "exports", out.getvalue(), err.getvalue()


def photo(folder: Path, height: int, width: int) -> Path:
    """A picture of squares, so that a network sees more than noise."""
    squares = np.random.default_rng(1).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3))
    pixels = squares.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
    path = folder / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


# -- the files -----------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote_and_nothing_else(written: tuple[Path, str, str]) -> None:
    folder, out, err = written
    names = [f"{NAME}.onnx", f"{NAME}.onnx.json", f"{NAME}.pt2", f"{NAME}.pt2.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    lines = out.splitlines()
    assert len(lines) == 4, out
    assert lines[0].startswith(f"{folder / names[0]} (")
    assert lines[2].startswith(f"{folder / names[2]} (")
    for line in (lines[1], lines[3]):
        assert re.fullmatch(
            r"  checked on 11 random inputs and val-000000: scores differ by .* equal", line
        )
    assert len(err.splitlines()) == 1, err


def test_a_file_says_what_it_is(run: Path, written: tuple[Path, str, str]) -> None:
    import onnx

    folder, _, _ = written
    model = onnx.load(folder / f"{NAME}.onnx")
    (entry,) = (p.value for p in model.metadata_props if p.key == "segkit")
    inside = json.loads(entry)
    net = segkit.load(run)
    assert inside["classes"] == list(net.labels.names)
    assert inside["colours"] == [list(colour) for colour in net.labels.colours]
    assert (inside["mean"], inside["std"]) == (list(net.pixels.mean), list(net.pixels.std))
    assert inside["output_stride"] == 8
    assert inside["preferred_sides"] == [321, 513, 769, 1025]
    assert (inside["segkit"], inside["run"], inside["step"]) == (segkit.__version__, "tiny", 3)
    assert inside["weights"].startswith("none")
    assert inside["scored"] == "average"
    extra = {"segkit.json": ""}
    torch.export.load(folder / f"{NAME}.pt2", extra_files=extra)
    assert json.loads(extra["segkit.json"]) == inside
    for suffix in (".onnx", ".pt2"):
        beside = json.loads((folder / f"{NAME}{suffix}.json").read_text())
        assert inside.items() <= beside.items()
        assert beside["checked"]["image"] == "val-000000"
        assert beside["checked"]["labels_equal"] == beside["checked"]["pixels"]
        assert 0 <= beside["checked"]["largest_difference"] <= beside["checked"]["tolerance"]


def test_a_file_holds_no_place_of_this_machine(written: tuple[Path, str, str]) -> None:
    folder, _, _ = written
    code = str(Path(segkit.__file__).parent).encode()
    for path in folder.iterdir():
        assert code not in path.read_bytes()
        assert str(folder).encode() not in path.read_bytes()


def padded_by(network: Path, pad: int | str) -> None:
    """Say in a file that its run is scored at ``pad``."""
    import onnx

    model = onnx.load(network)
    (entry,) = (p for p in model.metadata_props if p.key == "segkit")
    about = json.loads(entry.value)
    assert about["pad"] == "fit"
    entry.value = json.dumps({**about, "pad": pad})
    onnx.save(model, network)


@pytest.mark.parametrize("pad", ["fit", "none", 60, 64])  # 60 is no OS·k + 1, and 71 is above
def test_the_script_in_the_docs_gives_what_predict_gives(
    run: Path, written: tuple[Path, str, str], tmp_path: Path, pad: int | str
) -> None:
    page = (Path(__file__).parents[1] / "docs/evaluation.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page.split("## Exporting")[1], re.DOTALL)
    assert not re.search('torch|segkit(?!"])', script)
    (tmp_path / "segment.py").write_text(script)
    picture = photo(tmp_path, 50, 71)  # no side of OS·k + 1
    turn = Image.Exif()
    turn[ExifTags.Base.Orientation] = 6  # a phone's photo, taken upright
    Image.open(picture).save(picture, exif=turn)
    network = tmp_path / "network.onnx"
    shutil.copy(written[0] / f"{NAME}.onnx", network)
    if pad != "fit":
        padded_by(network, pad)
    words = [network, picture, tmp_path / "labels.png"]
    done = subprocess.run(
        [sys.executable, tmp_path / "segment.py", *words], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"found: ")
    rule = "null" if pad == "none" else pad
    predict = ["predict", str(picture), f"ckpt={run}", f"out={tmp_path}", "os=8"]
    assert cli.main([*predict, f"eval.pad={rule}"]) == 0
    ours, theirs = (Image.open(tmp_path / n) for n in ("labels/photo.png", "labels.png"))
    assert ours.size == theirs.size == (50, 71)
    assert len(np.unique(ours)) > 1
    assert np.mean(np.asarray(ours) == np.asarray(theirs)) > 0.999
    assert ours.getpalette()[:21] == theirs.getpalette()[:21]


# -- what is no file -----------------------------------------------------------------------------


def pretend(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[torch.Tensor], torch.Tensor]
) -> list[Answer]:
    """An exporter of no cost, whose file answers as the network does and then ``answer``."""
    seen: list[Answer] = []

    def make(net: Answer, about: str) -> bytes:
        seen.append(net)
        return about.encode()

    def runner(data: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
        assert json.loads(data)
        return lambda images: answer(seen[-1](images).detach())

    fake = replace(export.FORMATS["torch"], make=make, runner=runner)
    monkeypatch.setitem(export.FORMATS, "torch", fake)
    return seen


def test_a_file_that_fails_its_check_never_gets_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"ckpt={run}", "format=torch", f"out={tmp_path}"]
    pretend(monkeypatch, lambda logits: logits)
    assert cli.main(words) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2
    for wrong in (
        lambda logits: logits + 1e-3 * logits.abs().max(),
        lambda logits: logits * torch.nan,
        lambda logits: logits[..., 1:],
    ):
        pretend(monkeypatch, wrong)
        capsys.readouterr()
        assert cli.main(words) == 4
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("segkit: error[CKPT-EXPORT-CHECK]: ")
        assert ".pt2: differs from the network by " in last
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("rule", [None, "fit", 60])
def test_a_file_says_how_its_run_pads(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: int | str | None
) -> None:
    pretend(monkeypatch, lambda logits: logits)
    found = export.restored.asked_for

    def scored_so(*words: Any) -> Any:
        trained = found(*words)
        trained.config.values["eval"]["pad"] = rule
        return trained

    monkeypatch.setattr(export.restored, "asked_for", scored_so)
    assert cli.main(["export", f"ckpt={run}", "format=torch", f"out={tmp_path}"]) == 0
    (path,) = tmp_path.glob("*.pt2")
    assert json.loads(path.read_text())["pad"] == ("none" if rule is None else rule)


@pytest.mark.parametrize("out", ["model.onnx", "model.PT2"])
def test_out_is_a_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert cli.main(["export", f"ckpt={run}", f"out={tmp_path / out}"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("segkit: error[CFG-OUT]: out: ")
    assert "out= is the folder" in last
    assert not list(tmp_path.iterdir())


def test_a_broken_package_is_a_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def broken(name: str) -> None:
        asked.append(name)
        if name == "onnxruntime":
            raise OSError("libonnxruntime.so: file too short")

    monkeypatch.setattr(graphs.importlib, "import_module", broken)
    with pytest.raises(EnvironmentFault, match="file too short"):
        list(map(graphs.extra, export.packages_of(["torch", "onnx"])))
    assert asked == ["onnx", "onnxscript", "onnxruntime"]


def test_a_file_that_cannot_be_asked_is_told_from_one_that_lies(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("Guard failed:\n an even side")

    pretend(monkeypatch, refuse)
    assert cli.main(["export", f"ckpt={run}", "format=torch", f"out={tmp_path}"]) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("segkit: error[CKPT-EXPORT-CHECK]: ")
    assert "takes no 1 x 3 x 33 x 49 image (Guard failed: an even side)" in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_its_packages_nothing_is_begun(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["export", f"ckpt={run}", f"out={tmp_path / 'new'}"]) == 6
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("segkit: error[ENV-EXTRA]: format=onnx: ")
    assert "pip install 'segkit[onnx]'" in last
    assert not (tmp_path / "new").exists()


def test_a_stop_leaves_nothing_half(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(logits: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return logits

    pretend(monkeypatch, stopped)
    assert cli.main(["export", f"ckpt={run}", "format=torch", f"out={tmp_path}"]) == 143
    assert "error[STOP-SIGTERM]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "fault"),
    [
        (["format=tflite"], 2, "error[CFG-CHOICE]: format: 'tflite'"),
        (["outputs=masks"], 2, "error[CFG-CHOICE]: outputs: 'masks'"),
        (["os=64"], 2, "error[CFG-OUTPUT-STRIDE]: os: "),
        (["ms=true"], 2, "error[CFG-UNKNOWN-KEY]: ms: "),
        (["device=cuda"], 2, "error[CFG-UNKNOWN-KEY]: device: "),
        (["eval.pad=fit"], 2, "error[CFG-UNKNOWN-KEY]: eval.pad: "),
        (["check=nowhere.png"], 3, "nowhere.png"),
        (["dataset.root=/nowhere"], 2, "dataset.root"),
    ],
)
def test_what_cannot_be(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    fault: str,
) -> None:
    pretend(monkeypatch, lambda logits: logits)
    typed = ["export", f"ckpt={run}", "format=torch", f"out={tmp_path}", *words]
    assert cli.main(typed) == code
    assert fault in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


# -- which network, which image ------------------------------------------------------------------


def test_labels_instead_of_logits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pretend(monkeypatch, lambda labels: labels)
    words = [f"ckpt={run}", "format=torch", "outputs=labels", f"out={tmp_path}"]
    assert cli.main(["export", *words]) == 0
    (path,) = tmp_path.glob("*-labels.pt2")
    assert seen[0].outputs == "labels"
    assert json.loads(path.read_bytes())["output"].startswith("labels: uint8 ")


@pytest.mark.parametrize("weights", ["average", "raw"])
def test_the_weights_are_those_that_eval_takes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    (seen,) = (pretend(monkeypatch, lambda logits: logits),)
    words = [f"ckpt={run}", "format=torch", f"out={tmp_path}", f"eval.weights={weights}"]
    assert cli.main(["export", *words]) == 0
    ours, others = seen[0].net.state_dict(), segkit.load(run, weights=weights).state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in others.items())
    raw = segkit.load(run, weights="raw").state_dict()
    equal = all(torch.equal(ours[key], tensor) for key, tensor in raw.items())
    assert equal == (weights == "raw")
    assert list(tmp_path.glob(f"*-{weights}.pt2"))


def test_a_picture_of_ones_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, lambda logits: logits)
    words = ["export", f"ckpt={run}", "format=torch", f"out={tmp_path / 'out'}"]
    for height, width, used in ((5, 700, [1, 3, 17, 513]), (90, 40, [1, 3, 90, 40])):
        picture = photo(tmp_path, height, width)
        assert cli.main([*words, f"check={picture}", "os=8"]) == 0
        assert "and photo.png: " in capsys.readouterr().out
        (beside,) = (tmp_path / "out").glob("*.json")
        assert json.loads(beside.read_text())["checked"]["inputs"][-1] == used


def test_where_the_runs_data_is_gone_random_inputs_remain(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object) -> None:
        raise export.CheckpointError("GONE", "masks/", "is gone")

    pretend(monkeypatch, lambda logits: logits)
    monkeypatch.setattr(export.parts, "dataset_of", gone)
    assert cli.main(["export", f"ckpt={run}", "format=torch", f"out={tmp_path}"]) == 0
    told = capsys.readouterr()
    assert "checked on random inputs alone (masks/: is gone)" in told.err
    assert "checked on 11 random inputs: " in told.out


def test_the_help_shows_what_export_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--help"]) == 0
    shown = re.findall(r"^  ([\w.]+)=", capsys.readouterr().out, re.MULTILINE)
    assert set(shown) == {
        *("ckpt", "ckpt_kind", "out", "runs", "format", "outputs", "check", "eval.weights")
    }
    assert "densecrf" not in Export.__dataclass_fields__
