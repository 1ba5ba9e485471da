"""YAML that says one thing: no key twice, no aliases, no numbers of a thousand digits."""

from collections.abc import Hashable
from typing import Any

import yaml

_MOST_DIGITS = 100


def strict_yaml(text: str) -> Any:
    """The values of ``text``: plain tables, lists and scalars.

    Raises ``yaml.YAMLError``, ``ValueError`` (of a date, say) and ``RecursionError``.
    """
    loader = _Strict(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Strict(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few hundred bytes of aliases become gigabytes once they are written out.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias: write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for name, _ in node.value:
            key = self.construct_object(name, deep=True)
            if isinstance(key, Hashable) and key in seen:
                what = f"the key {str(name.value)[:40]!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, what, name.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def whole_number(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MOST_DIGITS:
            what = f"a number of {len(node.value)} digits"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return self.construct_yaml_int(node)


_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.whole_number)
