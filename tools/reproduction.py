"""Rebuild the tables of docs/reproduction.md from conf/ablation/ and kept results.

    python tools/reproduction.py            rewrite it
    python tools/reproduction.py --check    exit 1 if it is out of date (half a minute)
    python tools/reproduction.py --stamp    exit 1 if what it is made of has changed since (at once)
    python tools/reproduction.py --keep RUNS/tables/v3.t5-camvid     keep a finished table

Kept tables are docs/results/tables/ID-SCALE.json, named as the folders that ``segkit table`` wrote
them to. The lines between two comments of a name are replaced: ``computed`` (numbers that need no
training), ``tables`` (each with its command, cost, numbers and signatures), ``blocked`` (rows that
cannot be run). All else on the page is written by hand, deviations from the papers among it.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segkit.ablation import book, computed
from segkit.ablation.book import Column, Row, Table
from segkit.ablation.cells import printed
from segkit.ablation.jobs import Plan
from segkit.ablation.plan import COCO, composed
from segkit.ablation.results import collect
from segkit.ablation.written import folder_name
from segkit.errors import DataError, SegkitError
from segkit.identity import digest
from segkit.report.ablation_text import (
    differing,
    markdown_grid,
    notes,
    paper_text,
    reasons,
    signatures,
)
from segkit.report.decimals import rounded, shown
from segkit.report.tables import markdown_table, markdown_text
from segkit.whole_files import write_whole

PAGE, KEPT = Path("docs/reproduction.md"), Path("docs/results/tables")
# What the page is made of; experiments, engines and scales are no part of it.
SOURCES = (
    *("conf/ablation", "conf/backbone", "conf/dataset", "conf/loss", "conf/model"),
    *("conf/multi_grid", "conf/os", "conf/schedule", "conf/train.yaml", "conf/eval.yaml"),
    *(KEPT.as_posix(), "tools/reproduction.py", "src/segkit/models/cost.py"),
    *("src/segkit/ablation/asked.py", "src/segkit/ablation/computed.py"),
    "src/segkit/report/ablation_text.py",
)
COCO_REASON = "begins with weights pretrained on MS-COCO: coco=/path"
Json = Mapping[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    parser.add_argument("--stamp", action="store_true", help="exit 1 if its sources have changed")
    parser.add_argument("--keep", type=Path, action="append", default=[], help="a finished table")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = parser.parse_args(argv)
    root = arguments.root
    page = root / PAGE
    try:
        for folder in arguments.keep:
            keep(folder, root / KEPT)
        text = page.read_text(encoding="utf-8")
        if arguments.stamp:
            stale = f"<!-- made of {stamp(root)} -->" not in text
        else:
            made = rebuilt(root, text)
            stale = made != text
        if stale and not (arguments.check or arguments.stamp):
            write_whole(page, made.encode())
            print(f"wrote {page}")
            return 0
    except SegkitError as fault:
        print(fault.line(), file=sys.stderr)
        return int(fault.code)
    if stale:
        print(f"{page} is out of date; run: python tools/reproduction.py", file=sys.stderr)
    return int(stale)


def rebuilt(root: Path, text: str) -> str:
    """The page with its blocks anew."""
    tables = [book.read(table_id) for table_id in book.table_ids()]
    fresh = {table.id: unrun(table) for table in tables}
    kept = read_kept(root / KEPT)
    page = root / PAGE
    text = replace_block(page, text, "computed", computed_block(tables, fresh))
    sections = [section(table, fresh[table.id], kept.get(table.id, [])) for table in tables]
    sections.append(f"<!-- made of {stamp(root)} -->")
    text = replace_block(page, text, "tables", "\n\n".join(sections))
    return replace_block(page, text, "blocked", blocked_block(tables))


def stamp(root: Path) -> str:
    """Twelve digits over everything that the page is made of."""
    found = hashlib.sha256()
    for source in SOURCES:
        place = root / source
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in (".yaml", ".json", ".py") and path.is_file():
                found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def replace_block(path: Path, text: str, name: str, block: str) -> str:
    """``text`` with ``block`` between the marks of ``name``; DataError where they are missing."""
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise DataError("MARKS", path, "has no pair of marks", f"add {first} and {last} once")
    return f"{before}{first}\n{block}\n{last}{after}"


# -- documents -------------------------------------------------------------------------------------


def unrun(table: Table) -> dict[str, Any]:
    """The table with the numbers that need no run, and no others."""
    blocked = {(table.id, row.key): reason for row in table.rows if (reason := reason_of(row))}
    return collect(
        table,
        Plan((), {}, blocked),
        {"name": "paper", "note": ""},
        [0],
        command=f"segkit table {table.id}",
        computed=partial(computed.number, table=table),
    )


def reason_of(row: Row) -> str | None:
    """Why a row cannot be run with public data and weights."""
    return row.blocked or (COCO_REASON if row.needs == "coco" else None)


def read_kept(folder: Path) -> dict[str, list[Json]]:
    """Finished tables by id."""
    found: dict[str, list[Json]] = {}
    for path in sorted(folder.glob("*.json")):
        document = read_table(path)
        found.setdefault(document["table"], []).append(document)
    return found


def read_table(path: Path) -> dict[str, Any]:
    """A ``table.json``; DataError for a file that is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise DataError("TABLE", path, f"cannot be read: {fault}") from fault
    if not isinstance(document, dict) or not {"table", "rows", "scale"} <= document.keys():
        raise DataError("TABLE", path, "is no table.json", "see segkit table")
    return document


