"""Config: composing it with Hydra, saying what is wrong with it, reading it back from a checkpoint.

Nothing here imports torch: ``segkit train --cfg job`` answers before torch would be loaded.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError

from segkit.conf_files import GROUPS, choices_of, conf_dir, nearest
from segkit.errors import CheckpointError, ConfigError, RefusedError
from segkit.schema import ROOTS

# Groups whose options look like numbers: Hydra refuses an integer as a choice, so they are quoted.
NUMERIC_GROUPS = ("os", "multi_grid")

# Keys that cannot change a result, so they are no part of a run's identity.
UNHASHED = (
    *("name", "runs", "resume", "resume_allow", "device", "devices", "workers"),
    *(
        "tta",
        "densecrf",
        "log",
        "eval.pictures",
        "eval.save_predictions",
    ),
    *("eval.colour_baseline", "checkpoint", "dataset.root", "dataset.cache"),
)


# ValueError: OmegaConf's own for a word where a list wants an index.
COMPOSING_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    UnicodeDecodeError,
    ValueError,
)


@dataclass(frozen=True)
class Composed:
    """A composed config: plain values, the choice made in every group, the overrides as typed."""

    values: dict[str, Any]
    choices: dict[str, str]
    config_dir: str | None = None
    typed: tuple[str, ...] = ()


# -- composing ---------------------------------------------------------------------------------


def compose(command: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> Composed:
    """Compose ``command``'s root config with ``overrides`` as typed on a command line.

    Raises ``ConfigError`` (unknown key or choice, wrong type, syntax), each with the nearest valid
    name. Interpolations are resolved; the result is plain data.
    """
    register_schemas()
    typed = [quote_numeric_choice(o) for o in overrides if not is_late(command, o, overrides)]
    extra = [f"hydra.searchpath=[file://{existing_dir(config_dir)}]"] if config_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            cfg = hydra_compose(command, [*extra, *typed], return_hydra_config=True)
            return plain(cfg, command, config_dir, overrides)
    except COMPOSING_ERRORS as error:
        raise translate(error, command, overrides, config_dir) from error


def is_late(command: str, override: str, overrides: Sequence[str]) -> bool:
    """Whether ``override`` changes the data set of a run that is not known while composing."""
    own_group = any(o.startswith("dataset=") for o in overrides)
    return command != "train" and override.startswith("dataset.") and not own_group


def register_schemas() -> None:
    """Make the typed roots known to Hydra under ``<command>_schema``."""
    for command, root in ROOTS.items():
        ConfigStore.instance().store(name=f"{command}_schema", node=root)


def plain(
    cfg: DictConfig, command: str, config_dir: str | None = None, typed: Sequence[str] = ()
) -> Composed:
    """A composed config (with its ``hydra`` node) as plain data and choices."""
    chosen = {g: str(c) for g, c in cfg.hydra.runtime.choices.items() if "/" not in g}
    bare = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    values = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    known = {f.name for f in fields(ROOTS[command])}
    if added := sorted(str(k) for k in values if k not in known):  # `+key=` steps past the schema
        raise ConfigError("UNKNOWN-KEY", added[0], "no such key", nearest(added[0], known)[2:])
    if gone := sorted(known - values.keys()):  # `~key` takes a key away
        raise ConfigError("MISSING", gone[0], "has no value", f"type {gone[0]}=...")
    return Composed({str(k): v for k, v in values.items()}, chosen, config_dir, tuple(typed))


def existing_dir(config_dir: str) -> Path:
    path = Path(config_dir).expanduser().resolve()
    if not path.is_dir():
        raise ConfigError("CONFIG-DIR", "--config-dir", f"{config_dir} is not a folder")
    return path


def quote_numeric_choice(override: str) -> str:
    """``os=8,16`` as Hydra needs it: ``os='8','16'``; ``multi_grid=[1,2,4]`` is ``'1-2-4'``."""
    match = re.fullmatch(r"(\+?)(os|multi_grid)=(.*)", override)
    if not match:
        return override
    plus, group, value = match.groups()
    if re.fullmatch(r"[\[(][\d, ]+[\])]", value):
        value = re.sub(r"[,\s]+", "-", value[1:-1].strip())
    if value in ("null", "None", "false") and group == "multi_grid":
        value = "none"
    if value == "null":
        return override
    parts = [p.strip().strip("'\"") for p in value.split(",")]
    return f"{plus}{group}=" + ",".join(f"'{p}'" for p in parts)


# -- errors in the user's words ----------------------------------------------------------------


def translate(
    error: BaseException, command: str, overrides: Sequence[str], config_dir: str | None
) -> ConfigError:
    """Hydra's, OmegaConf's and YAML's errors as one line that names the key and the way out."""
    chain = list(causes(error))
    text = "\n".join(str(e) for e in chain)
    if wrong := next((e for e in chain if isinstance(e, ValidationError) and full_key(e)), None):
        return type_error(wrong)
    if bad := re.search(r"Could not find '([\w-]+)/(.+?)'", text):
        return choice_error(bad[1], bad[2], config_dir)
    if bad := re.search(r"Could not override '(.+?)'|Key '(.+?)' (?:is )?not in", text):
        return key_error(unknown_key(bad[1] or bad[2], chain), command, overrides, config_dir)
    if any(isinstance(e, YAMLError) for e in chain):
        return ConfigError("YAML", yaml_place(chain), yaml_problem(chain))
    if any(type(e).__name__ == "OverrideParseException" for e in chain):
        return syntax_error(str(error), overrides)
    if bad := re.search(r"Missing mandatory value: (\S+)", text):
        return ConfigError("MISSING", bad[1], "has no value", f"type {bad[1]}=...")
    first = str(error).strip().splitlines() or [type(error).__name__]
    return ConfigError("INVALID", command, first[0])


