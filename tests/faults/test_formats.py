"""C14: a checkpoint of every format that segkit ever wrote loads, and predicts what it did."""

import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sandbox import Sandbox

from segkit import restored
from segkit.data.normalise import normalise
from segkit.engine import checkpoint

FORMATS = sorted((Path(__file__).parent / "formats").glob("checkpoint-*"))


def unpack(packed: Path, folder: Path) -> Path:
    """The checkpoint as it was written."""
    point = folder / "checkpoints/step-00000300"
    point.mkdir(parents=True)
    shutil.copy(packed / checkpoint.MANIFEST, point)
    for name in checkpoint.PAYLOADS:
        (point / name).write_bytes(lzma.decompress((packed / f"{name}.xz").read_bytes()))
    return point


@pytest.mark.parametrize("packed", FORMATS, ids=lambda path: path.name)
def test_scores_are_as_they_were(tmp_path: Path, packed: Path) -> None:
    cpu = torch.device("cpu")
    trained = restored.load(unpack(packed, tmp_path), os=None, device=cpu, config_dir=None)
    assert (trained.step, trained.train_os) == (300, (16, 8))
    picture = np.asarray(Image.open(packed / "picture.png"))
    pixels = normalise(picture, trained.net.pixels.mean, trained.net.pixels.std)
    with torch.inference_mode():
        scores = trained.net.scores(torch.tensor(pixels.transpose(2, 0, 1))[None])["out"][0]
    golden = load_file(packed / "golden.safetensors")["scores"]
    # Another build of torch may add in another order; the predictions must not differ.
    torch.testing.assert_close(scores, golden, rtol=1e-4, atol=1e-4)
    assert torch.equal(scores.argmax(0), golden.argmax(0))
    assert len(golden.argmax(0).unique()) > 1


@pytest.mark.parametrize("packed", FORMATS, ids=lambda path: path.name)
def test_the_commands_take_it(box: Sandbox, packed: Path) -> None:
    point = unpack(packed, box.work / "old")
    box.ok("predict", packed / "picture.png", f"ckpt={point}", "device=cpu", "out=seen")
    assert (box.work / "seen/labels/picture.png").is_file()
