"""``segkit COMMAND --help``: groups with their choices and the scalars, without composing."""

from dataclasses import MISSING, Field, fields

from segkit.conf_files import GROUPS, choices_of
from segkit.schema import ROOTS


def command_help(command: str, summary: str, config_dir: str | None = None) -> str:
    """The page as text."""
    root = ROOTS[command]
    groups = {"train": GROUPS, "eval": ("dataset", "os", "runtime")}.get(command, ("os", "runtime"))
    lines = [f"segkit {command} [key=value ...]: {summary}", "", "groups"]
    lines += [f"  {g:<18} {' '.join(choices_of(g, config_dir))}" for g in groups]
    lines += ["", "keys"]
    lines += [scalar_line(f) for f in fields(root) if "help" in f.metadata and f.name not in groups]
    nodes = [f.name for f in fields(root) if "help" not in f.metadata and f.name not in groups]
    lines += ["", f"nodes: {' '.join(nodes)}", f"all of it: segkit {command} --cfg job"]
    return "\n".join(lines)


def scalar_line(entry: "Field[object]") -> str:
    made = entry.default_factory
    default = entry.default if made is MISSING else made()
    return f"  {f'{entry.name}={shown(default)}':<24} {entry.metadata['help']}"


def shown(value: object) -> str:
    """A default as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
