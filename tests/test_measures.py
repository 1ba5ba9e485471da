"""What an evaluation counts besides the matrix: over processes, in the files, and as printed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit import eval as evaluation
from segkit.data.labels import CAMVID, CITYSCAPES, LabelSet
from segkit.data.loader import EvalSample
from segkit.engine.evaluate import Score, evaluate
from segkit.measures import counters_of, images_text, measured
from segkit.metrics.confusion import mean_iou
from segkit.report.signature import Signature
from segkit.report.summary import summary

VALUES = {"eval": {"boundaries": True}}
CAR = 13


class Drawn:
    """Blocks of random classes and void, each image of its own size."""

    def __init__(self, labels: LabelSet, count: int, seed: int = 0) -> None:
        self.labels, self.seed = labels, seed
        self.ids = [f"image {index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def _blocks(self, index: int, salt: int) -> np.ndarray:
        draw = np.random.default_rng([self.seed, index, salt])
        side = 3 + index % 4
        coarse = draw.integers(0, self.labels.num_classes, (6, 7), dtype=np.uint8)
        return coarse.repeat(side, 0).repeat(side, 1)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        label = np.where(self._blocks(index, 1) < 2, 255, self._blocks(index, 0)).astype(np.uint8)
        return np.zeros((*label.shape, 3), np.uint8), label

    def instances(self, index: int) -> np.ndarray:
        label = self.read(index)[1].astype(np.int32)
        return np.where((label >= 11) & (label != 255), label * 1000 + index, -1)

    def guess(self, index: int) -> np.ndarray:
        keep = self._blocks(index, 2) % 2 == 0
        return np.where(keep, self._blocks(index, 0), self._blocks(index, 3))


def scored(data: Drawn, indices: range, guess: Any = None, values: Any = VALUES) -> Score:
    """The part of the evaluation that one process does."""
    counters = counters_of(values, data)

    def samples() -> Any:
        for index in indices:
            rgb, label = data.read(index)
            yield EvalSample(index, data.ids[index], rgb, label)

    def predict(together: list[EvalSample]) -> list[torch.Tensor]:
        return [torch.from_numpy((guess or data.guess)(sample.index)) for sample in together]

    return evaluate(
        samples(),
        predict,
        num_classes=data.labels.num_classes,
        ignore_label=255,
        device="cpu",
        counters=counters,
    )


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), world=st.sampled_from([2, 3]))
def test_shares_of_several_processes_add_up_to_the_same_bits(seed: int, world: int) -> None:
    data = Drawn(CITYSCAPES, 7, seed)
    whole = scored(data, range(7))
    shares = [scored(data, range(rank, 7, world)) for rank in range(world)]
    for order in (shares, shares[::-1]):
        counts = {name: sum(share.counts[name] for share in order) for name in whole.counts}
        for name, total in whole.counts.items():
            assert total.dtype == torch.int64
            assert torch.equal(counts[name], total), name
        matrix = torch.stack([share.matrix for share in order]).sum(0)
        joined = Score(matrix, 7, int(matrix.sum()), {}, counts)
        assert json.dumps(measured(joined, data)) == json.dumps(measured(whole, data))


def test_every_number_is_a_share_and_strict_json() -> None:
    data = Drawn(CITYSCAPES, 5)
    fields = json.loads(json.dumps(measured(scored(data, range(5)), data), allow_nan=False))
    settings = fields["trimap"].pop("widths"), fields["trimap"].pop("around")
    assert settings == (list(range(1, 41)), "borders")
    assert len(fields["trimap"]["miou"]) == len(fields["trimap"]["pixel_accuracy"]) == 40
    assert set(fields["iiou"]["categories"]) == {"human", "vehicle"}
    found = list(numbers(fields))
    assert len(found) > 150
    assert all(0 <= number <= 1 for number in found)
    assert 0 < fields["iiou"]["classes"]["car"] < 1


def numbers(value: Any) -> Any:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, float | int):
        yield value


def test_what_is_predicted_in_void_changes_nothing() -> None:
    """E9, of all that is measured."""
    data = Drawn(CITYSCAPES, 4)

    def other(index: int) -> np.ndarray:
        return np.where(data.read(index)[1] == 255, CAR, data.guess(index))

    one, two = (measured(scored(data, range(4), guess), data) for guess in (None, other))
    assert one == two


def test_a_perfect_answer_is_1_and_absent_classes_are_none() -> None:
    """E5: three of CamVid's classes are in no image and in no prediction."""
    data = Drawn(CAMVID, 3)

    def truth(index: int) -> np.ndarray:
        return np.where(data.read(index)[1] == 255, 10, data.read(index)[1])

    data.read = without(data.read, (0, 4, 8))  # type: ignore[method-assign]
    fields = measured(scored(data, range(3), truth), data)
    absent = {CAMVID.names[c] for c in (0, 4, 8)}
    for scores in (fields["class_accuracy"], fields["boundary"]["iou"], fields["boundary"]["f"]):
        assert {name for name, value in scores.items() if value is None} == absent
        assert all(value == 1 for value in scores.values() if value is not None)
    assert fields["accuracy"] == {"pixel": 1.0, "mean": 1.0}
    assert set(fields["trimap"]["miou"][:5]) == {1.0}
    assert "categories" not in fields
    assert "iiou" not in fields


