"""A look at a user's YAML file before anything is made of it."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from segkit.errors import ConfigError

_MOST_BYTES = 1 << 18
_MOST_NODES = 100_000


def sound_text(path: Path) -> str:
    """The text of a user's YAML file, looked at before anything is made of it.

    Raises ``ConfigError`` with file, line and column: not UTF-8, not YAML, a doubled key, or
    aliases that would expand to more than any config needs.
    """
    data = _bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line, start = data.count(b"\n", 0, error.start), data.rfind(b"\n", 0, error.start) + 1
        at = f"{shown(path)}:{line + 1}:{error.start - start + 1}"
        found = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ConfigError("YAML", at, found, "save the file as UTF-8") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise yaml_error(path, error) from error
    except RecursionError as error:
        raise ConfigError("YAML", shown(path), "is nested too deeply") from error
    if tree is None:
        return text
    if not isinstance(tree, yaml.MappingNode):
        raise ConfigError(
            "YAML", place(path, tree.start_mark), "is not a set of keys", "key: value"
        )
    _Size(path).of(tree)
    return text


def yaml_error(path: Path, error: yaml.YAMLError) -> ConfigError:
    """What the parser of ``path`` said, in one line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return ConfigError("YAML", place(path, mark) if mark else shown(path), str(problem))


def place(path: Path, mark: yaml.Mark) -> str:
    return f"{shown(path)}:{mark.line + 1}:{mark.column + 1}"


def shown(path: Path) -> str:
    """A path as short as the working directory allows."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def key_places(path: Path, name: str) -> Iterator[str]:
    """Where the key ``name`` stands in ``path``, which is known to be sound."""
    tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    nodes, seen = [tree], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        for child in node.value:
            key, value = child if isinstance(child, tuple) else (None, child)
            nodes.append(value)
            if key is not None and key.value == name:
                yield place(path, key.start_mark)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError("YAML", shown(path), f"cannot be read ({error.strerror})") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError("YAML", shown(path), f"has {len(data)} bytes", f"at most {_MOST_BYTES}")
    return data


class _Size:
    """Counts what a tree of nodes becomes once every alias is a copy, without making one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def of(self, node: yaml.Node) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in self.open:
            raise ConfigError("YAML", place(self.path, node.start_mark), "an alias holds itself")
        if id(node) not in self.sizes:
            self.open.add(id(node))
            self.sizes[id(node)] = 1 + sum(map(self.of, self._children(node)))
            self.open.remove(id(node))
        if self.sizes[id(node)] > _MOST_NODES:
            found = f"aliases expand to more than {_MOST_NODES} values"
            raise ConfigError("YAML", place(self.path, node.start_mark), found)
        return self.sizes[id(node)]

    def _children(self, node: yaml.CollectionNode) -> list[yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            return list(node.value)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    at = place(self.path, key.start_mark)
                    raise ConfigError("YAML", at, f"the key {key.value!r} stands there twice")
                names.add(key.value)
        return [part for pair in node.value for part in pair]
