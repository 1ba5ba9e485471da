"""``table.html``: a table of the papers beside ours, as one file that fetches and runs nothing.

A pure function of the document that ``ablation.results`` makes (``table.json``).
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from segkit.errors import one_line
from segkit.report import ablation_text as texts
from segkit.report.charts import Tick, round_ticks
from segkit.report.decimals import shown
from segkit.report.page import rendered, stylesheet

Json = Mapping[str, Any]
# One row of a drawing, in its own units.
WIDTH, HEIGHT = 400, 22
_EDGE = 22


def page(document: Json, version: str) -> bytes:
    """The file's content, UTF-8. ``version`` is that of segkit."""
    css = "\n".join([stylesheet("report.css"), stylesheet("ablation.css")])
    found = contents(document) | {"version": version}
    return rendered("ablation.html.j2", found, css=css)


def contents(document: Json) -> dict[str, Any]:
    """What the template asks for, by its names. Nothing is escaped here; the template does that."""
    columns = [
        {"name": one_line(column["name"]), "both": texts.has_paper(document, column)}
        for column in document["columns"]
    ]
    compared = document["columns"] if document["scale"]["compare"] else ()
    drawn = (_drawing(document, column) for column in compared)
    found = {
        "title": one_line(texts.headline(document)),
        "source": one_line(document["source"]),
        "setting": one_line(document["setting"]),
        "command": one_line(document["command"]),
        "headline": _headline(document),
        "labels": [one_line(name) for name in document["labels"]],
        "columns": columns,
        "rows": [_row(document, number, row) for number, row in enumerate(document["rows"])],
        "order": texts.order_sentence(document["order"]),
        "neighbours": _neighbours(document["order"]),
        "notes": [note for note in texts.notes(document) if not note.startswith("order of rows")],
        "reasons": texts.reasons(document),
        "drawings": [drawing for drawing in drawn if drawing],
        "drawing_width": WIDTH,
        "drawing_height": HEIGHT,
        "hours_kind": texts.hours_kind(document),
        "evidence": list(_evidence(document)),
    }
    anchors = {"table": "Table", "drawings": "Paper and ours", "runs": "Runs"}
    anchors["evidence"] = "Evidence"
    found["parts"] = [part for part in anchors.items() if found.get(part[0], True)]
    return found


def _headline(document: Json) -> list[tuple[str, str]]:
    cells = [cell for row in document["rows"] for cell in row["numbers"].values()]
    printed = [cell for cell in cells if cell["printed"]]
    shown_too = sum(cell["ours"] is not None for cell in printed)
    hours = [t["hours"] for t in document["trainings"] if t["hours"] is not None]
    kinds = sorted({t["kind"] for t in document["trainings"] if t["hours"] is not None})
    total = [(f"{' and '.join(kinds)} of training", texts.clock(sum(hours)))] if hours else []
    seeds = document["seeds"]
    return [
        ("numbers beside the paper's", f"{shown_too} of {len(printed)}"),
        ("scale", one_line(document["scale"]["name"])),
        (f"seed{'s'[: len(seeds) > 1]}", ", ".join(map(str, seeds))),
        *total,
    ]


def _row(document: Json, number: int, row: Json) -> dict[str, Any]:
    labels = [one_line(cell) for cell in row["label"]]
    hours = row["hours"] or {}
    return {
        "key": one_line(row["key"]),
        "labels": labels,
        "named": [
            (one_line(name), text)
            for name, text in zip(document["labels"], labels, strict=True)
            if text
        ],
        "cells": [
            _cell(row["numbers"][column["name"]], column, _anchor(number, place))
            for place, column in enumerate(document["columns"])
        ],
        "images": texts.images_text(row),
        "training": texts.clock(hours.get("training")),
        "evaluation": texts.clock(hours.get("evaluation")),
        "card": one_line(hours.get("card", "")),
        "protocol": " | ".join(row["protocol"]),
        "runs": [one_line(run) for run in row["runs"]],
    }


def _anchor(row: int, column: int) -> str:
    return f"cell-{row}-{column}"


