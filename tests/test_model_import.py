"""``segkit model import``: what it writes, what it says, and what it does not take."""

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from segkit import cli, restored
from segkit.data.labels import CAMVID, VOC
from segkit.errors import CheckpointError, ExitCode
from segkit.model_import import Call, import_file, main
from segkit.models.foreign.sources import SOURCES

SHAPES = 7  # classes of dataset=shapes


def tensors(classes: int = 21) -> dict[str, Tensor]:
    """A small network of another project: smp's DeepLabV3Plus on a ResNet-18, 16 channels wide."""
    torch.manual_seed(0)
    net = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=classes, decoder_channels=16)
    return net.state_dict()


def smp_on(encoder: str) -> Callable[[], torch.nn.Module]:
    return partial(smp.DeepLabV3Plus, encoder, encoder_weights=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("theirs")

    def file(classes: int = 21) -> Path:
        path = folder / f"theirs{classes}.pth"
        if not path.exists():
            torch.save(tensors(classes), path)
        return path

    return file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(run: str) -> restored.Trained:
    path = restored.find(f"runs/{run}", "runs", "last")
    return restored.load(path, os=None, device=torch.device("cpu"), config_dir=None)


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """The exit code and the one line; whatever failed, no run is left behind."""
    code = cli.main(["model", "import", *map(str, argv)])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert not list(Path("runs").glob("*/checkpoints/*"))
    return code, said[0]


# -- what it makes -------------------------------------------------------------------------------


def test_a_run_with_one_checkpoint(made, capsys):
    assert cli.main(["model", "import", str(made()), "name=theirs"]) == 0
    said = capsys.readouterr().out
    count = len(tensors())
    for line in (
        "format: smp, guessed from its keys",
        "network: model=v3plus_smp backbone=r18 os=16, 21 classes (voc)",
        f"keys used: {count}",
        "keys unused: 0",
        "keys missing: 0",
        "run: runs/theirs",
        "next: segkit predict photos/ ckpt=runs/theirs",
    ):
        assert line in said.splitlines()
    trained = load("theirs")
    assert (trained.labels, trained.step, trained.kind) == (VOC, 0, "last")
    origin = dict(trained.weights)
    digest = origin.pop("sha256")
    assert len(digest) == 64
    assert origin == {
        "kind": "import",
        "format": "smp",
        "file": "theirs21.pth",
        "keys_loaded": count,
        "keys_unused": [],
        "not_loaded": [],
    }
    status = json.loads(Path("runs/theirs/status.json").read_text())
    assert (status["state"], status["last_checkpoint"]) == ("finished", "step-00000000")
    ours = trained.net.state_dict()["head.classifier.weight"]
    assert torch.equal(ours, tensors()["segmentation_head.0.weight"])


def test_eval_and_predict_take_it(made, here, capsys):
    given = [str(made(SHAPES)), "dataset=shapes", f"num_classes={SHAPES}", "name=theirs"]
    assert cli.main(["model", "import", *given]) == 0
    typed = ["ckpt=runs/theirs", "device=cpu", "workers=0", "eval.limit=1", "eval.pictures=0"]
    assert cli.main(["eval", *typed]) == 0
    assert "import:theirs" in capsys.readouterr().out
    (here / "photos").mkdir()
    Image.new("RGB", (40, 30)).save("photos/a.png")
    assert cli.main(["predict", "photos", "ckpt=runs/theirs", "device=cpu", "out=found"]) == 0
    assert Image.open("found/labels/a.png").size == (40, 30)


@pytest.mark.slow
def test_without_a_name_each_file_has_its_own_run(made):
    main([str(made())])
    main([str(made(SHAPES)), "--from", "smp", "dataset=shapes"])
    assert len(list(Path("runs").glob("v3plus_smp-r18-os16-*"))) == 2


def test_safetensors_half_precision_and_dataparallel():
    half = {f"module.{k}": t.half() if t.ndim > 1 else t for k, t in tensors().items()}
    save_file(half, "theirs.safetensors")
    main(["theirs.safetensors", "name=theirs"])
    assert {t.dtype for t in load("theirs").net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("classes", "typed", "names"),
    [
        (11, ["dataset=camvid"], CAMVID.names),
        pytest.param(3, [], ("class 0", "class 1", "class 2"), marks=pytest.mark.slow),
    ],
)
def test_classes(classes, typed, names, made):
    main([str(made(classes)), "name=theirs", *typed])
    found = load("theirs").labels
    assert found.num_classes == classes
    assert found.names == names


def test_what_is_typed_wins(made):
    main([str(made()), "name=theirs", "os=8", "model.rates=[6,12,18]", "num_classes=21"])
    trained = load("theirs")
    assert trained.net.output_stride == 8
    assert trained.config.values["model"]["rates"] == [6, 12, 18]


def test_a_classifier_is_what_a_training_starts_from(capsys):
    prefix = "encoder."
    torch.save(
        {k.removeprefix(prefix): t for k, t in tensors().items() if k.startswith(prefix)}
        | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        "theirs.pth",
    )
    Path("own").mkdir()
    main(["theirs.pth", "name=theirs", "model=v3", "--config-dir", "own"])
    said = capsys.readouterr().out
    assert "keys unused: 2 (fc.weight, fc.bias)" in said
    assert "keys missing: 32 (head.aspp.branches.0.0.weight, " in said
    words = "segkit train model=v3 backbone=r18 pretrained=runs/theirs --config-dir own"
    assert f"next: {words}" in said.splitlines()
    load("theirs")
    told = capsys.readouterr().err
    assert "the imported file has no head.aspp.branches.0.0.weight (and 31 more)" in told


def test_help(capsys):
    assert cli.main(["model", "import", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SOURCES)
    assert max(map(len, said.splitlines())) <= 100


# -- what it does not take -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["num_classes=19"], ExitCode.CHECKPOINT, "head.classifier.weight [21, 16, 1, 1] for [19,"),
        (["dataset=camvid"], ExitCode.CHECKPOINT, "head.classifier.weight [21, 16, 1, 1] for [11,"),
        (["backbone=r34"], ExitCode.CHECKPOINT, "missing (backbone.layer1.2.conv1.weight, "),
        (["model=v3plus"], ExitCode.CHECKPOINT, "missing (head.aspp.branches.1.0.weight, "),
        (["dataset=camvid", "num_classes=21"], ExitCode.USAGE, "CFG-RANGE]: num_classes: 21, but"),
        (["num_classes=many"], ExitCode.USAGE, "CFG-RANGE]: num_classes: found 'many'"),
        (["num_classes=1"], ExitCode.USAGE, "CFG-RANGE]: num_classes: found '1'"),
        (["--from", "nobody"], ExitCode.USAGE, "CFG-USAGE]: --from: 'nobody'"),
        (["--from"], ExitCode.USAGE, "CFG-USAGE]: --from: needs a value"),
        (["--fro", "smp"], ExitCode.USAGE, "CFG-USAGE]: --fro: no such option"),
        (["--from=torchvision"], ExitCode.CHECKPOINT, "it looks like --from smp"),
        (["resume=true"], ExitCode.USAGE, "CFG-USAGE]: resume"),
        (["bakbone=r50"], ExitCode.USAGE, "backbone"),
        (["model.rates=[5]", "os=32"], ExitCode.USAGE, "model.rates"),
    ],
)
def test_what_does_not_fit(typed, code, said, made, capsys):
    found, line = fails(capsys, made(), *typed)
    assert found == code, line
    assert said in line


