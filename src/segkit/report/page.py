"""``report.html``: one evaluation as one file that opens from disk and fetches nothing.

A pure function of its ``Document``: the same document gives the same bytes, so no clock and no
machine's path may be in it. Every text is escaped by the template's autoescaping; what stands in a
script is JSON that cannot end it. The policy in the head lets nothing else run or load.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segkit.errors import one_line, without_secrets
from segkit.report import charts
from segkit.report.curves import draw_curve
from segkit.report.gallery import Exhibit, Group
from segkit.report.pictures import RIGHT, WRONG
from segkit.report.signature import percent

_TEMPLATES = Path(__file__).parent / "templates"
_LAYERS = ("Image", "Truth", "Prediction", "Error")
_MOST_MISTAKES = 12
_FEW = 9
_ROOM_FOR_NUMBERS = 24  # classes up to which a matrix of numbers is read by anybody
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
_HEADLINES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


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


def page(document: Document) -> bytes:
    """The file's content, UTF-8."""
    css, js = _style(), _script()
    context = {
        **_score_parts(document),
        **_class_parts(document),
        **_border_parts(document.score),
        **_gallery_parts(document),
        **_training_parts(document),
        "title": _text(document.title),
        "settings": [(name, without_secrets(text)) for name, text in document.settings.items()],
        "environment": [(name, _value(v)) for name, v in _flat(document.environment)],
        "version": document.version,
        "css": Markup(css),
        "js": Markup(js),
        "policy": _policy(css, js),
    }
    anchors = {
        "score": True,
        "classes": True,
        "confusion": True,
        "borders": context["trimap"] or context["measures"],
        "gallery": context["gallery"],
        "training": context["training"],
        "settings": True,
        "environment": True,
    }
    names = {"borders": "Near borders", "gallery": "Images"}
    parts = [(a, names.get(a, a.capitalize())) for a, shown in anchors.items() if shown]
    return _environment().get_template("report.html.j2").render(context, parts=parts).encode()


# -- the fixed parts -------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined
    )


@lru_cache(maxsize=1)
def _style() -> str:
    shades = [
        _shades(charts.LIGHT),
        f"@media (prefers-color-scheme: dark) {{{_shades(charts.DARK)}}}",
    ]
    return "\n".join([(_TEMPLATES / "report.css").read_text(encoding="utf-8"), *shades])


def _shades(theme: tuple[charts.Rgb, charts.Rgb]) -> str:
    rules = []
    for number in range(charts.SHADES):
        ground, text = map(charts.hexadecimal, charts.shade(number / (charts.SHADES - 1), theme))
        rules.append(f".s{number}{{background:{ground};color:{text}}}")
    return "".join(rules)


@lru_cache(maxsize=1)
def _script() -> str:
    return (_TEMPLATES / "report.js").read_text(encoding="utf-8")


def _policy(css: str, js: str) -> str:
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )


def script_json(value: object) -> Markup:
    """``value`` as JSON inside a script element: no text in it ends the element or a line."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


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
    headline += [(n, percent(score[key])) for key, n in _HEADLINES.items() if key in score]
    headline += [("images", f"{score['images']:,}"), ("pixels", f"{score['pixels']:,}")]
    return {
        "miou": percent(score["miou"]),
        "headline": headline,
        "line": document.line,
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
        "data": script_json({"names": [_text(name) for name in names], "confusion": confusion}),
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
    curve = score.get("trimap") or {}
    found = zip(curve.get("widths", ()), curve.get("miou", ()), strict=True)
    points = [(float(width), 100 * miou) for width, miou in found if miou is not None]
    chart = charts.line_chart({"mIoU": points}, "width of the band, pixels", "mIoU, %")
    return {
        "trimap": chart,
        "trimap_title": f"mIoU within a band around {_text(curve.get('around', 'borders'))}",
        "trimap_rows": [(f"{x:g}", f"{y:.2f}") for x, y in points],
        "chart_width": charts.WIDTH,
        "chart_height": charts.HEIGHT,
        "measures": [],
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
    return {
        "id": _text(found.id),
        "miou": percent(found.miou),
        "accuracy": percent(found.accuracy),
        "width": found.width,
        "height": found.height,
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
