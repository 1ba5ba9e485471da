"""``segkit COMMAND --help``: groups with their choices and the scalars, without composing."""

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass

from segkit.conf_files import choices_of, groups_of
from segkit.schema import ROOTS


def command_help(command: str, summary: str, config_dir: str | None = None) -> str:
    """The page as text."""
    root = ROOTS[command]
    groups = groups_of(command)
    lines = [f"segkit {command} [key=value ...]: {summary}", *story(root), "", "groups"]
    lines += [f"  {g:<18} {' '.join(choices_of(g, config_dir))}" for g in groups]
    lines += ["", "keys"]
    lines += [scalar_line(name, f) for name, f in documented(root) if name not in groups]
    nodes = [f.name for f in fields(root) if "help" not in f.metadata and f.name not in groups]
    lines += [
        "",
        *([f"nodes: {' '.join(nodes)}"] if nodes else []),
        f"all of it: segkit {command} --cfg job",
    ]
    return "\n".join(lines)


def story(root: type) -> list[str]:
    """What a root says about its command below its first line."""
    text = inspect.cleandoc(root.__doc__ or "").partition("\n\n")[2]
    return ["", *text.splitlines()] if text else []


def documented(root: type) -> Iterator[tuple[str, "Field[object]"]]:
    """The keys that say of themselves what they are, by their full names: scalars, then nodes'."""
    yield from ((f.name, f) for f in fields(root) if "help" in f.metadata)
    for node in fields(root):
        made = node.default_factory
        if is_dataclass(made):
            inside = (f for f in fields(made) if "help" in f.metadata)
            yield from ((f"{node.name}.{f.name}", f) for f in inside)


def scalar_line(name: str, entry: "Field[object]") -> str:
    made = entry.default_factory
    default = entry.default if made is MISSING else made()
    return f"  {f'{name}={shown(default)}':<24} {entry.metadata['help']}"


def shown(value: object) -> str:
    """A default as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
