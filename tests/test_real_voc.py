"""The published VOC weights, imported, segment real photos."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segkit import model_import, restored
from segkit.data.normalise import normalise
from segkit.inference.predictor import Predictor
from segkit.restored import Trained

pytestmark = pytest.mark.data

PHOTOS = ["bird", "bird_segmentation", "cat", "dog_segmentation", "sunflower"]
BIRD, DOG = 3, 12  # among VOC's classes


def given(variable: str, name: str) -> Path:
    path = Path(os.environ.get(variable, "unset")) / name
    if not path.exists():
        pytest.skip(f"{name} is not in {variable}")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run that the import made, as eval and predict load it."""
    file = given("SEGKIT_WEIGHTS", "deeplabv3_mnv2_pascal_dequant_fp16.pth")
    runs = tmp_path_factory.mktemp("runs")
    assert model_import.main([str(file), "name=voc", f"runs={runs}"]) == 0
    path = restored.find(str(runs / "voc"), str(runs), "last")
    return restored.load(path, os=None, device=torch.device("cpu"), config_dir=None)


def answer(trained: Trained, name: str) -> np.ndarray:
    """The photo squeezed to 513×513, as the 8-bit network saw it, through the predictor."""
    image = Image.open(given("SEGKIT_DATA", f"photos/{name}.png")).convert("RGB")
    squeezed = np.array(image.resize((513, 513), Image.Resampling.BILINEAR))
    pixels = trained.net.pixels
    x = torch.from_numpy(normalise(squeezed, pixels.mean, pixels.std).transpose(2, 0, 1).copy())
    predictor = Predictor(
        trained.net, output_stride=trained.net.output_stride, device=torch.device("cpu")
    )
    return predictor(x).argmax(0).numpy()


def iou(found: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> float:
    both, either = found & truth & counted, (found | truth) & counted
    return float(both.sum() / either.sum())


def test_the_8_bit_networks_answers(trained: Trained) -> None:
    """Measured: 99.34 % on average, from 98.48 (the dog) to 99.90 (a bird)."""
    agreement = {
        name: float(
            (
                answer(trained, name)
                == np.array(Image.open(given("SEGKIT_DATA", f"photos/{name}.tflite513.png")))
            ).mean()
        )
        for name in PHOTOS
    }
    print(agreement)
    assert np.mean(list(agreement.values())) >= 0.985, agreement


def test_the_bird(trained: Trained) -> None:
    mask = np.array(Image.open(given("SEGKIT_DATA", "photos/bird_segmentation_mask.png")))
    found = iou(answer(trained, "bird_segmentation") == BIRD, mask == 3, (mask == 0) | (mask == 3))
    print(found)
    assert found >= 0.88


def test_the_dog(trained: Trained) -> None:
    """The mask has 128×128 pixels: the answer is looked up at their places."""
    mask = np.array(Image.open(given("SEGKIT_DATA", "photos/dog_segmentation_mask.png")))
    labels = Image.fromarray(answer(trained, "dog_segmentation").astype(np.uint8))
    small = np.array(labels.resize(mask.shape[::-1], Image.Resampling.NEAREST))
    found = iou(small == DOG, mask == 0, mask != 2)
    print(found)
    assert found >= 0.95
