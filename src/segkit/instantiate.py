"""Config nodes become objects: the one place that follows a ``_target_``.

A node is a constructor call: ``_target_`` names it, the other keys are its arguments, and they are
checked against its signature first, so that a misspelt or mistyped key names itself.
"""

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segkit.conf_files import nearest
from segkit.errors import ConfigError, RefusedError

# Keys of a node that are for segkit, not for the constructor.
OWN_KEYS = ("name", "_target_", "train_split", "val_split", "val")

_trusted: list[str] = ["segkit"]


def trust(modules: Sequence[str]) -> None:
    """Let class paths point into ``modules`` too (``--trust MODULE`` on this very command)."""
    _trusted[1:] = modules


def partial(node: Mapping[str, Any], key: str) -> functools.partial[Any]:
    """The node's constructor with its arguments bound; ``key`` is where the node stands.

    Raises ``ConfigError`` for arguments that the constructor does not have or that have another
    type, ``RefusedError`` for a class path outside ``segkit.`` and the trusted modules.
    """
    target = resolve(str(node.get("_target_", "")), key)
    arguments = {k: v for k, v in node.items() if k not in OWN_KEYS}
    check_arguments(target, arguments, key)
    return functools.partial(target, **arguments)


def resolve(path: str, key: str) -> Callable[..., Any]:
    """The object at a dotted path inside a trusted module."""
    if not any(path.startswith(f"{module}.") for module in _trusted):
        raise RefusedError(
            "TARGET", f"{key}._target_", f"{path!r} is outside segkit",
            "to run your own code, add --trust MODULE to this command",
        )  # fmt: skip
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError("TARGET", f"{key}._target_", f"{path!r}: {error}") from error
    if not callable(found):
        raise ConfigError("TARGET", f"{key}._target_", f"{path!r} cannot be called")
    return typing.cast(Callable[..., Any], found)


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> None:
    """Names and types of ``arguments`` against ``target``'s signature."""
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if name not in parameters:
            fix = nearest(name, parameters)[2:] or "allowed: " + ", ".join(parameters)
            raise ConfigError("UNKNOWN-KEY", f"{key}.{name}", "no such argument", fix)
        if name in hints and not fits(value, hints[name]):
            wanted = describe(hints[name])
            raise ConfigError("TYPE", f"{key}.{name}", f"{value!r} is not {wanted}")


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
