"""Files, configs and links that attack, many in one process."""

import ast
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import figures
import payloads
import pytest
import torch
from cases_security import TARGETS, at, checkpoints, photo, reseal
from sandbox import TINY, Sandbox

import segkit
from segkit import model_import
from segkit.engine import checkpoint
from segkit.engine.seal import tensors_from
from segkit.errors import CheckpointError, RefusedError
from segkit.models.backbones.resnet import r_tiny
from segkit.models.weight_files import read

ROOT = Path(__file__).parents[2]
SANE = (RefusedError, CheckpointError)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The file that a payload would make; no payload did when the test is over."""
    place = tmp_path / "canary"
    yield place
    assert not place.exists(), "a payload was executed"


# -- S1: pickles -----------------------------------------------------------------------------------


def doors(box: Sandbox) -> dict[str, Callable[[Path], object]]:
    """Every function through which the commands take a file, by entry point."""

    def planted(file: Path) -> Path:
        folder = checkpoints(box)[-1]
        (folder / "model.safetensors").write_bytes(file.read_bytes())
        reseal(folder)
        return folder

    return {
        "train pretrained=": read,
        "segkit.build(pretrained=)": lambda file: segkit.build(
            backbone="r_tiny", pretrained=str(file), overrides=("model.channels=8",)
        ),
        "segkit model import": lambda file: model_import.import_file(
            model_import.Call(str(file), overrides=["dataset=shapes"])
        ),
        "eval and predict ckpt=CHECKPOINT": lambda file: checkpoint.load(planted(file)),
        "train resume=true": lambda file: checkpoint.newest(planted(file).parents[1]),
        "segkit.load": lambda file: segkit.load(planted(file)),
        "eval ckpt=FILE": lambda file: segkit.load(file),
    }


def test_no_pickle_is_opened_by_the_two_readers(tmp_path: Path, canary: Path) -> None:
    for name, data in payloads.every_pickle(canary):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SANE):
            read(tmp_path / name)
        with pytest.raises(RefusedError):
            tensors_from(data, tmp_path / name)
        assert not canary.exists(), f"{name} was executed"


@pytest.mark.faults
def test_no_pickle_is_opened_by_any_entry_point(trained: Sandbox, canary: Path) -> None:
    for folder in checkpoints(trained)[:-1]:
        shutil.rmtree(folder)  # a resume would go on from the sound one before
    made = dict(payloads.every_pickle(canary))
    entries = doors(trained)
    for name, data in made.items():
        file = trained.work / name
        file.write_bytes(data)
        for entry, enter in entries.items():
            with pytest.raises(SANE):
                enter(file)
            assert not canary.exists(), f"{name} was executed by {entry}"
        file.unlink()
    figures.keep("B7", pickles=len(made), entry_points=len(entries), pickles_executed=0)
    assert len(made) >= 80


def test_the_payloads_bite(tmp_path: Path) -> None:
    """A reader that unpickles is caught by them: else the tests above would prove nothing."""
    code = (
        "import pickle, sys, zipfile\n"
        "archive = zipfile.ZipFile(sys.argv[1])\n"
        "getattr(pickle, 'lo' + 'ads')(archive.read('archive/data.pkl'))\n"
    )
    canary = tmp_path / "canary"
    bitten = []
    for name, value in payloads.calls(canary).items():
        if name in ("os.system", "getattr-chain", "eval", "pathlib.touch", "pickle.loads"):
            file = tmp_path / "payload"
            file.write_bytes(payloads.zipped({"data.pkl": payloads.opcodes({"a": value}, 4)}))
            subprocess.run([sys.executable, "-c", code, file], check=False, capture_output=True)
            bitten += [name] if canary.exists() else []
            canary.unlink(missing_ok=True)
    assert len(bitten) >= 4, bitten


def test_the_source_unpickles_and_evaluates_nothing() -> None:
    names = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}
    words = {"weights_only=False", "allow_pickle=True"}
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    for path in files:
        calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
        for call in calls:
            function = ast.unparse(call.func)
            assert function not in names, path
            keywords = {f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords}
            assert not keywords & words, path
            if function == "torch.load":
                assert "weights_only=True" in keywords, path


# -- S2: forged configs ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_forged_config_is_refused_by_the_python_side(trained: Sandbox, target: str) -> None:
    for folder in checkpoints(trained):
        change = at("config", "values", "model", "_target_", value=target)
        reseal(folder, change)
    with pytest.raises(RefusedError, match=target):
        segkit.load(trained.run_folder)


def test_hydra_keys_and_resolvers_in_an_artefact_are_inert(trained: Sandbox) -> None:
    forged = {
        "hydra": {"run": {"dir": str(trained.canary)}, "searchpath": ["file:///"]},
        "defaults": [{"override /model": "${oc.env:HOME}"}],
        "name": "${oc.env:HOME}",
    }
    for folder in checkpoints(trained):
        reseal(folder, lambda manifest: manifest["config"]["values"].update(forged))
    result = trained.ok("eval", "workers=0", "ckpt=runs/x")
    assert not trained.canary.exists()
    score = next((trained.run_folder / "scores").rglob("score.json")).read_text()
    assert trained.env["HOME"] not in score + result.out + result.err


# -- S4: safetensors -------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["train pretrained=", "eval and predict ckpt=CHECKPOINT"])
def test_lying_headers_cost_nothing(trained: Sandbox, door: str) -> None:
    enter = doors(trained)[door]
    made = payloads.crafted_safetensors()
    for name, make in made.items():
        file = trained.work / f"{name}.safetensors"
        file.write_bytes(make())
        before, began = _memory_now(), time.monotonic()
        try:
            enter(file)
        except SANE:
            pass
        else:
            assert name == "name", f"{name} was taken"  # a key is no path: it fits no network
        grown = _memory_peak() - before
        assert time.monotonic() - began < 2, name
        assert grown < 300 * 2**20, f"{name}: {grown >> 20} MiB"
        file.unlink()
    figures.keep("B7", safetensors=len(made))


def _memory_now() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
    return _memory("VmRSS")


def _memory_peak() -> int:
    return _memory("VmHWM")


def _memory(kind: str) -> int:
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


# -- S17: links ------------------------------------------------------------------------------------

WRITTEN = ("status.json", "metrics.jsonl", "timing.jsonl", "environment.json", "curve.png")


def test_a_link_at_a_final_name_is_replaced_not_followed(box: Sandbox) -> None:
    outside = box.work / "outside"
    outside.write_text("precious")
    (box.run_folder / "checkpoints").mkdir(parents=True)
    for name in (*WRITTEN, "checkpoints/latest.json", "checkpoints/best.json"):
        (box.run_folder / name).symlink_to(outside)
    (box.run_folder / "checkpoints/step-00000002").symlink_to(box.root / "home")
    result = box.run(*TINY, "resume=true")
    assert outside.read_text() == "precious"
    assert not list((box.root / "home").iterdir())
    assert result.code in (0, 4, 6), result.err
    assert "Traceback" not in result.err


def test_links_where_predictions_go_are_not_followed(trained: Sandbox) -> None:
    photo(trained)
    outside = trained.work / "outside"
    outside.mkdir()
    out = trained.work / "out"
    out.mkdir()
    (out / "labels").symlink_to(outside)
    result = trained.run("predict", "photo.png", "ckpt=runs/x", "out=out")
    assert (result.code, "SAFE-PATH-LINK" in result.last_line) == (7, True), result.err
    assert not list(outside.iterdir())


# -- S19: what is installed, and what imports do ---------------------------------------------------


def test_dependencies_are_pinned_by_hash_above_the_floors() -> None:
    floors = {"torch": (2, 10), "pillow": (12, 3), "hydra-core": (1, 3, 4)}
    for name in ("dev.txt", "bootstrap.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|https?://|file:", text)
        pins = re.split(r"^(?=[a-z0-9])", text, flags=re.M | re.I)[1:]
        for pin in pins:
            assert re.match(r"[\w.-]+==\S+", pin), pin[:60]
            assert "--hash=sha256:" in pin, pin[:60]
            package, version = re.match(r"([\w.-]+)==(\d+(?:\.\d+)*)", pin).groups()  # type: ignore[union-attr]
            assert tuple(map(int, version.split("."))) >= floors.get(package, ())
    declared = (ROOT / "pyproject.toml").read_text()
    for package, floor in floors.items():
        found = re.search(rf'"{package}>=([\d.]+)"', declared)
        assert found, package
        assert tuple(map(int, found[1].split("."))) >= floor


@pytest.mark.faults
def test_nothing_is_fetched_by_an_import(box: Sandbox) -> None:
    for words in (["--help"], ["train", "--cfg", "job"], ["train", "--help"], ["eval", "ckpt=x"]):
        result = box.run(*words, inject="no_network:")
        assert "a socket was opened" not in result.err
        assert result.code == (4 if "ckpt=x" in words else 0), result.err
    every = (
        "import segkit.train, segkit.eval, segkit.predict, segkit.doctor, segkit.api, segkit.sweep"
    )
    code = f"import injectors_security as i; i.INJECTORS['no_network'](''); {every}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=box.env, check=False
    )
    assert done.returncode == 0


# -- C13 and C16: weights and checkpoints that go well ---------------------------------------------


def test_weights_of_a_wrapped_half_precision_network_load(box: Sandbox) -> None:
    state = {f"module.{k}": v.half() for k, v in backbone_state().items() if v.is_floating_point()}
    torch.save(state, box.work / "weights.pth")
    box.ok(*TINY, "pretrained=weights.pth")
    origin = json.loads((box.run_folder / "environment.json").read_text())["weights"]
    assert (origin["kind"], origin["keys_loaded"]) == ("file", len(state))


@pytest.mark.faults
def test_what_a_partial_file_left_out_is_recorded(box: Sandbox) -> None:
    state = backbone_state()
    del state["conv1.weight"]
    torch.save(state | {"more": torch.zeros(2)}, box.work / "weights.pth")
    box.ok(*TINY, "pretrained=weights.pth", "pretrained_strict=false")
    origin = json.loads((box.run_folder / "environment.json").read_text())["weights"]
    assert origin["not_loaded"] == ["conv1.weight"]


def backbone_state() -> dict[str, torch.Tensor]:
    return dict(r_tiny(output_stride=16).state_dict())


def test_a_resume_of_nothing_is_a_fresh_start_and_says_so(box: Sandbox) -> None:
    box.run_folder.mkdir(parents=True)
    result = box.ok(*TINY, "resume=true")
    assert "no run to resume, fresh start" in result.err
