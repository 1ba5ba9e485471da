"""One finished score: is it of this run and this protocol, and which exact numbers does it hold."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from segkit.config import Composed
from segkit.engine.record import read_status
from segkit.errors import SegkitError, one_line
from segkit.identity import digest
from segkit.report.signature import Signature
from segkit.stored import folder_values, for_checkpoint

# Words of an evaluation that can change no number.
_IDLE = ("device", "devices", "workers", "worker_timeout", "rank_timeout", "out", "runs", "ckpt")
_IDLE_OF_EVAL = ("pictures", "report", "boundaries", "batch", "save_predictions", "colour_baseline")


def read_score(path: Path) -> dict[str, Any] | None:
    """What ``score.json`` holds, its decimals as they are written; None if there is none.

    ValueError for a file that is no score.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {type(error).__name__}") from error
    document = json.loads(text, parse_float=Decimal, parse_constant=_no_number)
    if not isinstance(document, dict) or not isinstance(document.get("signature"), dict):
        raise ValueError("is no score")
    return document


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def signature_of(score: Mapping[str, Any]) -> Signature:
    """ValueError where it is not one of this version."""
    try:
        return Signature.from_dict(_plain(score["signature"]))
    except (SegkitError, TypeError, KeyError) as error:
        raise ValueError(f"signature: {error}") from error


def _plain(value: Any) -> Any:
    """Decimals as the floats that a signature is written with."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


# -- is it of this run, and asked as the row says ------------------------------------------------


def stale(signature: Signature, run: Path, words: Sequence[str]) -> str | None:
    """Why a score is not shown: made from another config or step, or by another protocol."""
    config, step = run_digest(run), read_status(run).get("step")
    if config is None:
        return "the run has no config.yaml"
    if signature.config != config:
        return f"made from config {signature.config}, the run is {config}"
    if signature.checkpoint == "last" and signature.step != step:
        return f"made at step {signature.step}, the run is at {step}"
    return contradiction(signature, words)


def run_digest(run: Path) -> str | None:
    """What a score of the run has as ``config``; None if the run does not say what it is."""
    try:
        found = (run / "config.yaml").stat()
    except OSError:
        return None
    return _digest_of(run, (found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=1024)
def _digest_of(run: Path, _changed: tuple[int, int]) -> str | None:
    """Reading the YAML takes a tenth of a second, and every cell asks."""
    values = folder_values(run)
    return digest(for_checkpoint(Composed(values, {}, values))["values"]) if values else None


def contradiction(signature: Signature, words: Sequence[str]) -> str | None:
    """The first word of an evaluation that the signature does not bear out, and what it has."""
    asked = {key: value for key, _, value in (word.partition("=") for word in words)}
    typed = {key.lstrip("+"): yaml.safe_load(value) for key, value in asked.items()}
    expected = {"ms": False, "flip": False, "crf": False, "os": None} | typed
    for key, value in expected.items():
        found = _borne_out(signature, key, value, typed)
        if found is not None:
            return one_line(f"asked with {key}={asked.get(key, 'null')}, scored with {found}")
    return None


def _borne_out(signature: Signature, key: str, value: Any, typed: Mapping[str, Any]) -> str | None:
    """None if it is, or nothing can tell; else what the signature has."""
    node, _, name = key.partition(".")
    if key in _IDLE or (node == "eval" and name in _IDLE_OF_EVAL):
        return None
    has = _has(signature, key, typed)
    if has is _UNKNOWN:
        return None
    if key == "os" and value is None:
        value = signature.train_os[-1]
    if key == "precision" and value == "auto":
        return None
    return None if has == value else str(has)


_UNKNOWN = object()


def _has(signature: Signature, key: str, typed: Mapping[str, Any]) -> Any:
    """What the signature says of ``key``; ``_UNKNOWN`` where it says nothing."""
    node, _, name = key.partition(".")
    crf, window = signature.crf or {}, signature.window or {}
    plain: dict[str, Any] = {
        "os": signature.eval_os,
        "flip": signature.flip,
        "crf": signature.crf is not None,
        "ms": signature.scales != (1.0,),
        "precision": signature.precision,
        "dataset": signature.dataset.partition("(")[0],
        "eval.pad": signature.pad,
        "eval.split": signature.split,
        "tta.fusion": signature.fusion,
        "tta.scales": list(signature.scales) if typed.get("ms") else _UNKNOWN,
        "ckpt_kind": signature.checkpoint,
        "eval.weights": signature.scored or _UNKNOWN,
    }
    if node == "densecrf":
        return crf.get(name, _UNKNOWN) if crf and name not in ("backend", "preset") else _UNKNOWN
    if node == "eval" and name.startswith("window."):
        return window.get(name.removeprefix("window."))
    return plain.get(key, _UNKNOWN)


# -- its numbers ----------------------------------------------------------------------------------


def number(measure: str, score: Mapping[str, Any] | None, run: Path) -> Fraction | None:
    """The exact number that ``measure`` (see ``book.MEASURES``) reads off a score or a run.

    ``gain`` and ``trimap_gain`` read what they are the difference of. None where there is none;
    ValueError for a score that contradicts itself.
    """
    kind, _, width = measure.partition(":")
    if kind == "train_rate":
        return _train_rate(run)
    if score is None:
        return None
    try:
        return _trimap(score, float(width)) if kind.startswith("trimap") else _miou(score)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"is no whole score: {error!r}") from error


def _miou(score: Mapping[str, Any]) -> Fraction | None:
    """Mean IoU in percent, of the counts themselves."""
    matrix = score["confusion"]
    truth, found = map(sum, matrix), map(sum, zip(*matrix, strict=True))
    diagonal = (row[i] for i, row in enumerate(matrix))
    shares = [
        Fraction(right, t + f - right)
        for right, t, f in zip(diagonal, truth, found, strict=True)
        if t + f - right
    ]
    if not shares and score["miou"] is None:
        return None
    exact, told = 100 * sum(shares, Fraction(0)) / max(len(shares), 1), Fraction(score["miou"])
    if not shares or abs(exact - 100 * told) > Fraction(1, 10**6):
        raise ValueError("has another mIoU than its confusion matrix")
    return exact


def _trimap(score: Mapping[str, Any], width: float) -> Fraction | None:
    curve = score.get("trimap") or {"widths": [], "miou": []}
    by_width = dict(zip(map(float, curve["widths"]), curve["miou"], strict=True))
    value = by_width.get(width)
    return None if value is None else 100 * Fraction(value)


def _train_rate(run: Path) -> Fraction | None:
    """Training images a second, over all of the run that its timing.jsonl knows."""
    rows = timing(run)
    seconds = sum((Fraction(row["seconds"]) for row in rows), Fraction(0))
    images = sum(
        (Fraction(row["seconds"]) * Fraction(row["images_per_second"]) for row in rows), Fraction(0)
    )
    return images / seconds if seconds else None


def timing(run: Path) -> list[dict[str, Any]]:
    """The whole rows of ``timing.jsonl``."""
    try:
        text = (run / "timing.jsonl").read_text(encoding="utf-8")
        return [json.loads(line, parse_float=Decimal) for line in text.splitlines()]
    except (OSError, ValueError):
        return []
