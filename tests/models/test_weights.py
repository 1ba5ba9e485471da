"""What fits is loaded, what does not is one line with counts and names."""

import json
import re

import pytest
import safetensors.torch
import torch
from network_zoo import BACKBONES
from torch import nn

from segkit.errors import CheckpointError
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter
from segkit.models.weights import ImageNetWeights, Origin, WeightFile, load_backbone, load_segmenter


def backbone(seed=0, name="r_tiny"):
    torch.manual_seed(seed)
    return BACKBONES[name](output_stride=16, multi_grid=None)


def state(seed=1, name="r_tiny"):
    return {key: value.clone() for key, value in backbone(seed, name).state_dict().items()}


def written(folder, tensors, name="weights.pth"):
    torch.save(tensors, folder / name)
    return str(folder / name)


def equal(net: nn.Module, tensors) -> bool:
    own = net.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in own)


def load(net, path, **how):
    return load_backbone(net, path, source=None, **how)


def test_none_leaves_the_random_start():
    net, before = backbone(), state(0)
    assert load(net, "none") == Origin("none")
    assert equal(net, before)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_the_same_network(tmp_path, prefix, suffix):
    tensors = {prefix + key: value for key, value in state().items()}
    tensors[f"{prefix}fc.weight"] = torch.zeros(3, 3)
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(tensors, path)
    net = backbone()
    origin = load(net, str(path))
    assert equal(net, state())
    assert (origin.kind, origin.file, origin.not_loaded) == ("file", path.name, ())
    assert origin.keys_loaded == len(state())
    assert len(origin.sha256) == 64
    assert json.loads(json.dumps(origin.to_dict()))["not_loaded"] == []


def test_half_precision_becomes_float32(tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in state().items()}
    net = backbone()
    load(net, written(tmp_path, half))
    assert {v.dtype for k, v in net.state_dict().items() if "num_batches" not in k} == {
        torch.float32
    }
    assert torch.equal(net.conv1.weight, half["conv1.weight"].float())


def test_files_without_the_batch_counter_are_whole(tmp_path):
    old = {k: v for k, v in state().items() if "num_batches" not in k}
    assert load(backbone(), written(tmp_path, old)).not_loaded == ()


def missing(tensors):
    del tensors["bn1.weight"], tensors["bn1.bias"], tensors["layer1.0.conv1.weight"]
    del tensors["layer1.0.bn1.weight"]
    return r"4 missing \(bn1\.weight, bn1\.bias, layer1\.0\.conv1\.weight, \.\.\.\)"


def extra(tensors):
    tensors |= {"neck.a": torch.zeros(1), "neck.b": torch.zeros(1)}
    return r"2 extra \(neck\.a, neck\.b\)"


def misshaped(tensors):
    tensors["conv1.weight"] = torch.zeros(16, 1, 7, 7)
    return r"1 misshaped \(conv1\.weight \[16, 1, 7, 7\] for \[16, 3, 7, 7\]\)"


@pytest.mark.parametrize("damage", [missing, extra, misshaped])
def test_what_does_not_fit_is_counted_and_named(tmp_path, damage):
    tensors = state()
    expected = damage(tensors)
    path, net = written(tmp_path, tensors), backbone()
    with pytest.raises(CheckpointError, match=expected) as fault:
        load(net, path)
    assert fault.value.id == "CKPT-WEIGHTS-MISMATCH"
    assert fault.value.where == path
    assert "pretrained_strict=false" in fault.value.line()
    assert equal(net, state(0)), "a refused file must not change the network"


@pytest.mark.parametrize("damage", [missing, extra, misshaped])
def test_not_strict_lists_what_kept_its_random_start(tmp_path, damage):
    tensors = state()
    damage(tensors)
    net = backbone()
    origin = load(net, written(tmp_path, tensors), strict=False)
    own, start = net.state_dict(), state(0)
    assert len(origin.not_loaded) == {missing: 4, extra: 0, misshaped: 1}[damage]
    assert origin.keys_loaded + len(origin.not_loaded) == len(own)
    for key, value in own.items():
        assert torch.equal(value, start[key] if key in origin.not_loaded else tensors[key]), key


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("tensors", [{}, {"x": torch.zeros(2)}, {"fc.weight": torch.zeros(2)}])
def test_nothing_that_fits_is_always_an_error(tmp_path, tensors, strict):
    with pytest.raises(CheckpointError, match="no key fits") as fault:
        load(backbone(), written(tmp_path, tensors), strict=strict)
    assert "pretrained_strict" not in fault.value.line()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("strict", [True, False])
def test_non_finite_weights_are_refused(tmp_path, value, strict):
    tensors = state()
    tensors["bn1.running_var"][3] = value
    net = backbone()
    with pytest.raises(CheckpointError, match=r"bn1\.running_var") as fault:
        load(net, written(tmp_path, tensors), strict=strict)
    assert fault.value.id == "CKPT-WEIGHTS-NONFINITE"
    assert equal(net, state(0))


