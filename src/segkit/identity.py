"""What of a config names its results: the same hash, the same numbers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from segkit.config import Composed

# Keys that cannot change a result, so they are no part of a run's identity.
UNHASHED = (
    *("name", "runs", "resume", "resume_allow", "device", "devices"),
    *("workers", "worker_timeout"),
    *(
        "tta",
        "densecrf",
        "log",
        "eval.pictures",
        "eval.save_predictions",
        "recompute",
    ),
    *("eval.batch", "eval.boundaries", "eval.report"),
    *("eval.colour_baseline", "checkpoint", "dataset.root"),
    *("dataset.cache", "dataset.cache_dir", "dataset.max_skipped"),
)

# Keys that came after runs had got their names, and what a run does that never heard of them: at
# that value a key is not in the name.
LATER: dict[str, Any] = {
    "schedule.ema": None,
    "eval.weights": "auto",
    "eval.window.size": None,
    "eval.window.overlap": 0.33,
    "eval.window.weighting": "uniform",
    "augment.one_class_max": None,
    "dataset.on_error": "raise",
    "dataset.duplicate.classes": [],
    "dataset.duplicate.times": 2,
}


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without the keys that cannot change a result, flat by dotted key."""
    kept = LATER | {k: v for k, v in flatten(values).items() if not is_unhashed(k)}
    if kept.get("pretrained") not in ("imagenet", "none"):
        kept["pretrained"] = "path"
    return kept


def is_unhashed(key: str) -> bool:
    return any(key == k or key.startswith(f"{k}.") for k in UNHASHED)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists of plain scalars stay whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def digest(values: Mapping[str, Any]) -> str:
    """Eight hex digits that name a config's results."""
    named = {k: v for k, v in identity(values).items() if k not in LATER or v != LATER[k]}
    text = json.dumps(named, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Hashed keys whose values differ: ``key -> (old, new)``."""
    before, after = identity(old), identity(new)
    keys = sorted(before.keys() | after.keys())
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def run_name(composed: Composed) -> str:
    """The run folder's name: ``name=`` or made from the config."""
    values, chosen = composed.values, composed.choices
    if values["name"]:
        return str(values["name"])
    first_os = values["schedule"]["stages"][0]["os"] or values["os"]
    parts = (chosen["model"], chosen["backbone"], f"os{first_os}", chosen["dataset"])
    return "-".join((*parts, f"s{values['seed']}", digest(composed.written)))
