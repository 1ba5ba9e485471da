"""timm's networks behind the contract: names, strides, sizes, files, and what is refused."""

import sys
from functools import partial

import pytest
import timm
import torch
import torchvision
from network_zoo import photo_or_noise, random_norms
from torch.nn import functional as F

from segkit.errors import CheckpointError, ConfigError
from segkit.models.backbones.resnet import resnet
from segkit.models.backbones.timm_networks import timm_network
from segkit.models.heads.v3 import DeepLabV3
from segkit.models.segmenter import build_segmenter
from segkit.models.weights import _in_our_names, load_backbone

# Wrapped in several ways; convnext, dla and vgg round down, the last four cannot be dilated.
NETWORKS = {
    "resnet50d": [8, 16, 32],
    "efficientnet_b0": [4, 8, 16, 32],
    "regnety_002": [8, 16, 32],
    "xception41": [8, 16, 32],
    "mobilenetv3_small_100": [8, 16, 32],
    "convnext_atto": [8, 16, 32],
    "densenet121": [32],
    "dla34": [32],
    "vgg11": [32],
    "pvt_v2_b0": [32],
}


QUICK = ("resnet50d", "convnext_atto", "vgg11")


def rows(values):
    """Test rows that begin with a network; those of the other networks run with the slow tests."""
    return [pytest.param(*row, marks=() if row[0] in QUICK else pytest.mark.slow) for row in values]


def on_meta(network, output_stride):
    with torch.device("meta"):
        return timm_network(network, output_stride=output_stride).eval()


@pytest.mark.parametrize(
    ("network", "output_stride"),
    rows((n, s) for n, strides in NETWORKS.items() for s in strides),
)
def test_maps_are_what_the_features_say(network, output_stride):
    backbone = on_meta(network, output_stride)
    assert backbone.features["out"].stride == output_stride
    assert backbone.features["low"] == backbone.features["res2"]
    strides = [backbone.features[f"res{n}"].stride for n in (2, 3, 4, 5)]
    assert strides == [min(natural, output_stride) for natural in (4, 8, 16, 32)]
    for size in ((129, 65), (128, 97), (33, 1)):
        maps = backbone(torch.empty(2, 3, *size, device="meta"))
        assert maps.keys() == backbone.features.keys()
        for key, feature in backbone.features.items():
            expected = [(side - 1) // feature.stride + 1 for side in size]
            assert list(maps[key].shape) == [2, feature.channels, *expected], key


@pytest.mark.parametrize("network", rows((n,) for n in NETWORKS if len(NETWORKS[n]) > 1))
def test_same_parameters_at_any_output_stride(network):
    first, *others = [
        {k: v.shape for k, v in on_meta(network, s).state_dict().items()} for s in NETWORKS[network]
    ]
    assert all(other == first for other in others)


@pytest.mark.parametrize("network", rows((n,) for n in NETWORKS))
def test_names_of_a_classifiers_file(network):
    """All that a whole network's file holds has its place here, or is known to be left out."""
    with torch.device("meta"):
        whole = timm.create_model(network, pretrained=False)
    backbone = on_meta(network, 32)
    found = _in_our_names(whole.state_dict(), backbone.imagenet)
    own = backbone.state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.items()}


@pytest.mark.parametrize("network", ["convnext_atto", "resnet18d"])
def test_timms_own_file_gives_timms_own_maps(network, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model(network, pretrained=False).eval()
    random_norms(whole)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = timm_network(network, output_stride=32).eval()
    path = str(tmp_path / "weights.pth")
    origin = load_backbone(backbone, path, source=backbone.imagenet)
    assert (origin.keys_loaded, origin.not_loaded) == (len(backbone.state_dict()), ())
    x = photo_or_noise(96, backbone.pixels)
    with torch.inference_mode():
        _, maps = whole.forward_intermediates(x)
        found = backbone(x)
        assert torch.equal(found["out"], maps[-1])
        assert torch.equal(found["low"], maps[-4])


@pytest.mark.parametrize(
    "output_stride", [8, *(pytest.param(s, marks=pytest.mark.slow) for s in (16, 32))]
)
def test_timms_resnet50_is_torchvisions_and_ours(output_stride):
    """The same weights under the same names, dilated alike: all three agree on every map."""
    torch.manual_seed(0)
    dilated = [False, output_stride <= 8, output_stride <= 16]
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=dilated).eval()
    random_norms(theirs)
    ours = resnet(50, output_stride=output_stride).eval()
    wrapped = timm_network("resnet50", output_stride=output_stride).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    wrapped.network.load_state_dict(state, strict=True)
    x = photo_or_noise(129, ours.pixels)
    with torch.inference_mode():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        mine, timms = ours(x), wrapped(x)
        for number in (1, 2, 3, 4):
            y = getattr(theirs, f"layer{number}")(y)
            for maps in (mine, timms):
                found, scale = maps[f"res{number + 1}"], y.abs().max()
                torch.testing.assert_close(found / scale, y / scale, rtol=0, atol=1e-4)