def test_imagenet_without_a_table_says_so():
    with pytest.raises(CheckpointError, match=r"r_tiny.*pretrained=none") as fault:
        load_backbone(backbone(), "imagenet", source=backbone().imagenet)
    assert fault.value.id == "CKPT-WEIGHTS-NONE"


def test_imagenet_takes_the_tables_names(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    tensors = {key.replace("layer", "stage"): value for key, value in state().items()}
    tensors |= {"top.weight": torch.zeros(2)}
    written(tmp_path, tensors, "second.pth")
    source = ImageNetWeights(
        (WeightFile("first.pth"), WeightFile("second.pth")),
        unused=("top.",),
        renamed=(("stage", "layer"),),
    )
    net = backbone()
    origin = load_backbone(net, "imagenet", source=source)
    assert (origin.kind, origin.file) == ("imagenet", "second.pth")
    assert equal(net, state())


def test_a_file_that_is_not_what_its_name_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    written(tmp_path, state(), "net-01234567.pth")
    source = ImageNetWeights((WeightFile("net-01234567.pth", "https://example.org/x"),))
    net = backbone()
    with pytest.raises(CheckpointError, match=r"01234567.*delete it") as fault:
        load_backbone(net, "imagenet", source=source)
    assert fault.value.id == "CKPT-WEIGHTS-HASH"
    assert equal(net, state(0))


def test_home_and_strangers_homes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, state())
    assert load(backbone(), "~/weights.pth").file == "weights.pth"
    with pytest.raises(CheckpointError, match="no such file"):
        load(backbone(), "~nobody-of-that-name/weights.pth")


# Trained by nobody, or published by nobody as a torch file.
WITHOUT_TABLE = ("r_tiny", "r101_caffe", "r50_beta", "r101_beta")


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in WITHOUT_TABLE])
def test_every_other_backbone_has_a_table(name):
    with torch.device("meta"):
        source = BACKBONES[name](output_stride=16, multi_grid=None).imagenet
    assert source.files
    assert not source.elsewhere
    for file in source.files:
        assert file.licence
        assert file.source
        assert bool(re.fullmatch("[0-9a-f]{8}", file.hash_prefix)) == bool(file.address)
        assert file.address is None or file.address.endswith(f"/{file.name}")


@pytest.mark.parametrize("name", WITHOUT_TABLE[1:])
def test_who_has_them_where_nobody_has_a_torch_file(name):
    """Facts §3.5; the released code's model zoo; MSRA's own for v2 (facts §2.8)."""
    with torch.device("meta"):
        net = BACKBONES[name](output_stride=16, multi_grid=None)
    known = {
        "r50_beta": "http://download.tensorflow.org/models/resnet_v1_50_2018_05_04.tar.gz",
        "r101_beta": "http://download.tensorflow.org/models/resnet_v1_101_2018_05_04.tar.gz",
        "r101_caffe": "ResNet-101-model.caffemodel",
    }
    with pytest.raises(CheckpointError) as fault:
        load_backbone(net, "imagenet", source=net.imagenet)
    assert known[name] in fault.value.line()
    assert "pretrained=none" in fault.value.line()


def test_the_addresses_are_torchvisions():
    models = pytest.importorskip("torchvision").models
    theirs = {
        "r18": models.ResNet18_Weights,
        "r34": models.ResNet34_Weights,
        "r50": models.ResNet50_Weights,
        "r101": models.ResNet101_Weights,
        "mnv2": models.MobileNet_V2_Weights,
    }
    for name, weights in theirs.items():
        with torch.device("meta"):
            source = BACKBONES[name](output_stride=16, multi_grid=None).imagenet
        assert source.files[0].address == weights.IMAGENET1K_V1.url


def segmenter(name="r_tiny", num_classes=5, seed=0):
    torch.manual_seed(seed)
    return build_segmenter(BACKBONES[name], DeepLabV3, num_classes=num_classes, output_stride=16)


def test_a_segmenter_takes_its_own_state():
    net, other = segmenter(), segmenter(seed=1)
    assert load_segmenter(net, other.state_dict()) == []
    assert equal(net, other.state_dict())


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ({"num_classes": 21}, r"2 misshaped \(head\.classifier\.weight \[21, 256, 1, 1\] for"),
        ({"name": "r18"}, r"misshaped \(backbone\.conv1\.weight \[64, 3, 7, 7\] for"),
        ({"name": "mnv2"}, r"missing \(backbone\.conv1\.weight.*extra \(backbone\.layers\.0\.0"),
    ],
)
def test_a_checkpoint_of_another_network_names_the_first_keys(other, names):
    with pytest.raises(CheckpointError, match=names) as fault:
        load_segmenter(segmenter(), segmenter(**other).state_dict(), where="step-00000120")
    assert fault.value.where == "step-00000120"
    assert "\n" not in fault.value.line()


def test_a_segmenter_not_strict_names_what_it_left():
    left = load_segmenter(segmenter(), segmenter(num_classes=21).state_dict(), strict=False)
    assert left == ["head.classifier.weight", "head.classifier.bias"]
