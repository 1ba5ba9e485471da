"""A run as the start of another: ``pretrained=runs/NAME``."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segkit import cli, parts
from segkit.config import compose
from segkit.models.segmenter import Segmenter
from segkit.models.weights import load_backbone
from segkit.train import weights_file

TINY = [
    *("dataset=shapes", "dataset.size=33", "dataset.count=4", "dataset.val={count: 1}"),
    *("backbone=r_tiny", "augment.crop=33", "schedule.batch=2", "workers=0"),
    *("schedule.stages=[{name: a, steps: 2, lr: 0.01}]", "device=cpu", "log.tensorboard=false"),
]


def network(num_classes: int, model: str = "v3") -> Segmenter:
    values = compose("train", [f"model={model}", *TINY, "pretrained=none"]).values
    return parts.network_of(values, num_classes, 16)


def saved(net: Segmenter, path: Path) -> str:
    torch.save(net.state_dict(), path)
    return str(path)


def started(net: Segmenter, path: str, **options: bool) -> tuple[str, ...]:
    return load_backbone(
        net.backbone, path, source=net.backbone.imagenet, head=net.head, **options
    ).not_loaded


def test_a_whole_network_is_taken_whole(tmp_path):
    theirs, ours = network(7), network(7)
    assert started(ours, saved(theirs, tmp_path / "net.pth")) == ()
    for key, tensor in theirs.state_dict().items():
        if not key.endswith("num_batches_tracked"):  # only momentum=None reads it
            torch.testing.assert_close(ours.state_dict()[key], tensor, rtol=0, atol=0)


def test_other_classes_begin_with_a_classifier_of_their_own(tmp_path):
    theirs, ours = network(7), network(3)
    before = ours.head.classifier.weight.clone()
    left = started(ours, saved(theirs, tmp_path / "net.pth"))
    assert left == ("head.classifier.weight", "head.classifier.bias")
    assert torch.equal(ours.head.classifier.weight, before)
    assert torch.equal(ours.head.aspp.project[0].weight, theirs.head.aspp.project[0].weight)


def test_another_head_takes_the_backbone_and_what_is_alike(tmp_path):
    theirs, ours = network(7), network(7, "v3plus")
    left = started(ours, saved(theirs, tmp_path / "net.pth"))
    assert left
    assert all(name.startswith("head.") for name in left)
    name = "conv1.weight"
    assert torch.equal(ours.backbone.state_dict()[name], theirs.backbone.state_dict()[name])


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_a_run_is_named_by_its_folder(tmp_path, monkeypatch, capsys, ema):
    monkeypatch.chdir(tmp_path)
    words = ["train", "model=v3", *TINY]
    assert cli.main([*words, "pretrained=none", f"schedule.ema={ema}", "name=first"]) == 0
    point = tmp_path / "runs/first/checkpoints/step-00000002"
    name = "model" if ema == "null" else "average"
    assert (
        weights_file("runs/first", "runs")
        == f"runs/first/checkpoints/{point.name}/{name}.safetensors"
    )
    capsys.readouterr()
    assert cli.main([*words, "pretrained=runs/first", "name=second"]) == 0
    assert f"of {name}.safetensors" in capsys.readouterr().out
    begun = load_file(tmp_path / "runs/second/checkpoints/step-00000000/model.safetensors")
    theirs = load_file(point / f"{name}.safetensors")
    assert all(torch.equal(begun[k], theirs[k]) for k in theirs if "num_batches" not in k)
    assert cli.main([*words, "pretrained=runs/nobody", "name=third"]) == 4
