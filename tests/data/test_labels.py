import json
import pickle

import pytest

from segkit.data.labels import CAMVID, VOC, LabelSet, interleaved_colour, label_set
from segkit.errors import ConfigError

BLACK = (0, 0, 0)


def test_voc_has_the_published_names_and_colours() -> None:
    assert VOC.num_classes == 21
    assert VOC.ignore_label == 255
    by_name = dict(zip(VOC.names, VOC.colours, strict=True))
    assert by_name["background"] == BLACK
    assert by_name["aeroplane"] == (128, 0, 0)
    assert by_name["motorbike"] == (64, 128, 128)
    assert by_name["dining table"] == (192, 128, 0)
    assert by_name["tv/monitor"] == (0, 64, 128)
    assert interleaved_colour(255) == (224, 224, 192)
    assert len(set(VOC.colours)) == 21


def test_camvid_has_eleven_classes_without_void() -> None:
    assert CAMVID.num_classes == 11
    assert CAMVID.ignore_label == 255
    assert CAMVID.colours[CAMVID.names.index("bicyclist")] == (0, 128, 192)


@pytest.mark.parametrize(
    ("classes", "ignore", "dtype"),
    [(2, 255, "uint8"), (255, 255, "uint8"), (256, 65535, "uint16"), (300, 65535, "uint16")],
)
def test_the_ignore_label_leaves_the_classes_alone(classes: int, ignore: int, dtype: str) -> None:
    labels = label_set("many", [f"c{i}" for i in range(classes)])
    assert (labels.ignore_label, labels.dtype) == (ignore, dtype)


@pytest.mark.parametrize("labels", [VOC, CAMVID, label_set("m", [f"c{i}" for i in range(300)])])
def test_plain_data_and_back(labels: LabelSet) -> None:
    assert LabelSet.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
    assert pickle.loads(pickle.dumps(labels)) == labels


@pytest.mark.parametrize(
    ("names", "colours", "ignore", "words"),
    [
        (("one",), (BLACK,), 255, ["dataset.classes"]),
        ((), (), 255, ["dataset.classes"]),
        (("a", "a"), (BLACK, BLACK), 255, ["dataset.classes", "twice", "a"]),
        (("a", ""), (BLACK, BLACK), 255, ["dataset.classes", "empty"]),
        (("a", "  "), (BLACK, BLACK), 255, ["dataset.classes", "empty"]),
        (("a", "b"), (BLACK,), 255, ["dataset.colours", "dataset.classes"]),
        (("a", "b"), (BLACK, (0, 0, 256)), 255, ["dataset.colours", "256"]),
        (("a", "b"), (BLACK, (0, 0)), 255, ["dataset.colours"]),
        (("a", "b"), (BLACK, BLACK), 1, ["dataset.ignore_label", "dataset.classes"]),
        (("a", "b"), (BLACK, BLACK), 70000, ["dataset.ignore_label", "dataset.classes"]),
    ],
)
def test_bad_label_sets_name_their_keys(names, colours, ignore, words) -> None:
    with pytest.raises(ConfigError) as caught:
        LabelSet("bad", names, colours, ignore)
    assert all(word in caught.value.line() for word in words)


@pytest.mark.parametrize(
    "change",
    [
        {"names": None},
        {"names": [1, 2]},
        {"names": "ab"},
        {"name": 3},
        {"colours": [1, 2]},
        {"colours": [[0, 0, 0.5], [0, 0, 0]]},
        {"ignore_label": "255"},
        {"ignore_label": True},
        {"ignore_label": -1},
        {"extra": 1},
    ],
)
def test_a_damaged_dictionary_is_refused(change: dict) -> None:
    plain = {"name": "s", "names": ["a", "b"], "colours": [[0, 0, 0], [1, 1, 1]]}
    with pytest.raises(ConfigError):
        LabelSet.from_dict({**plain, "ignore_label": 255, **change})