def keep(folder: Path, home: Path) -> None:
    """Copy a finished table's ``table.json`` to where the page takes it from."""
    path = folder / "table.json"
    document = read_table(path)
    home.mkdir(parents=True, exist_ok=True)
    name = folder_name(document["table"], document["scale"]["name"], document["words"])
    write_whole(home / f"{name}.json", path.read_bytes())
    print(f"kept {home / name}.json")


# -- blocks ----------------------------------------------------------------------------------------


def computed_block(tables: list[Table], fresh: Mapping[str, Json]) -> str:
    """Every number that needs no training beside the paper's."""
    rows = [
        [
            table.id,
            markdown_text(row.key),
            markdown_text(column.name),
            paper_text(cell),
            shown(cell["ours"], column.digits),
            shown(cell["difference"], column.digits, signed=True),
            apart_text(row, column, table),
        ]
        for table in tables
        for column in table.columns
        for row, told in zip(table.rows, fresh[table.id]["rows"], strict=True)
        if (cell := told["numbers"][column.name])["state"] == "computed" and cell["paper"]
    ]
    header = ["table", "row", "", "paper", "ours", "difference", ""]
    return markdown_table(header, rows, "lllrrrr")


def apart_text(row: Row, column: Column, table: Table) -> str:
    """How far ours is from the paper's, in percent of the paper's: of the number before it is
    rounded."""
    ours, paper = computed.number(row, column, table), printed(row.paper[column.name])
    if ours is None:
        return ""
    return f"{shown(float(rounded(100 * (printed(ours) - paper) / paper, 2)), 2, signed=True)} %"


def section(table: Table, fresh: Json, kept: list[Json]) -> str:
    """A table: what it is, how it is made, its cost, the paper's numbers and ours."""
    parts = [
        f"### {table.id}: {markdown_text(table.title)}",
        markdown_text(f"{table.source}. {table.setting}."),
        *([markdown_text(table.note)] if table.note else []),
        f"    segkit table {table.id}        # or: make table-{table.id} SCALE=paper",
        cost(table),
    ]
    if not kept:
        return "\n\n".join([*parts, markdown_grid(fresh, costs=False)])
    for document in kept:
        scale = document["scale"]
        said = [note for note in notes(document) if note != document["note"]]
        said += [f"{who}: {what}" for who, what in [*reasons(document), *differing(document)]]
        signed = [
            f"    {seed['score']}\n        {seed['signature']}" for _, seed in signatures(document)
        ]
        parts += [
            f"Scale {markdown_text(scale['name'])}:",
            f"    {' '.join(document['command'].split())}",
            markdown_grid(document),
            "\n".join(f"- {markdown_text(note)}" for note in said),
            *(["Signatures:", "\n".join(signed)] if signed else []),
        ]
    return "\n\n".join(parts)


def cost(table: Table) -> str:
    """Of the papers' own scale: trainings (each once), and images that go through the network."""
    if all(row.blocked for row in table.rows):
        return "No row can be run."
    if all(column.computed for column in table.columns):
        return "Needs no training."
    sizes = Counter(dict(trainings(table)).values())
    listed = "; ".join(f"{count} x {text}" for text, count in sizes.items())
    return f"Trainings at the paper's scale: {sizes.total()} ({listed}). Hours: `--plan`."


def trainings(table: Table) -> Iterator[tuple[str, str]]:
    """Name and size of every training of a table that nothing blocks."""
    for row in table.rows:
        if row.blocked is None:
            words = tuple(word.replace(COCO, "coco") for word in row.train)
            made = composed(words, None)
            schedule, crop = made.values["schedule"], made.values["augment"]["crop"]
            stages = ", then ".join(
                f"{stage['steps']:,} steps of batch {stage['batch'] or schedule['batch']}"
                for stage in schedule["stages"]
            )
            coco = " from COCO" if row.needs == "coco" else ""
            yield digest(made.written), f"{stages}, crop {crop}{coco}"


def blocked_block(tables: list[Table]) -> str:
    """Rows that cannot be run with public data and weights, by their reason."""
    found: dict[str, list[str]] = {}
    for table in tables:
        for row in table.rows:
            if reason := reason_of(row):
                found.setdefault(reason, []).append(f"{table.id} {row.key}")
    rows = [[markdown_text(why), markdown_text(", ".join(keys))] for why, keys in found.items()]
    return markdown_table(["reason", "rows"], rows)


if __name__ == "__main__":
    sys.exit(main())
