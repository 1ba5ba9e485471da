"""Tables of numbers by name, as the page shows them: categories, iIoU, boundaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.errors import one_line
from segkit.report.signature import percent


@dataclass(frozen=True)
class Table:
    """Numbers by name: a row is a name and a text for each column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    note: str = ""


def category_tables(score: Mapping[str, Any]) -> list[Table]:
    """Categories and iIoU, where the data set has them (Cityscapes)."""
    tables = []
    iiou = score.get("iiou") or {}
    if found := score.get("categories"):
        columns = {"IoU": (found["iou"], found["miou"])}
        if iiou.get("categories"):
            columns["iIoU"] = (iiou["categories"], iiou["category_mean"])
        tables.append(_table("Categories", columns))
    if iiou.get("classes"):
        columns = {"iIoU": (iiou["classes"], iiou["mean"])}
        tables.append(_table("Classes with instances", columns))
    elif iiou.get("note"):
        tables.append(Table("iIoU", (), (), one_line(iiou["note"])))
    return tables


def _table(title: str, columns: Mapping[str, tuple[Mapping[str, Any], float | None]]) -> Table:
    """A row for each name that a column has, in percent, and one for the means."""
    names = dict.fromkeys(name for values, _ in columns.values() for name in values)
    rows = [
        (one_line(name), [percent(values.get(name)) for values, _ in columns.values()])
        for name in names
    ]
    rows.append(("mean", [percent(mean) for _, mean in columns.values()]))
    return Table(title, tuple(columns), rows)


def boundary_tables(found: Mapping[str, Any] | None) -> list[Table]:
    if not found:
        return []
    note = (
        f"Boundary IoU: IoU of the strips within {100 * found['distance']:g} % of the image's "
        f"diagonal from a segment's outline. Boundary F: of the outlines themselves, a match "
        f"within {100 * found['tolerance']:g} % of the diagonal."
    )
    columns = {
        "boundary IoU": (found["iou"], found["miou"]),
        "boundary F": (found["f"], found["mean_f"]),
    }
    table = _table("Boundaries", columns)
    return [Table(table.title, table.columns, table.rows, note)]
