"""The lines below the class table: what else a ``score.json`` says, in a few words each."""

from collections.abc import Mapping
from typing import Any

from segkit.errors import one_line
from segkit.report.signature import percent

# Widths of the trimap curve that are printed; all are in the file.
_SHOWN = (5, 10, 20)


def summary(document: Mapping[str, Any]) -> list[str]:
    """One line for each kind of measure that the document of a score has, in percent."""
    return [
        *([_accuracy(document)] if "accuracy" in document else []),
        *([_categories(document)] if "categories" in document else []),
        *([_iiou(document["iiou"])] if "iiou" in document else []),
        *([_boundary(document["boundary"])] if "boundary" in document else []),
        *([_trimap(document["trimap"])] if "trimap" in document else []),
    ]


def _accuracy(document: Mapping[str, Any]) -> str:
    accuracy, weighted = document["accuracy"], document["frequency_weighted_iou"]
    return (
        f"pixel accuracy {percent(accuracy['pixel'])}, mean accuracy {percent(accuracy['mean'])}, "
        f"frequency-weighted IoU {percent(weighted)}"
    )


def _categories(document: Mapping[str, Any]) -> str:
    found = document["categories"]
    return f"categories: mIoU {percent(found['miou'])} over {len(found['iou'])}"


def _iiou(found: Mapping[str, Any]) -> str:
    if "note" in found:
        return f"iIoU: n/a, {one_line(found['note'])}"
    return f"iIoU: classes {percent(found['mean'])}, categories {percent(found['category_mean'])}"


def _boundary(found: Mapping[str, Any]) -> str:
    wide, near = f"{100 * found['distance']:g} %", f"{100 * found['tolerance']:g} %"
    return (
        f"boundary: IoU {percent(found['miou'])} within {wide} of the diagonal, "
        f"F {percent(found['mean_f'])} within {near}"
    )


def _trimap(found: Mapping[str, Any]) -> str:
    known = dict(zip(found["widths"], found["miou"], strict=True))
    shown = ", ".join(f"{percent(known[w])} ({w} px)" for w in _SHOWN if w in known)
    return f"trimap around {one_line(found['around'])}: mIoU {shown}"
