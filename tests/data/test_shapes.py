import hashlib
import subprocess
import sys

import numpy as np
import pytest

from segkit.data.colour_baseline import ColourClassifier, colour_miou
from segkit.data.shapes import OBJECTS, Shapes
from segkit.errors import ConfigError

DIGEST = """
import hashlib
from segkit.data.shapes import Shapes
digest = hashlib.sha256()
for index in {order}:
    for array in Shapes("train", {size}, 20, seed={seed}).read(index):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def digest(size: int | tuple[int, int], seed: int) -> str:
    result = hashlib.sha256()
    for index in range(5):
        for array in Shapes("train", size, 20, seed=seed).read(index):
            result.update(array.tobytes())
    return result.hexdigest()


def test_another_process_draws_the_same() -> None:
    code = DIGEST.format(order="range(5)", size=65, seed=3)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == digest(65, 3)
    assert digest(65, 3) != digest(65, 4)


def test_samples_differ_by_seed_split_and_index() -> None:
    sets = [Shapes("train", 33, 9), Shapes("val", 33, 9), Shapes("train", 33, 9, seed=1)]
    pictures = [data.read(index)[0].tobytes() for data in sets for index in range(9)]
    assert len(set(pictures)) == 27
    assert Shapes("train", 33, 500).read(3)[0].tobytes() == pictures[3]  # count changes nothing


@pytest.mark.parametrize("size", [33, 129, (375, 500), (8, 8), (20, 300)])
def test_what_a_sample_is(size) -> None:
    data = Shapes(size=size, count=3)
    rgb, label = data.read(2)
    assert rgb.shape == (*data.size, 3)
    assert label.shape == data.size
    assert (rgb.dtype, label.dtype) == (np.uint8, np.uint8)
    assert set(np.unique(label)) <= {*range(7), 255}
    assert data.ids[2] == "train-000002"
    assert data.labels.names == ("background", *OBJECTS)
    with pytest.raises(IndexError):
        data.read(3)


def test_every_class_is_drawn_about_as_often() -> None:
    data = Shapes(count=300)
    seen = np.zeros(256, int)
    for index in range(300):
        seen[np.unique(data.read(index)[1])] += 1
    assert len(OBJECTS) >= 6
    assert (seen[1:7] > 40).all()
    assert (seen[1:7] < 130).all()


def test_objects_have_holes_thin_parts_and_a_void_band() -> None:
    ring = Shapes(size=129, count=1, objects=(1, 1), radius=(0.4, 0.4), classes=["ring"])
    label = ring.read(0)[1]
    y, x = np.nonzero(label == 1)
    assert label[int(y.mean()), int(x.mean())] == 0
    assert (label == 255).any()
    plain = Shapes(size=129, count=1, objects=(1, 1), border=0).read(0)[1]
    assert not (plain == 255).any()


def test_a_void_band_parts_every_two_classes() -> None:
    data = Shapes(count=20, objects=(2, 5))
    for index in range(20):
        label = data.read(index)[1].astype(int)
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            met = (a != b) & (a != 255) & (b != 255)
            assert not met.any()


def test_colour_alone_says_nothing() -> None:
    miou, iou = colour_miou(Shapes("train", 129, 300), Shapes("val", 129, 100))
    assert len(iou) == 7
    assert miou <= 0.15, f"the colour classifier reaches {miou:.3f}"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"size": 0}, "size"),
        ({"size": (64,)}, "size"),
        ({"size": 10**6}, "size"),
        ({"count": 0}, "count"),
        ({"border": -1}, "border"),
        ({"objects": (3, 1)}, "objects"),
        ({"radius": (0, 0.5)}, "radius"),
        ({"radius": (0.1, 1.5)}, "radius"),
        ({"classes": ["ring", "heart"]}, "classes"),
        ({"classes": []}, "classes"),
        ({"classes": ["ring", "ring"]}, "classes"),
    ],
)
def test_bad_arguments_name_their_key(arguments: dict, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.{key}"):
        Shapes(**arguments)


class Flags:
    """Two classes that colour tells apart perfectly, and a third that it cannot."""

    def __init__(self, third: bool = False) -> None:
        self.labels = Shapes(classes=["ring", "bar"]).labels
        self.third = third

    def __len__(self) -> int:
        return 2

    def read(self, _: int) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(12).reshape(3, 4) % 2
        rgb = np.repeat((label * 200)[..., None], 3, axis=2).astype(np.uint8)
        label[0, 0] = 255
        if self.third:
            label[2] = 2
        return rgb, label.astype(np.uint8)


def test_the_colour_classifier_finds_colour_where_there_is_some() -> None:
    assert colour_miou(Flags(), Flags()) == (1.0, [1.0, 1.0, None])
    miou, iou = colour_miou(Flags(), Flags(third=True))
    assert iou == [pytest.approx(3 / 5), pytest.approx(4 / 6), 0.0]
    assert miou == pytest.approx((3 / 5 + 4 / 6) / 3)


def test_a_colour_never_seen_is_the_most_frequent_class() -> None:
    classifier = ColourClassifier(Flags().labels).fit([Flags().read(0)])
    unseen = np.full((1, 1, 3), 100, np.uint8)
    assert classifier.predict(unseen).item() == 1  # 6 pixels of class 1, 5 of class 0
