"""One evaluation for each point, over the same probabilities."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segkit.data.dataset import Dataset
from segkit.data.loader import EvalSample, eval_samples
from segkit.engine.evaluate import Score, evaluate
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_stage import CrfStage
from segkit.metrics.confusion import iou, mean_iou
from segkit.tuning.grid import NEIGHBOURS, Point, Search
from segkit.tuning.probabilities import Probabilities
from segkit.tuning.record import Record

ALONE = "without the CRF"


@dataclass(frozen=True)
class Row:
    """A point and what came out; ``iou`` has a number or None for each class by name."""

    round: str
    point: Point
    miou: float
    iou: Mapping[str, float | None]

    def document(self) -> dict[str, Any]:
        return {"round": self.round, **asdict(self.point), "miou": self.miou, "iou": self.iou}


class Tuning:
    """Scores points on ``dataset``; the record keeps what is finished."""

    def __init__(
        self,
        dataset: Dataset,
        probabilities: Probabilities,
        record: Record,
        *,
        crf: DenseCrf,
        stage: CrfStage[EvalSample],
        should_stop: Callable[[], bool],
        on_image: Callable[[], None],
    ) -> None:
        self._dataset, self._probabilities, self._record = dataset, probabilities, record
        self._crf, self._stage = crf, stage
        self._should_stop, self._on_image = should_stop, on_image

    def alone(self) -> float:
        """The mIoU of the same probabilities as they are."""
        row = self._record.get(ALONE)
        if row is None:
            row = _found(self._score(None), self._dataset)
            self._record.add(ALONE, row)
        return float(row["miou"])

    def rows(self, points: Iterable[Point], round_: str) -> list[Row]:
        """A row for each point, in order."""
        return [self._row(point, round_) for point in points]

    def _row(self, point: Point, round_: str) -> Row:
        found = self._record.get(str(point))
        if found is None:
            found = _found(self._score(replace(self._crf, **asdict(point))), self._dataset)
            self._record.add(str(point), found)
        return Row(round_, point, found["miou"], found["iou"])

    def _score(self, crf: DenseCrf | None) -> Score:
        """All images refined with ``crf``, or as they are."""

        def ask(together: list[EvalSample]) -> Iterator[Tensor]:
            for sample in together:
                found = torch.from_numpy(self._probabilities.load(sample.index))
                yield found if crf is not None else found.argmax(0)

        if crf is not None:
            self._stage.take(crf)
        labels = self._dataset.labels
        return evaluate(
            eval_samples(self._dataset, should_stop=self._should_stop),
            ask,
            num_classes=labels.num_classes,
            ignore_label=labels.ignore_label,
            device="cpu",
            refine=None if crf is None else self._stage,
            on_image=lambda *_: self._on_image() if crf is not None else None,
            should_stop=self._should_stop,
        )


def points_left(search: Search, record: Record) -> int:
    """How many points have no row yet, the second round's included."""
    coarse = search.coarse()
    scores = {p: row["miou"] for p in coarse if (row := record.get(str(p))) is not None}
    if len(scores) < len(coarse):
        return len(coarse) - len(scores) + NEIGHBOURS
    top = max(scores, key=lambda point: scores[point])
    return sum(record.get(str(point)) is None for point in search.fine(top))


def coarse_to_fine(tuning: Tuning, search: Search) -> list[Row]:
    """The papers' two rounds; the first of equals wins a round."""
    coarse = tuning.rows(search.coarse(), "coarse")
    return coarse + tuning.rows(search.fine(best(coarse).point), "fine")


def best(rows: list[Row]) -> Row:
    return max(rows, key=lambda row: row.miou)


def _found(score: Score, dataset: Dataset) -> dict[str, Any]:
    per_class = dict(zip(dataset.labels.names, iou(score.matrix), strict=True))
    miou = mean_iou(score.matrix)
    assert miou is not None, "evaluate() refuses a set without labelled pixels"
    return {"miou": miou, "iou": per_class}
