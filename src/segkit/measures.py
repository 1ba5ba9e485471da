"""What an evaluation measures beside the IoU, and the fields that this gives ``score.json``."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from segkit import parts
from segkit.data.dataset import Dataset, instances_of
from segkit.data.labels import LabelSet, categories_of
from segkit.engine.evaluate import Counter, Score
from segkit.metrics import boundary, derived, instances, trimap
from segkit.metrics.boundary import Boundary
from segkit.metrics.confusion import pixel_accuracy
from segkit.metrics.instances import Instances
from segkit.metrics.per_image import PerImage, images_document
from segkit.metrics.trimap import Trimap


def counters_of(values: parts.Values, dataset: Dataset) -> dict[str, Counter]:
    """What is counted image by image; ``eval.boundaries=false`` leaves out what is near borders."""
    labels = dataset.labels
    classes = labels.num_classes, labels.ignore_label
    counters: dict[str, Counter] = {"per_image": PerImage(len(dataset), *classes)}
    if values["eval"]["boundaries"]:
        counters |= {"trimap": Trimap(*classes), "boundary": Boundary(*classes)}
    if categories := categories_of(labels):
        counters["instances"] = Instances(partial(instances_of, dataset), categories)
    return counters


def measured(score: Score, dataset: Dataset) -> dict[str, Any]:
    """The fields of ``score.json`` (see ``score_document``), from what was counted."""
    matrix, labels = score.matrix, dataset.labels
    accuracy = {"pixel": pixel_accuracy(matrix), "mean": derived.mean_accuracy(matrix)}
    fields: dict[str, Any] = {
        "accuracy": accuracy,
        "frequency_weighted_iou": derived.frequency_weighted_iou(matrix),
        "class_accuracy": _named(labels, derived.class_accuracy(matrix)),
        "class_precision": _named(labels, derived.class_precision(matrix)),
    }
    if categories := categories_of(labels):
        scores = derived.category_iou(matrix, categories)
        fields["categories"] = {"iou": scores, "miou": derived.mean(scores.values())}
        if "instances" in score.counts:
            fields["iiou"] = _iiou(score, labels, categories)
    if "trimap" in score.counts:
        fields["trimap"] = _trimap(score)
    if "boundary" in score.counts:
        fields["boundary"] = _boundary(score, labels)
    return fields


def images_text(score: Score, dataset: Dataset) -> str:
    """``images.json`` (see ``score_document``): a line for each image, for there may be many."""
    ids = [str(name) for name in dataset.ids]
    document = images_document(score.counts["per_image"], ids, dataset.labels.names)
    rows = (json.dumps(row, separators=(",", ":"), allow_nan=False) for row in document["images"])
    head = json.dumps(document["classes"])
    return f'{{"classes": {head},\n"images": [\n' + ",\n".join(rows) + "\n]}\n"


def _iiou(score: Score, labels: LabelSet, categories: tuple[str, ...]) -> dict[str, Any]:
    counts = score.counts["instances"]
    if missing := instances.without_map(counts):
        note = f"no instanceIds for {missing} of {score.images} images"
        return {"note": note, "classes": {}, "categories": {}, "mean": None, "category_mean": None}
    classes = instances.class_iiou(counts, score.matrix, labels.names)
    own = instances.category_iiou(counts, score.matrix, labels.names, categories)
    means = {"mean": derived.mean(classes.values()), "category_mean": derived.mean(own.values())}
    return {"classes": classes, "categories": own, **means}


def _trimap(score: Score) -> dict[str, Any]:
    counts = score.counts["trimap"]
    kind = trimap.around(counts)
    miou, accuracy = trimap.curve(counts, kind)
    widths = list(trimap.WIDTHS)
    return {"around": kind, "widths": widths, "miou": miou, "pixel_accuracy": accuracy}


def _boundary(score: Score, labels: LabelSet) -> dict[str, Any]:
    counts = score.counts["boundary"]
    strips, f = boundary.boundary_iou(counts), boundary.boundary_f(counts)
    return {
        "iou": _named(labels, strips),
        "miou": derived.mean(strips),
        "distance": boundary.WIDTH,
        "f": _named(labels, f),
        "mean_f": derived.mean(f),
        "tolerance": boundary.TOLERANCE,
    }


def _named(labels: LabelSet, scores: derived.Scores) -> Mapping[str, float | None]:
    return dict(zip(labels.names, scores, strict=True))
