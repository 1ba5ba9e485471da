"""The training curve draws whatever metrics.jsonl holds, and always the same bytes."""

import io
import subprocess
import sys

import pytest
from PIL import Image

from segkit.report.curves import draw_curve, write_curve

TRAIN = [
    {"step": step, "stage": "os16" if step < 60 else "os8", "loss": 3 / step, "lr": 0.1 / step}
    for step in range(1, 100)
]
VAL = [{"step": step, "validation": {"miou": step / 200}} for step in (50, 99)]


@pytest.mark.parametrize(
    "lines",
    [
        TRAIN + VAL,
        TRAIN,
        VAL,
        [],
        TRAIN[:1],
        [
            {"step": 1, "loss": None},
            {"step": 2, "validation": {"miou": None}},
            {"other": 1},
            *TRAIN[:3],
        ],
        [{"step": 1, "stage": "a", "loss": float("nan"), "lr": 0.1}],
        [{"step": 1, "stage": "a", "loss": 0.0, "lr": 0.0}],
        [{"step": 3, "loss": 1.0}],
    ],
    ids=["both", "train", "val", "none", "one", "nulls", "nan", "zero", "bare"],
)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_every_record_can_be_drawn(lines, kind):
    data = draw_curve(lines, "run $x_ <b>", kind)
    if kind == "png":
        with Image.open(io.BytesIO(data)) as image:
            assert image.width > 600
    else:
        assert b"training loss" in data
        assert b"run $x_ &lt;b&gt;" in data


def test_what_the_curve_says():
    text = draw_curve(TRAIN + VAL, "", "svg").decode()
    for words in (
        "val mIoU (%)",
        "learning rate",
        "optimiser step",
        "best 49.50 at step 99",
        "os8",
    ):
        assert words in text


def test_equal_records_give_equal_bytes(tmp_path):
    for kind in ("png", "svg"):
        write_curve(tmp_path / f"a.{kind}", iter(TRAIN + VAL), "run")
        write_curve(tmp_path / f"b.{kind}", TRAIN + VAL, "run")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, segkit.report.curves; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
