"""A run as the start of another: ``pretrained=runs/NAME``."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segkit import cli, parts, start
from segkit.config import compose
from segkit.data.labels import LabelSet
from segkit.models.segmenter import Segmenter
from segkit.models.weights import load_whole
from segkit.report.signature import Signature

TINY = [
    *("dataset=shapes", "dataset.size=33", "dataset.count=4", "dataset.val={count: 1}"),
    *("augment.crop=33", "schedule.batch=2", "workers=0", "device=cpu", "log.tensorboard=false"),
]
TRAIN = ["train", "model=v3", "backbone=r_tiny", *TINY]
TRAIN += ["schedule.stages=[{name: a, steps: 2, lr: 0.01}]"]
POINT = "checkpoints/step-00000002"
CLASSIFIER = ("head.classifier.weight", "head.classifier.bias")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``first`` with an average that it is scored by; ``raw`` with one that it is not scored by."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = [*TRAIN, "pretrained=none", "schedule.ema=0.9"]
        assert cli.main([*words, "name=first"]) == 0
        assert cli.main([*words, "name=raw", "eval.weights=raw"]) == 0
    return place


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    for run in home.glob("runs/second*"):
        shutil.rmtree(run)
    return home


def network(num_classes: int, model: str = "v3") -> Segmenter:
    words = [f"model={model}", "backbone=r_tiny", *TINY, "pretrained=none"]
    return parts.network_of(compose("train", words).values, num_classes, 16)


def taken(ours: Segmenter, theirs: Segmenter, **how: bool) -> list[str]:
    tensors = theirs.state_dict()
    return load_whole(ours.backbone, ours.head, tensors, where="x", strict=True, **how)[1]


def begun(run: str) -> dict[str, torch.Tensor]:
    return load_file(f"runs/{run}/checkpoints/step-00000000/model.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], prefix: str = "") -> bool:
    named = (k for k in theirs if k.startswith(prefix) and "num_batches" not in k)
    return all(torch.equal(ours[key], theirs[key]) for key in named)


def test_a_whole_network_is_taken_whole():
    theirs, ours = network(7), network(7)
    assert taken(ours, theirs) == []
    assert same(ours.state_dict(), theirs.state_dict())


def test_another_count_of_classes_begins_with_a_classifier_of_its_own():
    theirs, ours = network(7), network(3)
    before = ours.head.classifier.weight.clone()
    assert taken(ours, theirs) == list(CLASSIFIER)
    assert torch.equal(ours.head.classifier.weight, before)
    assert same(ours.head.aspp.state_dict(), theirs.head.aspp.state_dict())


def test_another_head_takes_the_backbone_and_what_is_alike():
    theirs, ours = network(7), network(7, "v3plus")
    left = taken(ours, theirs)
    assert left
    assert all(name.startswith("head.") for name in left)
    assert same(ours.state_dict(), theirs.state_dict(), "backbone.")


@pytest.mark.parametrize(
    ("named", "file"),
    [
        ("runs/first", "average"),
        ("runs/raw", "model"),
        (f"runs/first/{POINT}", "average"),
        (f"runs/first/{POINT}/model.safetensors", "model"),
        (f"runs/raw/{POINT}/average.safetensors", "average"),
    ],
)
def test_a_run_gives_the_weights_it_was_scored_by_unless_a_file_is_named(here, named, file):
    assert cli.main([*TRAIN, f"pretrained={named}", "name=second"]) == 0
    source = here / "runs" / named.split("/")[1] / POINT / f"{file}.safetensors"
    assert same(begun("second"), load_file(source))


def test_where_it_came_from_is_known_to_every_score(here):
    assert cli.main([*TRAIN, "pretrained=runs/first", "name=second"]) == 0
    assert cli.main([*TRAIN, "pretrained=runs/second", "name=second-third"]) == 0
    assert cli.main(["eval", "ckpt=runs/second-third", "device=cpu", "workers=0"]) == 0
    score = json.loads(next(here.glob("runs/second-third/scores/*/score.json")).read_text())
    weights = Signature.from_dict(score["signature"]).weights.split(" < ")
    assert [text.rpartition(":")[0] for text in weights[:2]] == [
        "run:second@2",
        "run:first@2-average",
    ]
    assert weights[2] == "none"


def test_classes_of_other_names_keep_a_classifier_of_their_own(here):
    """As many as before: the shapes would fit."""
    labels = parts.dataset_of(compose("train", [*TRAIN[1:]]).values, "val").labels
    other = {**labels.to_dict(), "names": [f"other {name}" for name in labels.names]}
    composed = compose("train", [*TRAIN[1:], "pretrained=runs/first"])
    for names, left in ((labels, ()), (LabelSet.from_dict(other), CLASSIFIER)):
        net = start.fresh_network(composed.values, labels.num_classes, 16)
        origin = start.from_run(net, here / "runs/first" / POINT, None, composed, names)
        assert origin.not_loaded == left


@pytest.mark.usefixtures("here")
def test_a_backbone_of_other_options_is_refused_before_it_learns_nonsense(capsys, monkeypatch):
    """Shapes alone would let it pass (r_tiny has no options of its own)."""
    apart = "style: torchvision there, caffe here"
    monkeypatch.setattr(start, "backbone_differences", lambda *_: [apart])
    words = [*TRAIN, "pretrained=runs/first", "name=second"]
    assert cli.main(words) == 4
    assert apart in capsys.readouterr().err
    assert cli.main([*words, "pretrained_strict=false"]) == 0
    assert apart in capsys.readouterr().out


def test_pixels_are_an_option_of_the_backbone():
    theirs, ours = (
        compose("train", ["backbone=r101_caffe", *extra]).values
        for extra in ([], ["+backbone.pixels=caffe"])
    )
    assert start.backbone_differences(theirs, ours) == ["pixels: None there, caffe here"]


def test_damage_is_noticed(here, capsys):
    shutil.copytree("runs/first", "runs/second")
    path = here / "runs/second" / POINT / "average.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\x80?")
    for named in (f"runs/second/{POINT}", str(path)):
        assert cli.main([*TRAIN, f"pretrained={named}", "name=second-child"]) == 4
        assert "average.safetensors" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_resume_from_another_start_is_refused(capsys):
    words = [*TRAIN, "name=second"]
    assert cli.main([*words, "pretrained=runs/first"]) == 0
    assert cli.main([*words, "pretrained=runs/first", "resume=true"]) == 0
    assert cli.main([*words, "pretrained=runs/raw", "resume=true"]) == 2
    assert "began from first@2-average" in capsys.readouterr().err
    allowed = [*words, "pretrained=runs/raw", "resume=true", "resume_allow=[pretrained]"]
    assert cli.main(allowed) == 0
    assert cli.main([*words, "pretrained=runs/gone", "resume=true"]) == 0, "it is not needed"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("named", "code"), [("runs/nobody", 4), ("runs", 4), ("nofile.pth", 4)])
def test_what_is_not_there_is_told(capsys, named, code):
    assert cli.main([*TRAIN, f"pretrained={named}", "name=second"]) == code
    said = capsys.readouterr().err
    assert named in said
    if named == "runs/nobody":
        assert "first, raw" in said


def test_a_path_that_is_no_checkpoint_is_left_to_the_readers_of_files(tmp_path):
    assert start.point_of(str(tmp_path / "net.pth"), str(tmp_path / "runs")) is None
    assert start.point_of("imagenet", "runs") is None