def test_a_patch_network_sees_whole_patches_and_gives_the_contracts_sizes():
    torch.manual_seed(0)
    net = timm_network("convnext_atto", output_stride=32).eval()
    assert net.pad_to == 32
    x = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        whole = net.network(F.pad(x, (0, 31, 0, 31)))
        maps = net(x)
    assert torch.equal(maps["low"], whole[0][..., :17, :25])
    assert torch.equal(maps["out"], whole[-1][..., :3, :4])
    assert timm_network("resnet18", output_stride=32).pad_to == 1


def test_pixels_are_what_timm_trained_with():
    assert on_meta("xception41", 16).pixels.mean == (0.5, 0.5, 0.5)
    assert on_meta("resnet50d", 16).pixels.mean == (0.485, 0.456, 0.406)


def refused(network, **arguments):
    with pytest.raises(ConfigError) as fault, torch.device("meta"):
        timm_network(network, **({"output_stride": 16} | arguments))
    return fault.value


@pytest.mark.parametrize(
    ("network", "output_stride", "choices"),
    [
        ("resnet50d", 4, "one of 8, 16, 32"),
        ("resnet50d", 64, "one of 8, 16, 32"),
        ("efficientnet_b0", 12, "32"),
        ("densenet121", 16, "one of 32"),
        ("hrnet_w18_small", 8, "one of 32"),
        # Its shortcut convolution would go with the stride: other parameters at 8 than at 16.
        ("xception71", 8, "one of 16, 32"),
    ],
)
def test_output_strides_are_refused_with_those_it_has(network, output_stride, choices):
    fault = refused(network, output_stride=output_stride)
    assert (fault.id, fault.where) == ("CFG-OUTPUT-STRIDE", "os")
    assert network in fault.what
    assert choices in fault.fix


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("resnet50x", "did you mean resnet50"),
        ("hf-hub:timm/resnet50.a1_in1k", "no network"),
        ("", "no network"),
        ("vit_tiny_patch16_224", "any image size"),
    ],
)
def test_networks_are_refused_by_name(network, said):
    fault = refused(network)
    assert (fault.id, fault.where) == ("CFG-BACKBONE", "backbone.network")
    assert said in str(fault)


def test_multi_grid_is_refused():
    assert refused("resnet50d", multi_grid=(1, 2, 4)).id == "CFG-MULTI-GRID"
    with torch.device("meta"):
        make = partial(timm_network, "resnet50d")
        net = build_segmenter(make, DeepLabV3, num_classes=2, output_stride=16)
    assert net.multi_grid is None


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    fault = refused("resnet50d")
    assert fault.id == "CFG-EXTRA"
    assert "segkit[timm]" in fault.fix


def test_imagenet_names_the_file_it_would_take(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = on_meta("resnet50d", 16)
    with pytest.raises(CheckpointError, match=r"resnet50d\.safetensors: not found"):
        load_backbone(backbone, "imagenet", source=backbone.imagenet, download=True)


def test_making_one_leaves_the_random_state_to_its_own_weights():
    torch.manual_seed(0)
    ours = timm_network("resnet18", output_stride=16).network.state_dict()
    torch.manual_seed(0)
    alone = timm.create_model(
        "resnet18", pretrained=False, features_only=True, output_stride=16
    ).state_dict()
    assert all(torch.equal(ours[key], alone[key]) for key in alone)


@pytest.mark.parametrize(
    "mode",
    ["train", *(pytest.param(m, marks=pytest.mark.slow) for m in ("frozen_stats", "frozen"))],
)
def test_two_steps_in_every_batch_norm_mode(mode):
    torch.manual_seed(0)
    net = build_segmenter(
        partial(timm_network, "mobilenetv3_small_050"),
        partial(DeepLabV3, channels=8),
        num_classes=3,
        output_stride=16,
    ).to(memory_format=torch.channels_last)
    net.set_batch_norm(mode)
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        images = torch.randn(2, 3, 33, 33).to(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(images), torch.randint(3, (2, 33, 33)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