def without(read: Any, classes: tuple[int, ...]) -> Any:
    def reading(index: int) -> tuple[np.ndarray, np.ndarray]:
        rgb, label = read(index)
        return rgb, np.where(np.isin(label, classes), 255, label).astype(np.uint8)

    return reading


def test_boundaries_can_be_left_out() -> None:
    data = Drawn(CAMVID, 2)
    fields = measured(scored(data, range(2), values={"eval": {"boundaries": False}}), data)
    assert "trimap" not in fields
    assert "boundary" not in fields
    assert [line.split()[0] for line in summary(fields)] == ["pixel"]


def test_files_and_lines_of_an_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E12: miou is that of the data set; images.json adds up to it and has the images' own."""
    data = Drawn(CITYSCAPES, 4)
    score = scored(data, range(4))
    evaluation.report(score, signature(), data, None, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"mIoU {100 * mean_iou(score.matrix):.2f} = ")
    document = json.loads((tmp_path / "score.json").read_text())
    assert document["images"] == 4
    assert document["miou"] == mean_iou(score.matrix)
    told = summary(document)
    assert [line.split()[0] for line in told] == [
        "pixel", "categories:", "iIoU:", "boundary:", "trimap"
    ]  # fmt: skip
    start = lines.index(told[0])
    assert lines[start : start + 5] == told

    images = json.loads((tmp_path / "images.json").read_text())
    assert images["classes"] == list(CITYSCAPES.names)
    rows = images["images"]
    assert [row["id"] for row in rows] == data.ids
    right, wrong, missed = (np.array([row[k] for row in rows]).sum(0) for k in ("tp", "fp", "fn"))
    union = right + wrong + missed
    assert (right[union > 0] / union[union > 0]).mean() == pytest.approx(document["miou"], 1e-12)
    assert np.mean([row["miou"] for row in rows]) != pytest.approx(document["miou"], 1e-3)


def test_the_lines_as_people_read_them() -> None:
    curve = {"widths": [1, 5, 10, 20], "miou": [0.1, 0.25, None, 0.5]}
    document = {
        "accuracy": {"pixel": 0.9, "mean": 0.8},
        "frequency_weighted_iou": 0.85,
        "categories": {"iou": {"flat": 0.5, "sky": None}, "miou": 0.5},
        "iiou": {"note": "no instanceIds for 3 of 4 images"},
        "boundary": {"miou": 0.4, "distance": 0.02, "mean_f": 0.3, "tolerance": 0.0075},
        "trimap": {"around": "void", **curve},
    }
    assert summary(document) == [
        "pixel accuracy 90.00, mean accuracy 80.00, frequency-weighted IoU 85.00",
        "categories: mIoU 50.00 over 2",
        "iIoU: n/a, no instanceIds for 3 of 4 images",
        "boundary: IoU 40.00 within 2 % of the diagonal, F 30.00 within 0.75 %",
        "trimap around void: mIoU 25.00 (5 px), n/a (10 px), 50.00 (20 px)",
    ]
    assert summary({"miou": 0.5}) == []  # a score from before there was more than that


def test_a_name_in_images_json_is_only_text() -> None:
    data = Drawn(CAMVID, 1)
    data.ids = ['</script>"\u2028\n']
    document = json.loads(images_text(scored(data, range(1)), data))
    assert document["images"][0]["id"] == data.ids[0]


def signature() -> Signature:
    return Signature(
        dataset="drawn", split="val", images=4, model="v3", backbone="mnv2", train_os=(16,),
        eval_os=16, multi_grid=None, pad=None, scales=(1.0,), fusion="mean", flip=False, crf=None,
        weights="none", checkpoint="last", step=1, seed=0, precision="fp32", device="cpu",
        segkit="0", torch="0",
    )  # fmt: skip


@pytest.mark.gpu
def test_predictions_on_a_gpu_count_the_same() -> None:
    data = Drawn(CITYSCAPES, 3)
    counted = []
    for device in ("cpu", "cuda"):
        counters = counters_of(VALUES, data)
        for index in range(3):
            rgb, label = data.read(index)
            sample = EvalSample(index, data.ids[index], rgb, label)
            for counter in counters.values():
                counter.update(sample, torch.from_numpy(data.guess(index)).to(device))
        counted.append({name: counter.counts() for name, counter in counters.items()})
    assert all(torch.equal(counted[0][name], counted[1][name]) for name in counted[0])
