"""No score without its signature: everything that could change the number, in one line.

    mIoU 71.23 = camvid:val:101 | v3 mnv2 | os 16->8 | mg none | whole fit | ms 1 mean | ...

The line has always the same parts in the same order, so that two lines can be compared part by
part; ``score.json`` holds the same fields by name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import quote

from segkit.errors import DataError

# Kept readable inside a part; everything else is written %XX, so that no name can fake a part.
_PLAIN = "+,/:@~()"
# Fields that a document has where they say something.
_OPTIONAL = {"scored", "skipped", "window", "deterministic"}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The protocol of one score.

    ``train_os`` has one output stride for each stage of training; ``pad`` is the rule (``fit``, a
    side in pixels, or None); ``crf`` the backend and parameters of the dense CRF or None;
    ``weights`` where training started from; ``checkpoint`` is ``last`` or ``best`` and ``step`` its
    step; ``scored`` is ``average`` or ``raw`` where it holds an average of the weights beside the
    weights themselves, and else None, which is not written; ``skipped`` counts the images that
    could not be read and were left out on demand, and is not written where there is none;
    ``window`` has ``size``, ``overlap`` and ``weighting`` of sliding windows, each padded by
    ``pad``, and is None and not written for whole images;
    ``config`` the hash of the training's
    config where known; ``device`` the kind (``cpu``, ``cuda``), ``precision`` what the network
    computed in; ``deterministic`` whether by slow exact kernels, and is not written where not.
    """

    dataset: str
    split: str
    images: int
    model: str
    backbone: str
    train_os: tuple[int, ...]
    eval_os: int
    multi_grid: tuple[int, ...] | None
    pad: int | str | None
    scales: tuple[float, ...]
    fusion: str
    flip: bool
    crf: Mapping[str, Any] | None
    weights: str
    checkpoint: str
    step: int | None
    seed: int | None
    precision: str
    device: str
    segkit: str
    torch: str
    absent: str = "dropped"
    config: str | None = None
    scored: str | None = None
    skipped: int = 0
    window: Mapping[str, Any] | None = None
    deterministic: bool = False

    def __str__(self) -> str:
        return " | ".join((*self.subject(), *self.protocol(), *self.origin()))

    def subject(self) -> tuple[str, ...]:
        """What was judged on what."""
        return (
            f"{_text(self.dataset)}:{_text(self.split)}:{self.images}"
            + (f":{self.skipped}-skipped" if self.skipped else ""),
            f"{_text(self.model)} {_text(self.backbone)}",
        )

    def protocol(self) -> tuple[str, ...]:
        """How it was judged; scores that differ here do not belong in one column."""
        return (
            f"os {_list(self.train_os)}->{self.eval_os}",
            f"mg {_list(self.multi_grid)}",
            f"{_window(self.window)} {_text(self.pad)}",
            f"ms {_list(self.scales)} {_text(self.fusion)}",
            "flip" if self.flip else "no flip",
            _crf(self.crf),
            f"absent {_text(self.absent)}",
        )

    def origin(self) -> tuple[str, ...]:
        """Where the weights and the arithmetic come from."""
        return (
            f"weights {_text(self.weights)}",
            " ".join(map(_text, (self.checkpoint, self.step, *filter(None, [self.scored])))),
            f"seed {_text(self.seed)}",
            f"config {_text(self.config)}",
            f"{_text(self.precision)} {_text(self.device)}"
            + (" deterministic" if self.deterministic else ""),
            f"segkit {_text(self.segkit)}",
            f"torch {_text(self.torch)}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` turns them back."""
        document = asdict(self)
        document["scales"], document["train_os"] = list(self.scales), list(self.train_os)
        document["multi_grid"] = None if self.multi_grid is None else list(self.multi_grid)
        document["crf"] = None if self.crf is None else dict(self.crf)
        if self.scored is None:
            del document["scored"]
        if not self.skipped:
            del document["skipped"]
        if not self.deterministic:
            del document["deterministic"]
        document["window"] = self.window and dict(self.window)
        if self.window is None:
            del document["window"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Signature":
        """The signature of a ``score.json``; DataError for missing or unknown fields."""
        known = {field.name for field in fields(cls)}
        if set(document) | _OPTIONAL != known:
            what = f"fields that differ: {', '.join(sorted(known ^ {*document, *_OPTIONAL}))}"
            raise DataError("SIGNATURE", "signature", what, "written by another version of segkit?")
        values = dict(document)
        values["scales"], values["train_os"] = tuple(values["scales"]), tuple(values["train_os"])
        if values["multi_grid"] is not None:
            values["multi_grid"] = tuple(values["multi_grid"])
        return cls(**values)


def score_line(miou: float | None, signature: Signature) -> str:
    """The line every evaluation ends with; ``miou`` in 0..1, None or NaN when no class counts."""
    return f"mIoU {percent(miou)} = {signature}"


def score_document(
    signature: Signature,
    *,
    miou: float | None,
    iou: Mapping[str, float | None],
    images: int,
    pixels: int,
    confusion: Sequence[Sequence[int]],
    seconds: Mapping[str, float],
    measures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``score.json``: strict JSON, null where there is no number.

    ``iou`` maps class names to 0..1 (NaN or None: absent); ``confusion`` has truth in its rows and
    may be any integer matrix that iterates. ``miou`` is that of the whole data set, over one
    confusion matrix. ``measures`` are further fields, each optional (all numbers 0..1 or null):

    - ``accuracy``: ``{pixel, mean}``; ``frequency_weighted_iou``; ``class_accuracy`` and
      ``class_precision``: class -> number.
    - ``categories``: ``{iou: {category: number}, miou}``, where the label set has categories.
    - ``iiou``: ``{classes: {name: number}, categories: {...}, mean, category_mean}``; with a
      ``note`` that says why where there is none.
    - ``trimap``: ``{around: "void" | "borders", widths: [1..40], miou: [...], pixel_accuracy:
      [...]}``.
    - ``boundary``: ``{iou: {class: number}, miou, distance, f: {class: number}, mean_f,
      tolerance}``; distance and tolerance are shares of an image's diagonal.

    Beside it stands ``images.json``: ``{"classes": [...], "images": [{"id", "miou", "tp": [...],
    "fp": [...], "fn": [...]}]}``, pixels of each class in each image, in the data set's order.
    They add up to ``confusion``; an image's own ``miou`` is for finding the worst ones and no part
    of the score.
    """
    return {
        "signature": signature.to_dict(),
        "miou": _number(miou),
        "iou": {name: _number(value) for name, value in iou.items()},
        "images": int(images),
        "pixels": int(pixels),
        "confusion": [[int(count) for count in row] for row in confusion],
        "seconds": {name: float(value) for name, value in seconds.items()},
        **(measures or {}),
    }


def percent(value: float | None) -> str:
    """0.7123 -> ``71.23``; None and NaN -> ``n/a``."""
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _text(value: object) -> str:
    """One word: a value as a person would type it, with everything special escaped."""
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return quote(str(value), safe=_PLAIN)


def _list(values: Sequence[float] | None) -> str:
    return "none" if values is None else ",".join(_text(value) for value in values)


def _window(window: Mapping[str, Any] | None) -> str:
    if window is None:
        return "whole"
    known = dict(window)
    size, overlap = _text(known.pop("size")), _text(known.pop("overlap"))
    return f"window {size}/{overlap} {_text(known.pop('weighting'))}"


def _crf(crf: Mapping[str, Any] | None) -> str:
    if crf is None:
        return "no crf"
    known = dict(crf)
    backend, iterations = known.pop("backend"), known.pop("iterations")
    bilateral = [_text(known.pop(f"bilateral_{name}")) for name in ("weight", "xy", "rgb")]
    gaussian = [_text(known.pop(f"gaussian_{name}")) for name in ("weight", "xy")]
    parts = [
        f"crf {_text(backend)} {iterations}it",
        f"bi{'/'.join(bilateral)} pos{'/'.join(gaussian)} {_text(known.pop('normalization'))}",
        # A parameter of a later backend must not be lost on the way to the reader.
        *(f"{_text(name)}={_text(value)}" for name, value in sorted(known.items())),
    ]
    return " ".join(parts)
