"""The papers' tables as ``conf/ablation/*.yaml`` has them: rows, words to run, printed numbers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segkit.conf_files import conf_dir, nearest
from segkit.errors import ConfigError
from segkit.sound_yaml import sound_text

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
# What makes a number without a training.
COMPUTED = ("params", "macs", "fov", "valid", "none")


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
    weights it starts from that nobody publishes (``coco``).
    """

    key: str
    label: tuple[str, ...]
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    paper: Mapping[str, float]
    blocked: str | None = None
    needs: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Table:
    """One table of a paper. ``labels`` head the columns that say what a row is.

    ``min_crop``: at scales other than the paper's a crop is no smaller, that the largest output
    stride of the table has something to see. ``note`` is what a reader must know beside the
    numbers.
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
            fix = "segkit table --list shows them" + nearest(word, known)
            raise ConfigError("UNKNOWN-CHOICE", "table", f"{word!r} is no table", fix)
        found |= dict.fromkeys(mine)
    return list(found)


def read(table_id: str, config_dir: str | None = None) -> Table:
    """The table named so. ConfigError names the file, the row and the key that is wrong."""
    path = _files(config_dir)[table_id]
    made: Any = yaml.safe_load(sound_text(path))
    if not isinstance(made, Mapping):
        raise _wrong(path, "is no table")
    if missing := sorted({"title", "source", "setting", "labels", "rows"} - set(made)):
        raise _wrong(path, f"has no key {missing[0]!r}")
    return _table(table_id, made, path)


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
_ROW_KEYS = {"key", "label", "train", "eval", "paper", "blocked", "needs", "against"}


def _table(table_id: str, made: Mapping[str, Any], path: Path) -> Table:
    _known(made, _TABLE_KEYS, path, "table")
    labels = tuple(map(str, made["labels"]))
    columns = tuple(
        _column(str(name), entry or {}, path)
        for name, entry in made.get("columns", {"mIoU": {}}).items()
    )
    rows = tuple(_row(entry, made, labels, columns, path) for entry in made["rows"])
    keys = [row.key for row in rows]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise _wrong(path, f"has the row {twice[0]!r} twice")
    for row in rows:
        if row.against is not None and row.against not in keys:
            raise _wrong(path, f"row {row.key}: no row {row.against!r}")
    return Table(
        id=table_id,
        title=str(made["title"]),
        source=str(made["source"]),
        setting=str(made["setting"]),
        labels=labels,
        columns=columns,
        rows=rows,
        min_crop=int(made.get("min_crop", 1)),
        note=str(made.get("note", "")).strip(),
    )


def _column(name: str, entry: Mapping[str, Any], path: Path) -> Column:
    _known(entry, _COLUMN_KEYS, path, f"column {name}")
    column = Column(
        name,
        measure=str(entry.get("measure", "miou")),
        evaluate=tuple(map(str, entry.get("eval", ()))),
        tune=entry.get("tune"),
        digits=int(entry.get("digits", 2)),
    )
    if column.kind not in MEASURES:
        raise _wrong(path, f"column {name}: {column.measure!r}{nearest(column.kind, MEASURES)}")
    return column


def _row(
    entry: Mapping[str, Any],
    table: Mapping[str, Any],
    labels: Sequence[str],
    columns: Sequence[Column],
    path: Path,
) -> Row:
    where = f"row {entry.get('key', entry)}"
    _known(entry, _ROW_KEYS, path, where)
    label = tuple("" if cell is None else str(cell) for cell in entry["label"])
    if len(label) != len(labels):
        raise _wrong(path, f"{where}: {len(label)} label cells for {len(labels)} columns")
    paper = entry.get("paper", {})
    paper = paper if isinstance(paper, Mapping) else {columns[0].name: paper}
    if strange := set(paper) - {column.name for column in columns}:
        raise _wrong(path, f"{where}: no column {sorted(strange)[0]!r}")
    return Row(
        key=str(entry["key"]),
        label=label,
        train=merged(table.get("train", ()), entry.get("train", ())),
        evaluate=merged(table.get("eval", ()), entry.get("eval", ())),
        paper={str(name): float(number) for name, number in paper.items()},
        blocked=entry.get("blocked"),
        needs=entry.get("needs"),
        against=entry.get("against"),
    )


def _known(entry: Mapping[str, Any], keys: set[str], path: Path, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise _wrong(path, f"{where} is no mapping")
    if strange := sorted(map(str, set(entry) - keys)):
        raise _wrong(path, f"{where}: no key {strange[0]!r}{nearest(strange[0], keys)}")


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError("TABLE", path, what)