def test_no_file(capsys):
    assert fails(capsys, "name=x")[0] == ExitCode.USAGE
    code, line = fails(capsys, "nowhere.pth")
    assert code == ExitCode.CHECKPOINT
    assert "CKPT-WEIGHTS-MISSING]: nowhere.pth" in line
    assert "segkit model import" in line


def test_keys_of_nobody(capsys):
    torch.save({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}, "x.pth")
    code, line = fails(capsys, "x.pth")
    assert code == ExitCode.CHECKPOINT
    assert "CKPT-WEIGHTS-FORMAT]: x.pth: its keys are of no known project" in line
    assert "the first are a.weight, b.weight" in line
    torch.save({}, "x.pth")
    assert fails(capsys, "x.pth")[0] == ExitCode.CHECKPOINT


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (smp_on("mobilenet_v2"), "smp: of this project's encoders only resnet18"),
        (smp_on("resnext50_32x4d"), "smp: of this project's encoders only resnet18"),
        (
            lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
                weights_backbone=None
            ),
            "torchvision: of this project's backbones only ResNets (18, 34, 50, 101)",
        ),
        (lambda: timm.create_model("resnet152"), "timm: of its ResNets and aligned Xceptions only"),
        (torchvision.models.vgg16, "train model=v1 backbone=vgg16 pretrained="),
        (torchvision.models.mobilenet_v2, "segkit train backbone=mnv2 pretrained="),
        (
            lambda: timm.create_model("resnet50d"),
            "segkit train backbone=timm backbone.network=NAME pretrained=",
        ),
    ],
)
def test_networks_there_are_none_of_here(theirs, said, tmp_path):
    with torch.device("meta"):
        net = theirs()
    # One value each: such a file is judged by its names and shapes.
    tensors = {
        k: torch.zeros((), dtype=t.dtype).expand(t.shape) for k, t in net.state_dict().items()
    }
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as fault:
        import_file(Call(str(tmp_path / "x.pth")))
    assert fault.value.id == "CKPT-WEIGHTS-FORMAT"
    assert said in str(fault.value)


