"""What stands on the page: a ``Document`` -> texts, numbers and places for the template.

Nothing is escaped here (the template does that), but every text is made one line, and without what
the environment keeps secret.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segkit.errors import one_line, without_secrets
from segkit.report import charts
from segkit.report.curves import draw_curve
from segkit.report.gallery import HIGHEST, WIDEST, Exhibit, Group
from segkit.report.number_tables import Table, boundary_tables, category_tables
from segkit.report.pictures import RIGHT, WRONG
from segkit.report.signature import percent

_LAYERS = ("Image", "Truth", "Prediction", "Error")
_MOST_MISTAKES = 12
_FEW = 9
_ROOM_FOR_NUMBERS = 24  # classes up to which a matrix of numbers is read by anybody
_LARGEST = 8  # times its size: what is larger shows nothing but pixels
_LEGEND = 40  # longer, and a legend hides the pictures

# Fields of the signature as a reader calls them; one not listed here is shown by its own name.
_FIELDS = {
    "dataset": "data set",
    "images": "images",
    "skipped": "images left out (unreadable)",
    "train_os": "output stride in training",
    "eval_os": "output stride here",
    "multi_grid": "multi-grid",
    "pad": "padding",
    "fusion": "scales joined by",
    "flip": "mirrored image too",
    "crf": "dense CRF",
    "weights": "weights began from",
    "scored": "weights of the checkpoint",
    "device": "computed on",
    "absent": "absent classes",
    "config": "hash of the training's config",
    "segkit": "segkit",
    "torch": "PyTorch",
}


_CURVES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


@dataclass(frozen=True, kw_only=True)
class Document:
    """All that a page shows.

    ``title`` names what was evaluated (the run), ``score`` is what ``score.json`` holds, ``line``
    the signed score, ``colours`` the RGB of its classes in their order. ``settings`` are texts by
    heading, ``training`` lines of ``metrics.jsonl``.
    """

    title: str
    score: Mapping[str, Any]
    line: str
    colours: Sequence[Sequence[int]]
    gallery: Sequence[Group] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    training: Sequence[Mapping[str, Any]] = ()
    version: str = ""


def contents(document: Document) -> dict[str, Any]:
    """What the template asks for, by its names."""
    found = {
        **_score_parts(document),
        **_class_parts(document),
        **_border_parts(document.score),
        **_gallery_parts(document),
        **_training_parts(document),
        "title": _text(document.title),
        "settings": [
            (_text(name), without_secrets(text)) for name, text in document.settings.items()
        ],
        "environment": [(name, _value(v)) for name, v in _flat(document.environment)],
        "version": document.version,
    }
    anchors = {
        "score": True,
        "classes": True,
        "confusion": True,
        "borders": found["trimap"] or found["near_borders"],
        "gallery": found["gallery"],
        "training": found["training"],
        "settings": True,
        "environment": True,
    }
    names = {"borders": "Near borders", "gallery": "Images"}
    found["parts"] = [(a, names.get(a, a.capitalize())) for a, shown in anchors.items() if shown]
    return found


# -- texts -----------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """One line of text; the template escapes it for HTML."""
    return one_line(str(value))


def _value(value: object) -> str:
    """A value of the signature or the environment as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(k)} {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    return _text(value) or "none"


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{_text(name)} ")
        else:
            rows.append((before + _text(name).replace("_", " "), value))
    return rows


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# -- score and classes -----------------------------------------------------------------------------


def _score_parts(document: Document) -> dict[str, Any]:
    score = document.score
    signature = score["signature"]
    headline = [("mean IoU, %", percent(score["miou"]))]
    if accuracy := score.get("accuracy"):
        headline += [(f"{name} accuracy", percent(value)) for name, value in accuracy.items()]
    if "frequency_weighted_iou" in score:
        weighted = percent(score["frequency_weighted_iou"])
        headline.append(("frequency-weighted IoU", weighted))
    headline += [("images", f"{score['images']:,}"), ("pixels", f"{score['pixels']:,}")]
    return {
        "miou": percent(score["miou"]),
        "headline": headline,
        "line": _text(document.line),
        "subject": _text(
            f"{signature['dataset']}, {signature['split']}: "
            f"{signature['model']} {signature['backbone']}"
        ),
        "signature": [
            (_FIELDS.get(name, _text(name).replace("_", " ")), _value(value))
            for name, value in signature.items()
        ],
    }


def _class_parts(document: Document) -> dict[str, Any]:
    names, confusion = list(document.score["iou"]), document.score["confusion"]
    pixels, dense = sum(map(sum, confusion)), len(names) > _ROOM_FOR_NUMBERS
    rows = []
    for index, (name, iou) in enumerate(document.score["iou"].items()):
        total = sum(confusion[index])
        accuracy = confusion[index][index] / total if total else None
        rows.append(
            {
                "name": _text(name),
                "colour": charts.hexadecimal(document.colours[index]),
                "iou": iou,
                "iou_text": percent(iou),
                "accuracy": accuracy,
                "accuracy_text": percent(accuracy),
                "share": percent(total / pixels if pixels else None),
                "cells": [_cell(count, total, dense) for count in confusion[index]],
            }
        )
    return {
        "classes": rows,
        "density": "dense" if dense else "few" if len(names) <= _FEW else "",
        "mistakes": _mistakes([row["name"] for row in rows], confusion),
        "class_tables": category_tables(document.score),
        "data": {"names": [_text(name) for name in names], "confusion": confusion},
    }


def _cell(count: int, total: int, dense: bool) -> tuple[str, str]:
    """The class and the text of a cell."""
    if not total:
        return "empty", ""
    share = count / total
    return f"s{charts.shade_of(share)}", f"{100 * share:.0f}" if count and not dense else ""


def _mistakes(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[dict[str, str]]:
    wrong = sorted(
        (-count, t, p)
        for t, row in enumerate(confusion)
        for p, count in enumerate(row)
        if t != p and count
    )
    errors = -sum(count for count, _, _ in wrong)
    return [
        {
            "truth": names[t],
            "prediction": names[p],
            "of_truth": f"{percent(-count / sum(confusion[t]))} %",
            "of_errors": f"{percent(-count / errors)} %",
        }
        for count, t, p in wrong[:_MOST_MISTAKES]
    ]


# -- near borders ----------------------------------------------------------------------------------


def _border_parts(score: Mapping[str, Any]) -> dict[str, Any]:
    curve = score.get("trimap") or {"around": "borders", "widths": []}
    known = {name: curve[key] for key, name in _CURVES.items() if key in curve}
    series = {
        name: [
            (float(width), 100 * value)
            for width, value in zip(curve["widths"], line, strict=True)
            if value is not None
        ]
        for name, line in known.items()
    }
    by_width = zip(*known.values(), strict=True)
    around = "void" if curve["around"] == "void" else "borders between classes"
    return {
        "trimap": charts.line_chart(series, "width of the band, pixels", "%"),
        "trimap_title": f"Scores of the pixels in a band around {around}, over its width",
        "trimap_table": Table(
            "",
            tuple(known),
            [
                (f"{width:g}", [percent(value) for value in values])
                for width, values in zip(curve["widths"], by_width, strict=False)
            ],
        ),
        "chart_width": charts.WIDTH,
        "chart_height": charts.HEIGHT,
        "near_borders": boundary_tables(score.get("boundary")),
    }


# -- gallery and training --------------------------------------------------------------------------


def _gallery_parts(document: Document) -> dict[str, Any]:
    groups = [
        {
            "title": group.title,
            "exhibits": [_exhibit(e) for e in group.exhibits],
            "left_out": group.left_out,
        }
        for group in document.gallery
    ]
    names = [_text(name) for name in list(document.score["iou"])[:_LEGEND]]
    colours = map(charts.hexadecimal, document.colours)
    return {
        "gallery": groups,
        "layer_names": _LAYERS,
        "legend": list(zip(names, colours, strict=False)),
        "right": charts.hexadecimal(RIGHT),
        "wrong": charts.hexadecimal(WRONG),
    }


def _exhibit(found: Exhibit) -> dict[str, Any]:
    drawn = (found.truth, found.prediction, found.error)
    times = min(_LARGEST, WIDEST / found.width, HIGHEST / found.height)
    width, height = round(times * found.width), round(times * found.height)
    return {
        "id": _text(found.id),
        "miou": percent(found.miou),
        "accuracy": percent(found.accuracy),
        "width": width,
        "height": height,
        "small": width < WIDEST,
        "layers": [_uri("image/jpeg", found.photo), *(_uri("image/png", data) for data in drawn)],
    }


def _training_parts(document: Document) -> dict[str, Any]:
    steps = [line for line in document.training if isinstance(line.get("loss"), int | float)]
    if len(steps) < 2:
        return {"training": "", "training_text": ""}
    best = max(
        (v["miou"] for line in document.training if (v := line.get("validation")) and v["miou"]),
        default=None,
    )
    text = f"Loss, learning rate and validation over {steps[-1]['step']:,} steps"
    if best is not None:
        text += f"; best validated mIoU {percent(best)}"
    drawn = draw_curve(document.training, "", "svg")
    return {"training": _uri("image/svg+xml", drawn), "training_text": text}
