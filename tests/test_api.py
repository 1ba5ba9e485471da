"""The Python side gives what the command line gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segkit
from segkit import cli
from segkit.errors import CheckpointError, ConfigError

TINY = [
    *("experiment=quickstart", "name=tiny", "dataset.size=33", "dataset.count=8"),
    *("dataset.val.count=2", "augment.crop=33", "schedule.batch=4", "workers=0"),
    *("schedule.stages.0.steps=2", "schedule.stages.1.steps=1", "log.tensorboard=false"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    assert cli.main(["train", *TINY, f"runs={folder}"]) == 0
    return folder / "tiny"


def test_a_loaded_network_has_labels_and_preprocessing(run: Path) -> None:
    net = segkit.load(run, os=8)
    assert not net.training
    assert net.output_stride == 8
    assert net.labels.names[:2] == ("background", "ring")
    image = np.full((33, 49, 3), 124, np.uint8)
    logits = net(net.preprocess(image))
    assert logits.shape == (1, 7, 33, 49)


def test_it_segments_as_predict_does(run: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(1).integers(0, 255, (33, 33, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    assert cli.main(["predict", str(photo), f"ckpt={run}", f"out={tmp_path}", "os=8"]) == 0
    with torch.no_grad():
        net = segkit.load(run, os=8)
        ours = net(net.preprocess(photo)).argmax(1)[0].numpy()
    assert np.array_equal(ours, np.asarray(Image.open(tmp_path / "labels" / "photo.png")))


def test_a_new_network_is_the_configs(run: Path) -> None:
    with torch.device("meta"):
        net = segkit.build(model="v3", backbone="r101", os=16, num_classes=21)
    assert sum(p.numel() for p in net.parameters()) == 58_040_661
    assert net.multi_grid == (1, 2, 4)
    with pytest.raises(ConfigError, match="r102"):
        segkit.build(backbone="r102")
    with pytest.raises(CheckpointError, match="no such run"):
        segkit.load(run.parent / "nowhere")


@pytest.mark.parametrize("count", [1, 0, -3, True, 2.0, "21"])
def test_a_network_tells_two_classes_apart_at_least(count: object) -> None:
    with pytest.raises(ConfigError) as fault:
        segkit.build(num_classes=count)  # type: ignore[arg-type]
    assert (fault.value.id, fault.value.where) == ("CFG-RANGE", "num_classes")


def test_importing_segkit_costs_nothing() -> None:
    import subprocess
    import sys

    code = "import sys, segkit; sys.exit('torch' in sys.modules or segkit.__version__ != '0.1.0')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