def test_lightnings_prefix(capsys):
    lightning = {f"model.{key}": tensor for key, tensor in tensors().items()}
    torch.save({"state_dict": lightning, "epoch": 3}, "theirs.ckpt")
    main(["theirs.ckpt", "name=theirs"])
    assert "format: smp" in capsys.readouterr().out
    ours = load("theirs").net.state_dict()["head.classifier.weight"]
    assert torch.equal(ours, tensors()["segmentation_head.0.weight"])


def test_an_extra_key_and_a_lost_one(capsys):
    theirs = tensors()
    del theirs["decoder.block1.0.weight"]
    strange = {f"decoder.{name}": torch.zeros(1) for name in ("s", "q", "r")}
    torch.save(theirs | strange, "x.pth")
    code, line = fails(capsys, "x.pth")
    assert code == ExitCode.CHECKPOINT
    said = "1 missing (head.reduce.0.weight); 3 extra (decoder.q, decoder.r, decoder.s)"
    assert said in line


def test_numbers_that_are_none(capsys):
    theirs = tensors()
    theirs["decoder.block1.0.weight"][0] = float("nan")
    torch.save(theirs, "x.pth")
    code, line = fails(capsys, "x.pth")
    assert code == ExitCode.CHECKPOINT
    assert "head.reduce.0.weight" in line


def test_a_pickle_that_runs_code_is_refused(capsys):
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (Path("canary"),)

    Path("x.pth").write_bytes(pickle.dumps({"encoder.conv1.weight": Payload()}))
    assert fails(capsys, "x.pth")[0] == ExitCode.REFUSED
    torch.save({"encoder.conv1.weight": Payload()}, "y.pth")
    code, line = fails(capsys, "y.pth", "--from", "smp")
    assert code == ExitCode.REFUSED
    assert "SAFE-PICKLE]: y.pth" in line
    assert not Path("canary").exists()


def test_a_run_of_that_name_is_there(made, capsys):
    Path("own").mkdir()
    main([str(made()), "name=theirs", "--config-dir", "own"])
    said = capsys.readouterr().out
    assert "next: segkit predict photos/ ckpt=runs/theirs --config-dir own" in said
    before = load("theirs").digest
    assert cli.main(["model", "import", str(made()), "name=theirs"]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "CFG-RUN-EXISTS" in err
    assert "name=..." in err
    assert "resume" not in err
    assert load("theirs").digest == before
