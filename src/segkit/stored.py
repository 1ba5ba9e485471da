"""What of a config is written down, and how it comes back.

Text found in an artefact is text: class paths come from the shipped files or from a
``--config-dir`` given on this very command, and nothing is interpolated or resolved.
"""

import copy
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from segkit.conf_files import GROUPS, choices_of
from segkit.config import Composed, compose
from segkit.errors import CheckpointError, RefusedError
from segkit.instantiate import describe, fits, reads_environment
from segkit.schema import Train

# Where and on what a run happens. A checkpoint does not know: it is the same bytes on any machine.
PLACES = (
    *("runs", "device", "devices", "workers", "worker_timeout", "resume", "resume_allow"),
    *("dataset.root", "dataset.cache", "dataset.cache_dir", "dataset.val.root"),
)

DIRECTIVES = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


# -- writing -----------------------------------------------------------------------------------


def for_folder(composed: Composed) -> dict[str, Any]:
    """The config as a run folder's ``config.yaml`` keeps it."""
    return {"choices": composed.choices, "values": composed.written}


def for_checkpoint(composed: Composed) -> dict[str, Any]:
    """The config as a checkpoint keeps it: without ``PLACES``."""
    values = copy.deepcopy(composed.written)
    for key in PLACES:
        *nodes, name = key.split(".")
        node: Any = values
        for part in nodes:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(name, None)
    if values["pretrained"] not in ("imagenet", "none"):
        values["pretrained"] = "path"
    return {"choices": composed.choices, "values": values}


# -- reading -----------------------------------------------------------------------------------


def folder_values(folder: Path) -> dict[str, Any]:
    """The values in a run folder's ``config.yaml``; {} if there is none or it is unreadable."""
    try:
        stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return dict(stored["values"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        return {}


def data_places(folder: Path) -> dict[str, str]:
    """Where the data set of the run in ``folder`` was found, as typed then."""
    dataset = folder_values(folder).get("dataset")
    if not isinstance(dataset, dict):
        return {}
    return {k: v for k in ("root",) if isinstance(v := dataset.get(k), str)}


def with_places(stored: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A checkpoint's config, and where the run in ``folder`` found its data."""
    values = stored.get("values")
    if not isinstance(values, Mapping) or not isinstance(values.get("dataset"), Mapping):
        return stored
    return {**stored, "values": {**values, "dataset": {**values["dataset"], **data_places(folder)}}}


def restore(stored: Mapping[str, Any], config_dir: str | None, where: object) -> Composed:
    """Rebuild a stored config from SHIPPED configs, by choice names and plain values.

    Class paths always come from the shipped files (or ``config_dir``, given on this very command);
    text found in an artefact is text: nothing is interpolated, resolved or instantiated from it.
    Raises ``CheckpointError`` for unknown choices and mistyped values, ``RefusedError`` for a
    foreign class path.
    """
    chosen, values = stored.get("choices"), stored.get("values")
    if not isinstance(chosen, Mapping) or not isinstance(values, Mapping):
        raise CheckpointError("CONFIG", where, "holds no readable config")
    here = compose("train", known_choices(chosen, config_dir, where), config_dir)
    merged = given_again(overlay(here.values, values, "", where), here.values, here.written)
    check_types(merged, Train, "", where)
    choices = {str(k): str(v) for k, v in chosen.items()}
    return Composed(merged, choices, merged, config_dir)


def known_choices(chosen: Mapping[str, Any], config_dir: str | None, where: object) -> list[str]:
    overrides = []
    for group in GROUPS:
        choice = chosen.get(group)
        if choice in (None, "None", "null"):
            continue
        if choice not in choices_of(group, config_dir):
            raise CheckpointError(
                "CONFIG", where, f"was made with {group}={choice!r}, which is not shipped here",
                "name its folder with --config-dir",
            )  # fmt: skip
        overrides.append(f"{group}={choice}")
    return overrides


def overlay(shipped: Any, stored: Any, key: str, where: object) -> Any:
    """``stored`` plain values over ``shipped`` ones; a differing class path is refused."""
    if isinstance(stored, Mapping):
        base = shipped if isinstance(shipped, Mapping) else {}
        for name in DIRECTIVES:
            if name in stored and stored[name] != base.get(name):
                raise RefusedError(
                    "TARGET", where, f"{key}.{name} asks for {stored[name]!r}",
                    "class paths come from shipped configs or --config-dir, never from a file",
                )  # fmt: skip
        names = dict.fromkeys([*base, *map(str, stored)])
        return {
            n: overlay(base.get(n), stored[n], f"{key}.{n}".lstrip("."), where)
            if n in stored
            else base[n]
            for n in names
        }
    if isinstance(stored, list):
        return [overlay(None, item, f"{key}.{i}", where) for i, item in enumerate(stored)]
    if stored is None or isinstance(stored, str | int | float | bool):
        return stored
    raise CheckpointError("CONFIG", where, f"{key} holds a {type(stored).__name__}")


def given_again(stored: Any, values: Any, written: Any) -> Any:
    """``stored``, with today's value where a file of this very command asks by the same text."""
    if isinstance(stored, dict) and isinstance(values, dict):
        return {
            k: given_again(v, values.get(k), written.get(k)) if k in values else v
            for k, v in stored.items()
        }
    return values if isinstance(stored, str) and stored == written else stored


def check_types(value: Any, kind: Any, key: str, where: object) -> None:
    """A stored ``value`` against the schema: a checkpoint may be older than this, or forged."""
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise _mistyped(value, "a set of keys", key, where)
        hints = typing.get_type_hints(kind)
        for entry in fields(kind):
            if entry.name in value:
                inner = f"{key}.{entry.name}".lstrip(".")
                check_types(value[entry.name], hints[entry.name], inner, where)
    elif typing.get_origin(kind) is list and is_dataclass(typing.get_args(kind)[0]):
        if not isinstance(value, list):
            raise _mistyped(value, "a list", key, where)
        for number, item in enumerate(value):
            check_types(item, typing.get_args(kind)[0], f"{key}.{number}", where)
    elif kind is not Any and not fits(value, kind):
        raise _mistyped(value, describe(kind), key, where)


def _mistyped(value: Any, wanted: str, key: str, where: object) -> CheckpointError:
    if reads_environment(value):
        found = f"{key} was read from the environment"
        return CheckpointError("CONFIG", where, found, "give its config again with --config-dir")
    return CheckpointError("CONFIG", where, f"{key}: {value!r} is not {wanted}")