def unknown_key(outer: str, chain: Sequence[BaseException]) -> str:
    """The full key: ``outer`` as typed, or the key inside it that OmegaConf did not know."""
    inner = next((k for e in chain if (k := full_key(e))), outer)
    if inner.startswith(outer) or outer.startswith(inner) or inner.endswith(outer):
        return max(inner, outer, key=len)
    return f"{outer}.{inner}"


def causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def full_key(error: BaseException) -> str:
    return dotted(str(getattr(error, "full_key", "") or ""))


def dotted(key: str) -> str:
    """``schedule.stages[0].lr`` as it is typed: ``schedule.stages.0.lr``."""
    return re.sub(r"\[(\w+)\]", r".\1", key)


def type_error(error: ValidationError) -> ConfigError:
    wrong = r"(?:of type '.*?' could not be converted to|is not a valid)"
    found = re.search(rf"Value '(.*?)' {wrong} (\w+)", str(error))
    key = full_key(error)
    if not found:
        return ConfigError("TYPE", key, str(error).splitlines()[0])
    kind = {"Integer": "int", "Float": "float", "Boolean": "bool"}.get(found[2], found[2])
    article = "an" if kind == "int" else "a"
    return ConfigError("TYPE", key, f"{found[1]!r} is not {article} {kind}")


def choice_error(group: str, choice: str, config_dir: str | None) -> ConfigError:
    known = choices_of(group, config_dir)
    hint = nearest(choice, known)
    return ConfigError("UNKNOWN-CHOICE", group, f"{choice!r}{hint}", "choices: " + ", ".join(known))


def key_error(
    key: str, command: str, overrides: Sequence[str], config_dir: str | None
) -> ConfigError:
    """Unknown key: suggest the nearest one of the config composed without the bad override."""
    key = dotted(key)
    good = [o for o in overrides if not o.lstrip("+~").startswith((f"{key}=", f"{key}@"))]
    groups = [o for o in good if o.split("=")[0].lstrip("+") in GROUPS]
    known: list[str] = []
    if good != [*overrides]:  # else the key came from a file and composing again would fail again
        with contextlib.suppress(ConfigError):
            known = flat_keys(compose(command, groups, config_dir).values)
    fix = nearest(key, [*known, *GROUPS]).lstrip("; ")
    return ConfigError("UNKNOWN-KEY", key, "no such key", fix or f"see segkit {command} --help")


def flat_keys(values: Any, prefix: str = "") -> list[str]:
    """Every dotted key of nested plain data, inner nodes included."""
    if isinstance(values, Mapping):
        pairs: Iterable[tuple[Any, Any]] = values.items()
    elif isinstance(values, list):
        pairs = enumerate(values)
    else:
        return []
    keys = []
    for name, value in pairs:
        keys += [f"{prefix}{name}", *flat_keys(value, f"{prefix}{name}.")]
    return keys


def yaml_place(chain: Sequence[BaseException]) -> str:
    for error in chain:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            return f"{mark.name}:{mark.line + 1}:{mark.column + 1}"
    return "config file"


def yaml_problem(chain: Sequence[BaseException]) -> str:
    problems = [str(p) for e in chain if (p := getattr(e, "problem", None))]
    return problems[0] if problems else str(chain[-1]).splitlines()[0]


def syntax_error(text: str, overrides: Sequence[str]) -> ConfigError:
    typed = next((o for o in overrides if o and o in text), text.splitlines()[0])
    return ConfigError("SYNTAX", typed, "not understood", "overrides look like key=value")


# -- identity ----------------------------------------------------------------------------------


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without the keys that cannot change a result, flat by dotted key."""
    kept = {k: v for k, v in flatten(values).items() if not is_unhashed(k)}
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
    text = json.dumps(identity(values), sort_keys=True, default=str)
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
    return "-".join((*parts, f"s{values['seed']}", digest(values)))


# -- a config out of a checkpoint --------------------------------------------------------------


def restore(stored: Mapping[str, Any], config_dir: str | None, where: object) -> Composed:
    """Rebuild a stored config from SHIPPED configs, by choice names and plain values.

    Class paths always come from the shipped files (or ``config_dir``, given on this very command);
    text found in an artefact is text: nothing is interpolated, resolved or instantiated from it.
    Raises ``CheckpointError`` for unknown choices, ``RefusedError`` for a foreign class path.
    """
    chosen, values = stored.get("choices"), stored.get("values")
    if not isinstance(chosen, Mapping) or not isinstance(values, Mapping):
        raise CheckpointError("CONFIG", where, "holds no readable config")
    shipped = compose("train", known_choices(chosen, config_dir, where), config_dir).values
    merged = overlay(shipped, values, "", where)
    return Composed(merged, {str(k): str(v) for k, v in chosen.items()}, config_dir)


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
        for name in ("_target_", "_partial_", "_args_", "_recursive_", "_convert_"):
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
        return [overlay(None, item, key, where) for item in stored]
    if stored is None or isinstance(stored, str | int | float | bool):
        return stored
    raise CheckpointError("CONFIG", where, f"{key} holds a {type(stored).__name__}")
