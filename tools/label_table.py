"""The Cityscapes table of data/labels.py as data, and compared with its owner's.

    python tools/label_table.py                      prints the table as JSON
    python tools/label_table.py --compare PATH       labels.py of cityscapesScripts, or its folder
    python tools/label_table.py --compare installed  the package cityscapesscripts, if it is there

The other table is read from the text of its file; nothing of it is run. Ends with 1 where names,
ids, train ids or colours differ, each difference a line.
"""

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segkit.data.labels import CITYSCAPES_TABLE, Colour

INSTALLED = "installed"
_INSIDE = ("helpers/labels.py", "cityscapesscripts/helpers/labels.py")
_FIELDS = ("name", "id", "trainId", "category", "categoryId")
_COLOUR = 7  # its place among the arguments of ``Label``

Row = tuple[int, str, int, Colour]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compare", metavar="PATH")
    compare = parser.parse_args().compare
    if compare is None:
        print(as_json(CITYSCAPES_TABLE))
        return 0
    found = differences(CITYSCAPES_TABLE, read_table(file_of(compare)))
    print("\n".join(found) or f"all {len(CITYSCAPES_TABLE)} labels agree")
    return 1 if found else 0


def as_json(table: tuple[Row, ...]) -> str:
    """A label a line, so that two tables can be compared by any tool."""
    lines = (
        json.dumps({"id": i, "name": name, "train_id": train_id, "colour": colour})
        for i, name, train_id, colour in table
    )
    return "[\n" + ",\n".join(lines) + "\n]"


def file_of(place: str) -> Path:
    """The file that a word of the line means; ``SystemExit`` where there is none."""
    path = Path(place)
    if place == INSTALLED:
        spec = find_spec("cityscapesscripts")  # looks for it, and runs nothing
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("cityscapesscripts is not installed")
        path = Path(next(iter(spec.submodule_search_locations)))
    if path.is_dir():
        path = next((path / inner for inner in _INSIDE if (path / inner).is_file()), path)
    if not path.is_file():
        raise SystemExit(f"{path}: no labels.py there")
    return path


def read_table(path: Path) -> tuple[Row, ...]:
    """The ``Label(...)`` entries of the list ``labels``, in order; ``SystemExit`` without any."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == ["labels"]
            and isinstance(node.value, ast.List)
        ):
            return tuple(_row(entry) for entry in node.value.elts)
    raise SystemExit(f"{path}: no list of the name labels")


def _row(entry: ast.expr) -> Row:
    if not isinstance(entry, ast.Call) or ast.unparse(entry.func) != "Label":
        raise SystemExit(f"line {entry.lineno}: not a Label(...)")
    try:
        plain: list[Any] = [ast.literal_eval(argument) for argument in entry.args]
        facts = dict(zip(_FIELDS, plain, strict=False))
        red, green, blue = plain[_COLOUR]
        return int(facts["id"]), str(facts["name"]), int(facts["trainId"]), (red, green, blue)
    except (ValueError, TypeError, KeyError, IndexError):
        raise SystemExit(f"line {entry.lineno}: not the arguments of a Label") from None


def differences(ours: tuple[Row, ...], theirs: tuple[Row, ...]) -> list[str]:
    """What differs, by id; the order of the entries means nothing."""
    return list(_differences({row[0]: row for row in ours}, {row[0]: row for row in theirs}))


def _differences(ours: dict[int, Row], theirs: dict[int, Row]) -> Iterator[str]:
    for label_id in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(label_id), theirs.get(label_id)
        if here is None or there is None:
            yield f"id {label_id}: only {'theirs' if here is None else 'ours'}: {here or there}"
            continue
        for kind, one, other in zip(
            ("name", "train id", "colour"), here[1:], there[1:], strict=True
        ):
            if one != other:
                yield f"id {label_id} ({here[1]}): {kind} {one}, theirs {other}"


if __name__ == "__main__":
    sys.exit(main())
