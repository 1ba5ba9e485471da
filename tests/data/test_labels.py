import json
import pickle

import pytest

from segkit.data.labels import (
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_CLASS_OF,
    CITYSCAPES_IDS,
    CITYSCAPES_TABLE,
    VOC,
    LabelSet,
    interleaved_colour,
    label_set,
)
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


@pytest.mark.parametrize(
    "labels", [VOC, CAMVID, CITYSCAPES, label_set("m", [f"c{i}" for i in range(300)])]
)
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


# The table of facts 5.2 (cityscapesScripts, helpers/labels.py), written once more by hand: names of
# the labelIds 0..33 in order, those that count, and their colours by trainId.
OFFICIAL_NAMES = (
    "unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, "
    "sidewalk, parking, rail track, building, wall, fence, guard rail, bridge, tunnel, pole, "
    "polegroup, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, "
    "bus, caravan, trailer, train, motorcycle, bicycle"
)
COUNTED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
COUNTED_COLOURS = (
    "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 "
    "00008e 000046 003c64 005064 0000e6 770b20"
)
VOID_COLOURS = {
    -1: "00008e", 0: "000000", 1: "000000", 2: "000000", 3: "000000", 4: "000000", 5: "6f4a00",
    6: "510051", 9: "faaaa0", 10: "e6968c", 14: "b4a5b4", 15: "966464", 16: "96785a", 18: "999999",
    29: "00005a", 30: "00006e",
}  # fmt: skip


def test_cityscapes_is_the_official_table() -> None:
    rows = {label_id: (name, train, colour) for label_id, name, train, colour in CITYSCAPES_TABLE}
    assert list(rows) == list(range(-1, 34))
    assert rows[-1] == ("license plate", -1, (0, 0, 142))
    assert [rows[i][0] for i in range(34)] == OFFICIAL_NAMES.split(", ")
    assert [rows[i][1] for i in COUNTED_IDS] == list(range(19))
    assert {i for i in range(34) if rows[i][1] == 255} == set(range(34)) - set(COUNTED_IDS)
    colours = dict(zip(COUNTED_IDS, COUNTED_COLOURS.split(), strict=True)) | VOID_COLOURS
    assert {i: bytes(row[2]).hex() for i, row in rows.items()} == colours


def test_the_cityscapes_classes_and_their_ids_both_ways() -> None:
    assert CITYSCAPES.num_classes == 19
    assert CITYSCAPES.ignore_label == 255
    assert CITYSCAPES.names[13] == "car"
    assert [bytes(c).hex() for c in CITYSCAPES.colours] == COUNTED_COLOURS.split()
    assert CITYSCAPES_IDS == COUNTED_IDS
    assert [CITYSCAPES_CLASS_OF[i] for i in CITYSCAPES_IDS] == list(range(19))
    rest = set(CITYSCAPES_CLASS_OF) - set(CITYSCAPES_IDS)
    assert rest == {-1, 255, *range(34)} - set(COUNTED_IDS)
    assert {CITYSCAPES_CLASS_OF[i] for i in rest} == {255}


def test_cityscapes_scripts_have_the_same_table() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    mine = sorted(CITYSCAPES_TABLE)
    assert mine == sorted((row.id, row.name, row.trainId, row.color) for row in official)
    void = {row.id for row in official if row.ignoreInEval}
    assert void == {row[0] for row in mine if row[2] in (-1, 255)}
