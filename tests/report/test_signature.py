"""The signature: complete, one line, always the same, and never fooled by a name."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from segkit.errors import DataError
from segkit.report.signature import Signature, percent, score_document, score_line

CRF = {
    "backend": "pydensecrf",
    "iterations": 10,
    "bilateral_weight": 4.0,
    "bilateral_xy": 67.0,
    "bilateral_rgb": 3.0,
    "gaussian_weight": 3.0,
    "gaussian_xy": 1.0,
    "normalization": "after",
}
BASE = Signature(
    dataset="camvid",
    split="val",
    images=101,
    model="v3",
    backbone="mnv2",
    train_os=(16, 8),
    eval_os=8,
    multi_grid=(1, 2, 4),
    pad="fit",
    scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    fusion="mean",
    flip=True,
    crf=CRF,
    weights="imagenet:mobilenet_v2_tf2ptq_fp16.pth",
    checkpoint="last",
    step=1200,
    seed=0,
    precision="fp32",
    device="cpu",
    segkit="0.1.0",
    torch="2.11.0",
)

OTHER = {
    "dataset": "voc",
    "split": "train",
    "images": 100,
    "model": "v3plus",
    "backbone": "r101",
    "train_os": (8,),
    "eval_os": 16,
    "multi_grid": None,
    "pad": 513,
    "scales": (1.0,),
    "fusion": "max",
    "flip": False,
    "crf": None,
    "weights": "none",
    "checkpoint": "best",
    "step": 1201,
    "seed": 1,
    "precision": "bf16",
    "device": "cuda",
    "segkit": "0.2.0",
    "torch": "2.15.0",
    "absent": "zero",
    "config": "deadbeef",
    "scored": "average",
    "skipped": 1,
    "window": {"size": 513, "overlap": 0.33, "weighting": "uniform"},
    "deterministic": True,
}


def test_the_line_as_people_read_it():
    assert score_line(0.71234, BASE) == (
        "mIoU 71.23 = camvid:val:101 | v3 mnv2 | os 16,8->8 | mg 1,2,4 | whole fit | "
        "ms 0.5,0.75,1,1.25,1.5,1.75 mean | flip | "
        "crf pydensecrf 10it bi4/67/3 pos3/1 after | absent dropped | "
        "weights imagenet:mobilenet_v2_tf2ptq_fp16.pth | last 1200 | seed 0 | config none | "
        "fp32 cpu | segkit 0.1.0 | torch 2.11.0"
    )
    plain = replace(BASE, multi_grid=None, pad=None, scales=(1.0,), flip=False, crf=None)
    assert "mg none | whole none | ms 1 mean | no flip | no crf |" in str(plain)


def test_other_values_exist_for_every_field():
    assert set(OTHER) == {field.name for field in fields(Signature)}


@pytest.mark.parametrize("field", OTHER)
def test_every_field_shows_in_the_line_and_in_the_document(field):
    other = replace(BASE, **{field: OTHER[field]})
    assert str(other) != str(BASE)
    assert other.to_dict() != BASE.to_dict()
    assert len(str(other).split(" | ")) == len(str(BASE).split(" | "))


@pytest.mark.parametrize("field", CRF)
def test_every_parameter_of_the_crf_shows(field):
    value = CRF[field]
    changed = value + 0.123 if isinstance(value, float) else f"{value}1"
    assert str(replace(BASE, crf={**CRF, field: changed})) != str(BASE)
    assert "spread=2.5" in str(replace(BASE, crf={**CRF, "spread": 2.5}))


@pytest.mark.parametrize("name", ["a | b", "a b", "x\ny", "\x1b[2J", "a:b%20", "ü", "‮"])
def test_no_name_fakes_a_part(name):
    line = str(replace(BASE, dataset=name))
    assert line.isascii()
    assert line.isprintable()
    assert len(line.split(" | ")) == len(str(BASE).split(" | "))
    assert len(line.split(" | ")[0].split(" ")) == 1


def test_documents_are_strict_json_and_come_back():
    document = score_document(
        BASE,
        miou=np.float64(0.5),
        iou={"sky": np.float32(0.5), "road": float("nan"), "car": None},
        images=101,
        pixels=np.int64(2**53 + 1),
        confusion=np.array([[2**53 + 1, 0], [3, 4]]),
        seconds={"total": np.float32(1.5)},
    )
    read = json.loads(json.dumps(document, allow_nan=False))
    assert read["iou"] == {"sky": 0.5, "road": None, "car": None}
    assert read["pixels"] == read["confusion"][0][0] == 2**53 + 1
    assert Signature.from_dict(read["signature"]) == BASE
    assert str(Signature.from_dict(read["signature"])) == str(BASE)
    nothing = score_document(
        BASE, miou=float("nan"), iou={}, images=0, pixels=0, confusion=[], seconds={}
    )
    assert nothing["miou"] is None


def test_which_weights_are_scored_is_said_where_there_is_a_choice():
    average = replace(BASE, scored="average")
    assert "| last 1200 average |" in str(average)
    assert Signature.from_dict(average.to_dict()) == average
    # Scores from before there was an average stay as they are, line and document.
    assert "scored" not in BASE.to_dict()


def test_windows_are_said_where_there_are_any():
    windows = replace(BASE, window={"size": 513, "overlap": 0.33, "weighting": "uniform"})
    assert "| mg 1,2,4 | window 513/0.33 uniform fit | ms " in str(windows)
    read = Signature.from_dict(json.loads(json.dumps(windows.to_dict())))
    assert read == windows
    assert str(read) == str(windows)
    for field, value in {"size": 257, "overlap": 0.5, "weighting": "linear"}.items():
        assert str(replace(windows, window={**windows.window, field: value})) != str(windows)
    # Scores from before there were windows stay as they are, line and document.
    assert "window" not in BASE.to_dict()
    assert "| whole fit |" in str(BASE)


@pytest.mark.parametrize("change", [{"frame": 3}, {"flip": ...}], ids=["unknown", "missing"])
def test_documents_of_another_version_are_named(change):
    document = BASE.to_dict()
    for key, value in change.items():
        document.pop(key) if value is ... else document.update({key: value})
    with pytest.raises(DataError, match=next(iter(change))):
        Signature.from_dict(document)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.71234, "71.23"), (1, "100.00"), (0.0, "0.00"), (None, "n/a"), (float("nan"), "n/a")],
)
def test_percent(value, text):
    assert percent(value) == text
