"""What a folder of one's own says about its classes: ``dataset.yaml`` or ``classes.txt``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from segkit.data.files import read_text
from segkit.data.labels import Colour, LabelSet, interleaved_colour
from segkit.data.strict_yaml import strict_yaml
from segkit.errors import ConfigError, DataError, SegkitError

FILE, CLASS_LIST = "dataset.yaml", "classes.txt"
KEYS = ("classes", "colours", "ignore_colour", "values", "ignore_label")
_MAX_BYTES = 2**22
_MOST_SHOWN = 300


class Description:
    """The classes, and how a mask's values or colours become labels.

    ``typed`` holds what was given for each of ``KEYS`` (None: not given) and comes before what
    ``root`` has in ``dataset.yaml``, which may hold the same keys; ``classes.txt`` is a class name
    a line. Raises ``ConfigError`` or ``DataError`` that names the key or the file.
    """

    def __init__(self, root: Path, typed: Mapping[str, Any]) -> None:
        self.typed = {key: value for key, value in typed.items() if value is not None}
        self.file, stored = _stored(root)
        values = stored | self.typed
        if "classes" not in values:
            fix = (
                f"type 'dataset.classes=[background,leaf]' in the order of the labels, or write "
                f"one name a line to {root / CLASS_LIST}"
            )
            raise ConfigError("MISSING", "dataset.classes", "the classes have no names", fix)
        names = tuple(self._list("classes", values["classes"]))
        colours = self._colours("colours", values.get("colours"))
        void = self._colours("ignore_colour", [c] if (c := values.get("ignore_colour")) else None)
        self.explicit_ignore = values.get("ignore_label") is not None
        self.labels = self._labels(names, colours, values.get("ignore_label"))
        self.colour_table = self._colour_table(colours, void)
        self.value_table = self._value_table(values.get("values"))

    def _where(self, key: str) -> str:
        """Where a key's value stands, for messages."""
        return f"dataset.{key}" if key in self.typed else f"{self.file} ({key})"

    def _fault(self, key: str, what: str, fix: str) -> SegkitError:
        kind = ConfigError if key in self.typed else DataError
        return kind("DESCRIPTION", self._where(key), _brief(what), _brief(fix))

    def _list(self, key: str, value: Any) -> Sequence[Any]:
        if not isinstance(value, list | tuple):
            raise self._fault(key, f"{value!r} is not a list", "[first, second, ...]")
        return value

    def _labels(
        self, names: tuple[str, ...], colours: tuple[Colour, ...] | None, ignore_label: Any
    ) -> LabelSet:
        if type(ignore_label) not in (int, type(None)):
            raise self._fault("ignore_label", f"{ignore_label!r} is not an int", "255, say")
        shown = colours or tuple(interleaved_colour(label) for label in range(len(names)))
        try:
            return LabelSet("folder", names, shown, -1 if ignore_label is None else ignore_label)
        except ConfigError as error:
            key = error.where.removeprefix("dataset.")
            raise self._fault(key, error.what, error.fix) from None

    def _colours(self, key: str, value: Any) -> tuple[Colour, ...] | None:
        """A list of RGB triples, checked."""
        if value is None:
            return None
        triples = [tuple(self._list(key, triple)) for triple in self._list(key, value)]
        for triple in triples:
            if len(triple) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in triple):
                raise self._fault(key, f"{list(triple)} is no RGB triple", "[128, 0, 0], say")
        return tuple((r, g, b) for r, g, b in triples)

    def _colour_table(
        self, colours: tuple[Colour, ...] | None, void: tuple[Colour, ...] | None
    ) -> dict[Colour, int] | None:
        if colours is None:
            return None
        table: dict[Colour, int] = {}
        labels = [*range(len(colours)), self.labels.ignore_label]
        for colour, label in zip((*colours, *(void or ())), labels, strict=False):
            if colour in table:
                what = f"{list(colour)} stands there twice"
                raise self._fault("colours", what, "each class has a colour of its own")
            table[colour] = label
        return table

    def _value_table(self, value: Any) -> dict[int, int] | None:
        """``{0: 0, 255: 1}``; the keys come back from a checkpoint as text."""
        if value is None:
            return None
        fix = "{value in the mask: label, ...}, as {0: 0, 255: 1}"
        if not isinstance(value, Mapping) or not value:
            raise self._fault("values", f"{value!r} is no table", fix)
        table: dict[int, int] = {}
        for key, label in value.items():
            if not str(key).isdecimal() or type(label) is not int:
                raise self._fault("values", f"{key!r}: {label!r} are not two whole numbers", fix)
            if not 0 <= label < self.labels.num_classes and label != self.labels.ignore_label:
                what = f"{key}: {label} is no label"
                raise self._fault("values", what, f"allowed {self.labels.allowed}")
            table[int(str(key))] = label
        return table


def _stored(root: Path) -> tuple[Path, dict[str, Any]]:
    """What the folder says, and the file that says it."""
    described, listed = root / FILE, root / CLASS_LIST
    names = _class_list(listed) if listed.exists() else None
    if not described.exists():
        return listed, {} if names is None else {"classes": names}
    stored = _read_yaml(described)
    if names is not None and stored.setdefault("classes", names) != names:
        raise DataError("DESCRIPTION", listed, f"and {FILE} name other classes", "remove one")
    return described, stored


def _read_yaml(path: Path) -> dict[str, Any]:
    text = read_text(path, _MAX_BYTES)
    try:
        stored = strict_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error) or type(error).__name__).splitlines()
        what = f"no readable YAML: {_brief(' '.join(first))}"
        raise DataError("DESCRIPTION", path, what) from None
    if not isinstance(stored, dict) or not set(stored) <= set(KEYS):
        what = "not a table of keys"
        if isinstance(stored, dict):
            what = f"unknown keys: {', '.join(sorted(map(str, set(stored) - set(KEYS))))}"
        raise DataError("DESCRIPTION", path, _brief(what), f"allowed: {', '.join(KEYS)}")
    return {key: value for key, value in stored.items() if value is not None}


def _class_list(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path, _MAX_BYTES).rstrip().splitlines()]
    if "" in lines:  # left out or counted, it would shift the labels of all that follow
        what = f"line {lines.index('') + 1} is empty"
        raise DataError("DESCRIPTION", path, what, "one class a line, in the order of the labels")
    return lines


def _brief(text: str) -> str:
    """For messages: a description may hold megabytes."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."
