import json
import os
from pathlib import Path

import numpy as np
import pytest

from segkit.data.camvid import CamVid

ROOT = Path(os.environ.get("SEGKIT_DATA", "")) / "camvid"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "SEGKIT_DATA" not in os.environ or not ROOT.is_dir(), reason="needs CamVid in SEGKIT_DATA"
    ),
]


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_every_pixel_of_the_real_set_is_accounted_for(split: str, count: int) -> None:
    data = CamVid(split=split)
    assert len(data) == count
    pixels = np.zeros(256, np.int64)
    for index in range(count):
        rgb, label = data.read(index)
        assert rgb.shape == (360, 480, 3)
        pixels += np.bincount(label.ravel(), minlength=256)
    stated = json.loads((ROOT / "classes.json").read_text())
    for row in stated["classes"]:
        assert data.labels.names[row["id"]] == row["name"]
        assert data.labels.colours[row["id"]] == tuple(row["rgb"])
        assert pixels[row["id"]] == row[f"{split}_pixels"]
    assert pixels[stated["void"]] == stated["void_pixels"][split]
    assert pixels.sum() == count * 360 * 480
