"""Config nodes become objects: the one place that follows a ``_target_``.

A node is a constructor call: ``_target_`` names it, the other keys are its arguments, and they are
checked against its signature first, so that a misspelt or mistyped key names itself.
"""

import functools
import importlib
import importlib.util
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.conf_files import nearest
from segkit.errors import ConfigError, RefusedError
from segkit.schema import FEEDING_KEYS

# Keys of a node that are for segkit, not for the constructor.
OWN_KEYS = ("name", "_target_", "train_split", "val_split", "val", *FEEDING_KEYS)


@dataclass(frozen=True)
class Role:
    """What a node may name in segkit: where it is defined, what it is handed, what it can do."""

    room: str
    arguments: frozenset[str]
    method: str


ROLES = {
    "model": Role("segkit.models.heads", frozenset({"features", "num_classes"}), "forward"),
    "backbone": Role("segkit.models.backbones", frozenset({"output_stride"}), "forward"),
    "dataset": Role("segkit.data", frozenset({"split"}), "read"),
    "loss": Role("segkit.losses", frozenset({"ignore_label"}), "normaliser"),
}

_trusted: list[str] = []


def trust(modules: Sequence[str]) -> None:
    """Let class paths point into ``modules`` too (``--trust MODULE`` on this very command).

    Raises ``ConfigError`` for a module that cannot be found.
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError) as error:
            raise ConfigError("TRUST", "--trust", f"{module}: {error}") from error
        if found is None:
            fix = "put the folder it lies in on PYTHONPATH"
            raise ConfigError("TRUST", "--trust", f"no module named {module!r}", fix)
    _trusted[:] = modules


def partial(node: Mapping[str, Any], key: str) -> functools.partial[Any]:
    """The node's constructor with its arguments bound; ``key`` is where the node stands.

    Raises ``ConfigError`` for arguments that the constructor does not have or that have another
    type, ``RefusedError`` for a class path that is neither one of segkit's parts nor inside the
    trusted modules.
    """
    target = resolve(str(node.get("_target_", "")), key)
    arguments = {k: v for k, v in node.items() if k not in OWN_KEYS}
    check_arguments(target, arguments, key)
    return functools.partial(target, **arguments)


def resolve(path: str, key: str) -> Callable[..., Any]:
    """The object at a dotted path: a part that segkit defines for this, or in a trusted module.

    The path is judged before anything is imported, for importing already runs code.
    """
    module, _, name = path.rpartition(".")
    role = ROLES[key]
    own, trusted = inside(module, [role.room]), inside(module, _trusted)
    if not own and not trusted:
        what = "is no part for this" if path.startswith("segkit.") else "is outside segkit"
        raise RefusedError(
            "TARGET", f"{key}._target_", f"{path!r} {what}",
            "to run your own code, add --trust MODULE to this command",
        )  # fmt: skip
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError("TARGET", f"{key}._target_", f"{path!r}: {error}") from error
    if not callable(found):
        raise ConfigError("TARGET", f"{key}._target_", f"{path!r} cannot be called")
    home = str(getattr(found, "__module__", ""))
    if not (inside(home, _trusted) if trusted else home == module and plays(found, role)):
        found_there = f"{path!r} is not a {key} that is defined there"
        raise RefusedError("TARGET", f"{key}._target_", found_there, "name it where it is defined")
    return typing.cast(Callable[..., Any], found)


def inside(module: str, modules: Sequence[str]) -> bool:
    """Whether ``module`` is one of ``modules`` or lies in one."""
    return any(module == m or module.startswith(f"{m}.") for m in modules)


def plays(found: Any, role: Role) -> bool:
    """Whether a class, or a function annotated to return one, is made for ``role``."""
    made = typing.get_type_hints(found).get("return") if inspect.isfunction(found) else found
    if not inspect.isclass(made) or not hasattr(made, role.method):
        return False
    return role.arguments <= inspect.signature(found).parameters.keys()


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> None:
    """Names and types of ``arguments`` against ``target``'s signature."""
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if reads_environment(value):  # out of an artefact, where it stays text
            found = "was read from the environment when the run was trained"
            raise ConfigError("ENVIRONMENT", f"{key}.{name}", found, f"type {key}.{name}=...")
        if name not in parameters:
            fix = nearest(name, parameters)[2:] or "allowed: " + ", ".join(parameters)
            raise ConfigError("UNKNOWN-KEY", f"{key}.{name}", "no such argument", fix)
        if name in hints and not fits(value, hints[name]):
            wanted = describe(hints[name])
            raise ConfigError("TYPE", f"{key}.{name}", f"{value!r} is not {wanted}")


def reads_environment(value: Any) -> bool:
    """Whether a stored value stands for one that came from the environment.

    Of all interpolations these alone are written down as they were typed.
    """
    return isinstance(value, str) and "${" in value


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value has the annotated type (unknown annotations accept anything)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, a) for a in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is type(None):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        inner = [a for a in arguments if a is not Ellipsis]
        return isinstance(value, list | tuple) and (
            not inner or all(fits(v, inner[min(i, len(inner) - 1)]) for i, v in enumerate(value))
        )
    return True


def describe(hint: Any) -> str:
    """An annotation in words: ``int or null``."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if hint is type(None):
        return "null"
    if hint in (bool, int, float, str):
        return f"{'an' if hint is int else 'a'} {hint.__name__}"
    return f"a {str(hint).replace('collections.abc.', '').replace('typing.', '')}"
