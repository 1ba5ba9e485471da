"""Real weights on real photos: what only the right strides, rates and layers can do."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from network_zoo import BACKBONES
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segkit.models.contracts import Pixels
from segkit.models.weight_files import read
from segkit.models.weights import load_backbone

pytestmark = pytest.mark.data


def given(variable: str, name: str) -> Path:
    path = Path(os.environ.get(variable, "unset")) / name
    if not path.exists():
        pytest.skip(f"{name} is not in {variable}")
    return path


def photo(name: str, size: int, pixels: Pixels) -> Tensor:
    path = given("SEGKIT_DATA", f"photos/{name}.png")
    image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pixels.mean, pixels.std))
    return (x - mean) / std


def fc_of_resnet(features: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    return F.linear(features.mean((2, 3)), tensors["fc.weight"].float(), tensors["fc.bias"])


def classifier_of_mobilenetv2(features: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    y = F.conv2d(features, tensors["features.18.0.weight"].float())
    y = F.batch_norm(y, *(tensors[f"features.18.1.{name}"] for name in names)).clamp(0, 6)
    weight = tensors["classifier.1.weight"].float()
    return F.linear(y.mean((2, 3)), weight, tensors["classifier.1.bias"])


@pytest.mark.parametrize("output_stride", [32, 16])
@pytest.mark.parametrize(
    ("name", "file", "classify"),
    [
        ("r50_caffe", "resnet50_msra_keras_fp16.pth", fc_of_resnet),
        ("mnv2", "mobilenet_v2_tf2ptq_fp16.pth", classifier_of_mobilenetv2),
    ],
)
def test_imagenet_weights_recognise_photos(name, file, classify, output_stride):
    """The file's own classifier behind our features: chickadee, Egyptian cat, Samoyed, daisy."""
    path = given("SEGKIT_WEIGHTS", file)
    torch.manual_seed(0)
    backbone = BACKBONES[name](output_stride=output_stride, multi_grid=None).eval()
    origin = load_backbone(backbone, "imagenet", source=backbone.imagenet)
    assert (origin.kind, origin.file, origin.not_loaded) == ("imagenet", file, ())
    assert origin.keys_loaded == len(backbone.state_dict())
    tensors, _ = read(path)
    photos = torch.cat(
        [photo(n, 257, backbone.pixels) for n in ("bird", "cat", "dog_segmentation", "sunflower")]
    )
    with torch.inference_mode():
        features = backbone(photos)["out"]
    step = 32 // output_stride  # the values the classifier knows, among the denser ones
    found = classify(features[..., ::step, ::step], tensors).argmax(1)
    assert found.tolist() == [19, 285, 258, 985]
