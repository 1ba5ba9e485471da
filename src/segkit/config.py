"""Config: composing it with Hydra, saying what is wrong with it.

Nothing here imports torch: ``segkit train --cfg job`` answers before torch would be loaded.
"""

import contextlib
import functools
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)
from omegaconf.resolvers import oc
from yaml import YAMLError

from segkit.conf_files import GROUPS, choices_of, conf_dir, nearest
from segkit.errors import ConfigError, hide
from segkit.inference.crf_presets import with_preset
from segkit.schema import FEEDING_KEYS, ROOTS
from segkit.sound_yaml import key_places, sound_text, yaml_error

# Groups whose options look like numbers: Hydra refuses an integer as a choice, so they are quoted.
NUMERIC_GROUPS = ("os", "multi_grid")

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
    """A composed config: plain values, the choice made in every group, the overrides as typed.

    ``written`` is ``values`` as they may be written down: what the environment gave is there as
    the text that asked for it, ``${oc.env:NAME}``.
    """

    values: dict[str, Any]
    choices: dict[str, str]
    written: dict[str, Any]
    config_dir: str | None = None
    typed: tuple[str, ...] = ()


# -- composing ---------------------------------------------------------------------------------


def compose(command: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> Composed:
    """Compose ``command``'s root config with ``overrides`` as typed on a command line.

    Raises ``ConfigError`` (unknown key or choice, wrong type, syntax), each with the nearest valid
    name. Interpolations are resolved; the result is plain data.
    """
    register(command)
    check_encoding(overrides)
    now = [added(command, o) for o in overrides if not is_late(command, o, overrides)]
    typed = [quote_names(quote_path(quote_numeric_choice(o))) for o in now]
    extra = [search_path(config_dir)] if config_dir else []
    UserFiles.read.clear()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            cfg = hydra_compose(command, [*extra, *typed], return_hydra_config=True)
            return plain(cfg, command, config_dir, overrides)
    except COMPOSING_ERRORS as error:
        raise placed(translate(error, command, overrides, config_dir), overrides) from error


def check_encoding(overrides: Sequence[str]) -> None:
    """Refuse words that are no text: they could not be written down again."""
    for word in overrides:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            key = word.partition("=")[0]
            raise ConfigError("SYNTAX", key, f"{word!a} is not UTF-8", "rename it") from error


def is_late(command: str, override: str, overrides: Sequence[str]) -> bool:
    """Whether ``override`` changes the data set of a run that is not known while composing."""
    own_group = any(o.startswith("dataset=") for o in overrides)
    return command != "train" and override.startswith("dataset.") and not own_group


def added(command: str, override: str) -> str:
    """Keys of every data set that a data set's own file does not have: ``train`` alone has them."""
    key = override.partition("=")[0]
    feeding = key.removeprefix("dataset.").split(".")[0] in FEEDING_KEYS
    return f"++{override}" if command != "train" and key != override and feeding else override


@functools.cache
def register(command: str) -> None:
    """Make a typed root known to Hydra as ``<command>_schema``, and how user files are read."""
    ConfigStore.instance().store(name=f"{command}_schema", node=ROOTS[command])
    Plugins.instance().register(UserFiles)


class UserFiles(ConfigSource):
    """The files of a ``--config-dir``: each is looked at before OmegaConf makes something of it."""

    read: ClassVar[list[Path]] = []

    @staticmethod
    def scheme() -> str:
        return "user"

    def place(self, name: str) -> Path:
        return Path(unquote(self.path)) / name

    def load_config(self, config_path: str) -> ConfigResult:
        path = self.place(self._normalize_file_name(config_path))
        text = sound_text(path)
        self.read.append(path)
        try:
            made = OmegaConf.load(io.StringIO(text))
        except YAMLError as error:
            raise yaml_error(path, error) from error
        except OmegaConfBaseException as error:
            raise ConfigError("INVALID", path, str(error).splitlines()[0]) from error
        header = self._get_header_dict(text[:512])
        return ConfigResult(self.provider, self.full_path(), made, header)

    def is_group(self, config_path: str) -> bool:
        return self.place(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return self.place(self._normalize_file_name(config_path)).is_file()

    def available(self) -> bool:
        return self.is_group("")

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = []
        for path in sorted(self.place(config_path).iterdir()):
            inner = str(Path(config_path) / path.name)
            self._list_add_result(found, inner, path.name, results_filter)
        return found


def search_path(config_dir: str) -> str:
    """The override that makes Hydra look into ``config_dir``, whatever its name is made of."""
    return f"hydra.searchpath=['user://{quote(str(existing_dir(config_dir)))}']"


def plain(
    cfg: DictConfig, command: str, config_dir: str | None = None, typed: Sequence[str] = ()
) -> Composed:
    """A composed config (with its ``hydra`` node) as plain data and choices."""
    chosen = {g: str(c) for g, c in cfg.hydra.runtime.choices.items() if "/" not in g}
    bare = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    with environment_reads() as reads:
        values = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        keys = {o.partition("=")[0].lstrip("+~") for o in typed}
        if "densecrf" in values:
            values["densecrf"] = with_preset(values["densecrf"], keys)
        written = dict(as_written(bare, values, reads) if reads else values)
    known = {f.name for f in fields(ROOTS[command])}
    if added := sorted(str(k) for k in values if k not in known):  # `+key=` steps past the schema
        raise ConfigError("UNKNOWN-KEY", added[0], "no such key", nearest(added[0], known)[2:])
    if gone := sorted(known - values.keys()):  # `~key` takes a key away
        raise ConfigError("MISSING", gone[0], "has no value", f"type {gone[0]}=...")
    return Composed(
        {str(k): v for k, v in values.items()}, chosen, written, config_dir, tuple(typed)
    )


@contextlib.contextmanager
def environment_reads() -> Iterator[list[str]]:
    """The names of the variables that ``${oc.env:...}`` reads inside the block.

    Their values are kept out of every message and record from then on.
    """
    names: list[str] = []

    def read(name: str, *default: Any) -> Any:
        names.append(name)
        if name in os.environ:
            hide(os.environ[name], f"${{oc.env:{name}}}")
        return oc.env(name, *default)

    OmegaConf.register_new_resolver("oc.env", read, replace=True)
    try:
        yield names
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def as_written(node: Any, values: Any, reads: list[str]) -> Any:
    """``values`` with the text of ``node`` wherever resolving it reads the environment."""
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    made = dict(values) if isinstance(node, DictConfig) else list(values)
    raw = OmegaConf.to_container(node, resolve=False)
    for key in keys:
        reads.clear()
        inner = node[key]
        if not OmegaConf.is_interpolation(node, key):
            made[key] = as_written(inner, values[key], reads) if is_node(inner) else values[key]
            continue
        if is_node(inner):  # it may lead to nodes that read in their turn
            OmegaConf.to_container(inner, resolve=True)
        if reads:
            made[key] = raw[key]  # type: ignore[index]
    return made


def is_node(value: Any) -> bool:
    return bool(OmegaConf.is_config(value))


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


# Keys that hold a path or a name: Hydra's grammar knows few of the characters these are made of.
PATH_KEYS = ("runs", "name", "ckpt", "out", "pretrained", "dataset.root", "dataset.cache_dir")


def quote_path(override: str) -> str:
    """``runs=my own/läufe`` as Hydra needs it; what is quoted or interpolated already stays."""
    key, equals, value = override.partition("=")
    plain = re.fullmatch(r"[\w./~-]*", value, re.ASCII)
    if key.lstrip("+") not in PATH_KEYS or not equals or plain or value[0] in "'\"":
        return override
    if re.search(r"\$\{", value):
        return override
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    tail = re.search(r"\\*$", escaped)
    return f"{key}='{escaped}{tail[0] if tail else ''}'"


def quote_names(override: str) -> str:
    """``dataset.classes=[Straße,Baum]`` as Hydra needs it, whose bare words are ASCII."""
    key, _, value = override.partition("=")
    if key.lstrip("+") != "dataset.classes" or value.isascii():
        return override
    parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[\[\],]|[^\[\],"']+)""", value)
    quoted = [part if part.isascii() or part[0] in "\"'" else f"'{part.strip()}'" for part in parts]
    return f"{key}={''.join(quoted)}"


# -- errors in the user's words ----------------------------------------------------------------


def translate(
    error: BaseException, command: str, overrides: Sequence[str], config_dir: str | None
) -> ConfigError:
    """Hydra's, OmegaConf's and YAML's errors as one line that names the key and the way out."""
    chain = list(causes(error))
    if own := next((e for e in chain if isinstance(e, ConfigError)), None):
        return own  # of a file that was looked at while composing
    text = "\n".join(str(e) for e in chain)
    if wrong := next((e for e in chain if isinstance(e, ValidationError) and full_key(e)), None):
        return type_error(wrong)
    if cut := next((e for e in chain if isinstance(e, InterpolationResolutionError)), None):
        return ConfigError("INTERPOLATION", full_key(cut) or command, str(cut).splitlines()[0])
    if bad := re.search(r"Could not find '([\w-]+)/(.+?)'", text):
        return choice_error(bad[1], bad[2], config_dir)
    if bad := re.search(r"Could not override '(.+?)'|Key '(.+?)' (?:is )?not in", text):
        return key_error(unknown_key(bad[1] or bad[2], chain), command, overrides, config_dir)
    if any(isinstance(e, YAMLError) for e in chain):
        return ConfigError("YAML", yaml_place(chain), yaml_problem(chain))
    if any(type(e).__name__ == "OverrideParseException" for e in chain):
        return syntax_error(error, overrides)
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


def syntax_error(error: BaseException, overrides: Sequence[str]) -> ConfigError:
    said = str(getattr(error, "override", "") or str(error).splitlines()[0])
    typed = next((o for o in overrides if o and o in said), said)
    return ConfigError("SYNTAX", typed, "not understood", "overrides look like key=value")


def placed(error: ConfigError, typed: Sequence[str]) -> ConfigError:
    """``error`` with file, line and column of its key, where a user's file and no word gave it."""
    words = [o.lstrip("+~").split("=")[0] for o in typed]
    if type(error) is not ConfigError or error.where in words:
        return error
    name = error.where.rpartition(".")[2]
    places = [place for path in UserFiles.read for place in key_places(path, name)]
    if not places:
        return error
    return ConfigError(error.name, error.where, f"{error.what} ({places[-1]})", error.fix)