def _cell(cell: Json, column: Json, anchor: str) -> dict[str, Any]:
    missing = cell["ours"] is None
    return {
        "paper": texts.paper_text(cell),
        "ours": texts.short(cell["state"]) if missing else texts.ours_text(cell, column["digits"]),
        "difference": texts.difference_text(cell, column["digits"]),
        "missing": missing and bool(cell["state"]),
        "anchor": anchor if _has_evidence(cell) else "",
        "tip": _tip(cell),
    }


def _tip(cell: Json) -> str:
    """What a pointer that rests on a number is told."""
    signed = [f"seed {s['seed']}: {s['signature']}" for s in cell["seeds"] if s["signature"]]
    return one_line("; ".join(signed) if cell["ours"] is not None and signed else cell["state"])


def _neighbours(order: Json | None) -> list[tuple[str, str]]:
    """Of rows that are neighbours in the paper: is the better one better here."""
    if order is None:
        return []
    words = {True: "holds", False: "does not hold", None: "closer than the spread"}
    pairs = [(n["better"], n["worse"], words[n["holds"]]) for n in order["neighbours"]]
    return [
        (one_line(f"{a} over {b}"), "equal" if [a, b] in order["equal"] else how)
        for a, b, how in pairs
    ]


def _has_evidence(cell: Json) -> bool:
    """Whether there is more to tell than the table does."""
    return ":" in cell["state"] or any(seed["signature"] for seed in cell["seeds"])


def _evidence(document: Json) -> Iterator[dict[str, Any]]:
    """Every cell that has any: its seeds, and what signs each."""
    for number, row in enumerate(document["rows"]):
        for place, column in enumerate(document["columns"]):
            cell = row["numbers"][column["name"]]
            if _has_evidence(cell):
                yield {
                    "anchor": _anchor(number, place),
                    "title": one_line(f"{row['key']}, {column['name']}"),
                    "state": one_line(cell["state"]),
                    "seeds": [_seed(seed, column["digits"]) for seed in cell["seeds"]],
                }


def _seed(seed: Json, digits: int) -> list[tuple[str, str]]:
    facts = [
        (f"seed {seed['seed']}", shown(seed.get("value"), digits) or seed["state"]),
        ("images", "" if seed["images"] is None else str(seed["images"])),
        ("run", seed["run"]),
        ("score", seed["score"]),
        ("signature", seed["signature"] or ""),
    ]
    if base := seed.get("base"):
        facts += [("less that of", base["score"]), ("its signature", base["signature"])]
    return [(name, one_line(text)) for name, text in facts if text]


# -- drawings --------------------------------------------------------------------------------------


def _drawing(document: Json, column: Json) -> dict[str, Any] | None:
    """The paper's and our numbers of a column as places on one axis; None without two numbers."""
    cells = [(row, row["numbers"][column["name"]]) for row in document["rows"]]
    cells = [(row, cell) for row, cell in cells if cell["printed"] or cell["ours"] is not None]
    numbers = [number for _, cell in cells for number in _ends(cell)]
    if len(numbers) < 2 or all(cell["ours"] is None for _, cell in cells):
        return None
    ticks = round_ticks(min(numbers), max(numbers))

    def across(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(_EDGE + share * (WIDTH - 2 * _EDGE), 1)

    def place(value: float | None) -> float | None:
        return None if value is None else across(value)

    rows = []
    for row, cell in cells:
        low, high = _ends_of_spread(cell)
        ours = texts.ours_text(cell, column["digits"])
        rows.append(
            {
                "label": ", ".join(filter(None, map(one_line, row["label"]))) or row["key"],
                "paper": place(cell["paper"]),
                "ours": place(cell["ours"]),
                "low": place(low),
                "high": place(high),
                "text": f"paper {texts.paper_text(cell)}, ours {ours}",
            }
        )
    marks = [Tick(across(tick), f"{Decimal(repr(tick)):f}".removesuffix(".0")) for tick in ticks]
    return {"name": one_line(column["name"]), "rows": rows, "ticks": marks}


def _ends(cell: Json) -> Sequence[float]:
    known = (cell["paper"], *_ends_of_spread(cell))
    return [number for number in known if number is not None]


def _ends_of_spread(cell: Json) -> tuple[float | None, float | None]:
    if cell["ours"] is None:
        return None, None
    spread = cell["spread"] or 0.0
    return cell["ours"] - spread, cell["ours"] + spread
