"""The papers' tables as ``conf/ablation/*.yaml`` has them: rows, words to run, printed numbers."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segkit.conf_files import conf_dir, nearest
from segkit.errors import ConfigError
from segkit.sound_yaml import shown, sound_text

# What a column of numbers may be read from. Those with a number after the colon take any.
MEASURES = (
    "miou",  # of the row's evaluation, in percent
    "gain",  # its miou less that of the row named `against`
    "trimap",  # trimap:W, mIoU in percent within W pixels of void (v3+, section 4.4)
    "trimap_gain",  # trimap_gain:W, less that of the row named `against`
    "params",  # parameters of the network, in millions
    "macs",  # multiply-adds of the whole evaluation as the papers count them, in billions
    "fov",  # field of view of v1's fc6 in pixels, as v1's Table 2 has it
    "train_rate",  # training images a second
    "valid",  # valid:N, percent of positions with N valid taps of nine (v3, Figure 4)
    "none",  # printed in the paper, and nothing of ours answers to it
)
NUMBERED = {"trimap": range(1, 41), "trimap_gain": range(1, 41), "valid": (1, 2, 4, 6, 9)}
# What makes a number without a training.
COMPUTED = ("params", "macs", "fov", "valid", "none")


class Printed(float):
    """A number as the paper prints it: ``text`` of 82.70 keeps its zero."""

    text: str

    def __new__(cls, number: object) -> "Printed":
        made = super().__new__(cls, str(number))
        made.text = getattr(number, "text", str(number))
        return made


class _Reader(yaml.SafeLoader):
    """YAML whose decimals remember how they are written."""

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        plain = re.fullmatch(r"-?\d+\.\d+", node.value)
        return Printed(node.value) if plain else super().construct_yaml_float(node)


_Reader.add_constructor("tag:yaml.org,2002:float", _Reader.construct_yaml_float)


@dataclass(frozen=True)
class Column:
    """A column of numbers: ``measure`` says where ours come from, ``evaluate`` how it is scored.

    ``evaluate`` are words of ``segkit eval`` beside the row's own; ``tune`` says how many val
    images the CRF's parameters are searched on before (v1, section 5); None takes them as given.
    """

    name: str
    measure: str = "miou"
    evaluate: tuple[str, ...] = ()
    tune: int | None = None
    digits: int = 2

    @property
    def kind(self) -> str:
        return self.measure.partition(":")[0]

    @property
    def computed(self) -> bool:
        """Whether it needs neither a training nor an evaluation."""
        return self.kind in COMPUTED


@dataclass(frozen=True)
class Row:
    """One row: its ``label`` (a cell for each of the table's columns), its words, its numbers.

    ``train`` and ``evaluate`` are whole: the table's words with the row's own over them. ``paper``
    holds the printed numbers by column. ``blocked`` says why it cannot be run; ``needs`` names the
    weights it starts from that ``pretrained=imagenet`` does not find (``coco``): ``train`` has
    ``pretrained={coco}``. ``begins`` is the row whose trained network it starts from (v1's MSc,
    section 4.3). ``tune`` as a column's, for all columns of this row.
    """

    key: str
    label: tuple[str, ...]
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    paper: Mapping[str, float]
    blocked: str | None = None
    needs: str | None = None
    against: str | None = None
    begins: str | None = None
    tune: int | None = None


@dataclass(frozen=True)
class Table:
    """One table of a paper. ``labels`` head the columns that say what a row is.

    ``min_crop`` is the table's largest output stride plus one: at scales other than the paper's a
    crop is no smaller, and a multiple of that stride plus one. ``note`` is what a reader must know
    beside the numbers.
    """

    id: str
    title: str
    source: str
    setting: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    min_crop: int = 1
    note: str = ""


def table_ids(config_dir: str | None = None) -> list[str]:
    """Every table in ``ablation/``, the papers' in their order: v1, v2, v3, v3plus."""
    return sorted(_files(config_dir), key=_order)


def asked_for(words: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The ids that ``words`` mean: an id, a paper (``v3``) or ``all``; ConfigError otherwise."""
    known = table_ids(config_dir)
    found: dict[str, None] = {}
    for word in words:
        mine = [i for i in known if word in ("all", i, i.partition(".")[0])]
        if not mine:
            raise _unknown(word, known)
        found |= dict.fromkeys(mine)
    return list(found)


def read(table_id: str, config_dir: str | None = None) -> Table:
    """The table named so. ConfigError names the file, the row and the key that is wrong."""
    files = _files(config_dir)
    if table_id not in files:
        raise _unknown(table_id, files)
    path = files[table_id]
    made: Any = _Reader(sound_text(path)).get_single_data()
    if not isinstance(made, Mapping):
        raise _wrong(path, "is no table")
    if missing := sorted({"title", "source", "setting", "labels", "rows"} - set(made)):
        raise _wrong(path, f"has no key {missing[0]!r}")
    return _table(table_id, made, path)


def _unknown(word: str, known: Iterable[str]) -> ConfigError:
    fix = "segkit table --list shows them" + nearest(word, known)
    return ConfigError("UNKNOWN-CHOICE", "table", f"{word!r} is no table", fix)


def _files(config_dir: str | None) -> dict[str, Path]:
    """Table files by id; one of the user's own replaces a shipped one."""
    homes = [conf_dir(), *([Path(config_dir).expanduser()] if config_dir else [])]
    found = (path for home in homes for path in sorted((home / "ablation").glob("*.yaml")))
    return {path.name.removesuffix(".yaml"): path for path in found}


def merged(*several: Sequence[str]) -> tuple[str, ...]:
    """Overrides one after another; of words with the same key the last one stays."""
    last: dict[str, str] = {}
    for word in (word for words in several for word in words):
        key = word.partition("=")[0]
        last.pop(key, None)
        last[key] = word
    return tuple(last.values())


def _order(table_id: str) -> tuple[Any, ...]:
    parts = re.split(r"(\d+)", table_id.replace("v3plus", "v4"))
    return tuple(int(part) if part.isdigit() else part for part in parts)


_TABLE_KEYS = {
    *("title", "source", "setting", "labels", "columns", "train", "eval", "rows"),
    *("min_crop", "note"),
}
_COLUMN_KEYS = {"measure", "eval", "tune", "digits"}
_ROW_KEYS = {"key", "label", "train", "eval", "paper", "blocked", "needs"}
_ROW_KEYS |= {"against", "begins", "tune"}


def _table(table_id: str, made: Mapping[str, Any], path: Path) -> Table:
    _known(made, _TABLE_KEYS, path, "table")
    labels = tuple(map(str, _listed(made, "labels", path, "table")))
    named = made.get("columns", {"mIoU": None})
    if not isinstance(named, Mapping) or not named:
        raise _wrong(path, f"table: columns: {named!r} is no mapping")
    columns = tuple(_column(str(name), entry or {}, path) for name, entry in named.items())
    entries = _listed(made, "rows", path, "table")
    rows = tuple(_row(entry, made, labels, columns, path) for entry in entries)
    keys = [row.key for row in rows]
    if not rows:
        raise _wrong(path, "has no rows")
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise _wrong(path, f"has the row {twice[0]!r} twice")
    for row in rows:
        for other in (row.against, row.begins):
            if other is not None and (other not in keys or other == row.key):
                raise _wrong(path, f"row {row.key}: no other row {other!r}{nearest(other, keys)}")
    return Table(
        id=table_id,
        title=str(made["title"]),
        source=str(made["source"]),
        setting=str(made["setting"]),
        labels=labels,
        columns=columns,
        rows=rows,
        min_crop=_count(made, "min_crop", path, "table") or 1,
        note=str(made.get("note", "")).strip(),
    )


def _column(name: str, entry: Mapping[str, Any], path: Path) -> Column:
    where = f"column {name}"
    _known(entry, _COLUMN_KEYS, path, where)
    digits = _count(entry, "digits", path, where, least=0)
    column = Column(
        name,
        measure=str(entry.get("measure", "miou")),
        evaluate=_words(entry, "eval", path, where),
        tune=_count(entry, "tune", path, where),
        digits=Column.digits if digits is None else digits,
    )
    if column.kind not in MEASURES:
        raise _wrong(path, f"{where}: {column.measure!r}{nearest(column.kind, MEASURES)}")
    wanted = [f"{column.kind}:{number}" for number in NUMBERED.get(column.kind, ())]
    if column.measure not in (wanted or [column.kind]):
        fix = f"{wanted[0]} to {wanted[-1]}" if wanted else column.kind
        raise _wrong(path, f"{where}: {column.measure!r}", fix)
    return column


def _row(
    entry: Any,
    table: Mapping[str, Any],
    labels: Sequence[str],
    columns: Sequence[Column],
    path: Path,
) -> Row:
    where = f"row {entry.get('key', entry)}" if isinstance(entry, Mapping) else f"row {entry!r}"
    _known(entry, _ROW_KEYS, path, where)
    if not re.fullmatch(r"[\w-]+", str(entry.get("key", ""))):
        raise _wrong(path, f"{where}: has no key", "key: letters, digits, _ and -")
    label = tuple("" if c is None else str(c) for c in _listed(entry, "label", path, where))
    if len(label) != len(labels):
        raise _wrong(path, f"{where}: {len(label)} label cells for {len(labels)} columns")
    row = Row(
        key=str(entry["key"]),
        label=label,
        train=merged(_words(table, "train", path, "table"), _words(entry, "train", path, where)),
        evaluate=merged(_words(table, "eval", path, "table"), _words(entry, "eval", path, where)),
        paper=_numbers(entry.get("paper", {}), columns, path, where),
        blocked=_text(entry, "blocked"),
        needs=_text(entry, "needs"),
        against=_text(entry, "against"),
        begins=_text(entry, "begins"),
        tune=_count(entry, "tune", path, where),
    )
    if row.needs not in (None, "coco"):
        raise _wrong(path, f"{where}: needs {row.needs!r}", "needs: coco")
    if (row.needs is None) == ("pretrained={coco}" in row.train):
        raise _wrong(path, f"{where}: needs: coco and pretrained={{coco}} go together")
    return row


def _numbers(
    printed: Any, columns: Sequence[Column], path: Path, where: str
) -> Mapping[str, float]:
    """The paper's numbers by column; a single one stands in the first column."""
    named = printed if isinstance(printed, Mapping) else {columns[0].name: printed}
    known = [column.name for column in columns]
    for name, number in named.items():
        if name not in known:
            raise _wrong(path, f"{where}: no column {name!r}{nearest(str(name), known)}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _wrong(path, f"{where}: {number!r} is no number")
        if not math.isfinite(number):
            raise _wrong(path, f"{where}: {number!r} is not finite")
    return {str(name): Printed(number) for name, number in named.items()}


def _words(entry: Mapping[str, Any], key: str, path: Path, where: str) -> tuple[str, ...]:
    """A list of ``key=value``."""
    words = _listed(entry, key, path, where) if key in entry else []
    for word in words:
        if not isinstance(word, str) or "=" not in word:
            raise _wrong(path, f"{where}: {key}: {word!r} is no word", 'a list of "key=value"')
    return tuple(words)


def _listed(entry: Mapping[str, Any], key: str, path: Path, where: str) -> list[Any]:
    found = entry.get(key)
    if not isinstance(found, list):
        raise _wrong(path, f"{where}: {key}: {found!r} is no list")
    return found


def _count(
    entry: Mapping[str, Any], key: str, path: Path, where: str, least: int = 1
) -> int | None:
    found = entry.get(key)
    whole = isinstance(found, int) and not isinstance(found, bool)
    if found is not None and not (whole and found >= least):
        raise _wrong(path, f"{where}: {key}: {found!r}", f"a whole number from {least}")
    return found


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    return None if entry.get(key) is None else str(entry[key])


def _known(entry: Any, keys: set[str], path: Path, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise _wrong(path, f"{where} is no mapping")
    if strange := sorted(map(str, set(entry) - keys)):
        raise _wrong(path, f"{where}: no key {strange[0]!r}{nearest(strange[0], keys)}")


def _wrong(path: Path, what: str, fix: str = "") -> ConfigError:
    return ConfigError("TABLE", shown(path), what, fix)
