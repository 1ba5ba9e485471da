"""A table of the papers beside ours, as Markdown, CSV and plain text.

Pure functions of the document that ``ablation.results`` makes (``table.json``).
"""

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segkit.errors import one_line
from segkit.report.decimals import shown
from segkit.report.tables import markdown_table, markdown_text

Json = Mapping[str, Any]
WIDTH = 100
LABEL = 40


def headline(document: Json) -> str:
    """Which table, and at which scale where it is not the paper's own."""
    scale = document["scale"]["name"]
    at = "" if scale == "paper" else f", at scale {scale}"
    return f"{document['table']}: {document['title']}{at}"


# -- cells -----------------------------------------------------------------------------------------


def paper_text(cell: Json) -> str:
    """As printed; a dash where the paper has no number."""
    return one_line(cell["printed"] or "–")


def ours_text(cell: Json, digits: int, between: str = " ± ") -> str:
    """Mean and spread, or in brackets what stands in the way of a number."""
    if cell["ours"] is None:
        return f"[{short(cell['state'])}]" if cell["state"] else "–"
    text = shown(cell["ours"], digits)
    if cell["spread"] is not None:
        text += between + shown(cell["spread"], digits)
    return text + (" (some seeds)" if partial(cell) else "")


def difference_text(cell: Json, digits: int, *, signed: bool = True) -> str:
    """Ours less the paper's; a dash where both are there and are not to be compared."""
    if cell["difference"] is None:
        return "" if cell["ours"] is None or cell["paper"] is None else "–"
    return shown(cell["difference"], digits, signed=signed)


def partial(cell: Json) -> bool:
    """Whether some seeds are missing in a cell that has a number."""
    return bool(cell["n"]) and cell["state"] != "scored"


def short(state: str) -> str:
    """A state without its reason, which stands below the table."""
    return one_line(state.partition(":")[0])


def labels_text(document: Json) -> list[str]:
    """What each row is, in one text, its parts below one another."""
    cells = [[one_line(cell) or "–" for cell in row["label"]] for row in document["rows"]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if sum(widths) + 3 * (len(widths) - 1) > LABEL:
        return [" · ".join(row) for row in cells]
    padded = ([f"{c:<{w}}" for c, w in zip(row, widths, strict=True)] for row in cells)
    return [" · ".join(row).rstrip() for row in padded]


def head_text(document: Json) -> str:
    return " · ".join(map(one_line, document["labels"]))


def hours_text(hours: Json | None) -> str:
    return clock(None if hours is None else hours["training"] + hours["evaluation"])


def clock(hours: float | None) -> str:
    """Hours to the hundredth; a little is more than nothing."""
    if hours is None:
        return "–"
    return f"{hours:.2f}" if hours >= 0.005 else "<0.01"


def hours_kind(document: Json) -> str:
    kinds = {row["hours"]["kind"] for row in document["rows"] if row["hours"]}
    return " and ".join(sorted(kinds)) or "hours"


def images_text(row: Json) -> str:
    return ", ".join(map(str, row["images"])) or "–"


# -- what is said below the numbers ----------------------------------------------------------------


def order_sentence(order: Json | None) -> str:
    """Does the paper's order hold; empty where there is nothing to order."""
    if order is None:
        return ""
    own, theirs = order["best_of_ours"], order["best_of_paper"]
    best = "same" if set(own) & set(theirs) else f"other ({', '.join(own)}, not {theirs[0]})"
    text = f"order of rows: {order['same']} of {order['pairs']} pairs as in the paper"
    whole = order["rows"] == order["of"]
    if not whole:
        text += f", of {order['rows']} of {order['of']} rows"
    for pairs, how in ((order["equal"], "equal"), (order["undecided"], "closer than the spread")):
        if pairs:
            text += f", {len(pairs)} {how} ({', '.join(f'{a} / {b}' for a, b in pairs)})"
    text += (
        f"; Kendall's tau {order['tau']:.2f}; best {'row' if whole else 'of these rows'}: {best}"
    )
    return one_line(text + _unknown_noise(order))


def _unknown_noise(order: Json) -> str:
    """What one seed does not tell."""
    alone = order["one_seed"]
    if not alone:
        return ""
    if len(alone) == order["rows"]:
        return "; one seed: its noise is not known"
    return f"; rows of one seed, whose noise is not known: {', '.join(alone)}"


def notes(document: Json) -> list[str]:
    """Sentences about the whole table: what a reader must know, the scale, order, shared runs."""
    count = len(document["seeds"])
    found = [
        document["note"],
        f"scale {document['scale']['name']}: {document['scale']['note']}"
        if document["scale"]["note"]
        else "",
        f"± is the sample standard deviation over {count} seeds" if count > 1 else "",
        f"every training with: {' '.join(document['words'])}" if document["words"] else "",
        order_sentence(document["order"]),
        f"all scored with: {' | '.join(document['protocol'])}" if document["protocol"] else "",
        *(f"one training, several rows: {', '.join(keys)}" for keys in shared(document)),
    ]
    return [one_line(note) for note in found if note]


def shared(document: Json) -> list[list[str]]:
    """Rows that are scores of the same trainings."""
    groups = (tuple(training["rows"]) for training in document["trainings"])
    return [list(keys) for keys in dict.fromkeys(groups) if len(keys) > 1]


def reasons(document: Json) -> list[tuple[str, str]]:
    """Each state that needs more than its short words, with the rows and columns it is of."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in document["rows"]:
        for name, cell in row["numbers"].items():
            if ":" in cell["state"]:
                found.setdefault(cell["state"], {}).setdefault(row["key"], []).append(name)
    return [(", ".join(map(one_line, rows)), one_line(state)) for state, rows in found.items()]


def differing(document: Json) -> list[tuple[str, str]]:
    """What the scores of a row do not share with all others."""
    rows = document["rows"]
    return [(one_line(r["key"]), " | ".join(r["protocol"])) for r in rows if r["protocol"]]


def signatures(document: Json) -> list[tuple[str, Json]]:
    """Every score: the cells that show it, and what they say of it."""
    found: dict[str, tuple[list[str], Json]] = {}
    for row in document["rows"]:
        for name, cell in row["numbers"].items():
            for seed in cell["seeds"]:
                if seed["signature"]:
                    cells, _ = found.setdefault(seed["score"], ([], seed))
                    cells.append(one_line(f"{row['key']}, {name}"))
    return [("; ".join(cells), seed) for cells, seed in found.values()]


def has_paper(document: Json, column: Json) -> bool:
    """Whether the paper prints any number of this column."""
    return any(row["numbers"][column["name"]]["printed"] for row in document["rows"])


# -- Markdown --------------------------------------------------------------------------------------


def markdown(document: Json) -> str:
    """``table.md``: the table, and below it everything that a number or its absence needs."""
    about = f"{document['source']}. {document['setting']}."
    parts = [f"# {markdown_text(headline(document))}", markdown_text(about)]
    parts += [f"    {one_line(document['command'])}", markdown_grid(document)]
    said = [markdown_text(note) for note in notes(document)]
    said += [f"{markdown_text(rows)}: {markdown_text(why)}" for rows, why in reasons(document)]
    said += [f"{markdown_text(row)}: {markdown_text(what)}" for row, what in differing(document)]
    parts.append("\n".join(f"- {line}" for line in said))
    signed = [
        f"    {cells}, seed {seed['seed']}: {one_line(seed['score'])}\n"
        f"        {one_line(seed['signature'])}"
        for cells, seed in signatures(document)
    ]
    if signed:
        parts += ["Signatures:", "\n".join(signed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_grid(document: Json, *, costs: bool = True) -> str:
    """The pipe table alone; without ``costs`` it has no images and hours."""
    columns = document["columns"]
    header = [markdown_text(label) for label in document["labels"]]
    for column in columns:
        name = markdown_text(column["name"])
        both = [f"{name}: paper", f"{name}: ours", "difference"]
        header += both if has_paper(document, column) else [name]
    header += ["images", hours_kind(document)] * costs
    numbers = len(header) - len(document["labels"])
    rows = [
        [
            *(markdown_text(cell) for cell in row["label"]),
            *(text for c in columns for text in _markdown_cells(row, c, has_paper(document, c))),
            *[images_text(row), hours_text(row["hours"])] * costs,
        ]
        for row in document["rows"]
    ]
    return markdown_table(header, rows, "l" * len(document["labels"]) + "r" * numbers)


def _markdown_cells(row: Json, column: Json, both: bool) -> list[str]:
    cell = row["numbers"][column["name"]]
    ours = markdown_text(ours_text(cell, column["digits"]))
    marked = f"*{ours}*" if cell["ours"] is None and cell["state"] else ours
    apart = difference_text(cell, column["digits"])
    return [paper_text(cell), marked, apart] if both else [marked]


# -- CSV -------------------------------------------------------------------------------------------

CSV_COLUMNS = (
    *("table", "scale", "words", "row", "label", "column", "seed", "state", "paper", "value"),
    *("mean", "spread", "difference", "images", "run", "score", "signature"),
    *("training_hours", "evaluation_hours", "hours_kind", "card"),
)


def csv_text(document: Json) -> str:
    """``table.csv`` (RFC 4180), tidy: a line for each row, column and seed; ``value`` is that
    seed's, unrounded. A cell without seeds (computed, blocked) is one line.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for row in document["rows"]:
        for column in document["columns"]:
            for line in _csv_lines(document, row, column):
                writer.writerow([_csv_cell(line.get(name)) for name in CSV_COLUMNS])
    return out.getvalue()


def _csv_lines(document: Json, row: Json, column: Json) -> Iterator[dict[str, Any]]:
    cell, hours = row["numbers"][column["name"]], row["hours"] or {}
    labels = zip(document["labels"], row["label"], strict=True)
    shared = {
        "table": document["table"],
        "scale": document["scale"]["name"],
        "words": " ".join(document["words"]),
        "row": row["key"],
        "label": "; ".join(f"{name}: {text}" for name, text in labels if text),
        "column": column["name"],
        "paper": cell["paper"],
        "mean": shown(cell["ours"], column["digits"]),
        "spread": shown(cell["spread"], column["digits"]),
        "difference": _Number(difference_text(cell, column["digits"], signed=False)),
        "training_hours": hours.get("training"),
        "evaluation_hours": hours.get("evaluation"),
        "hours_kind": hours.get("kind"),
        "card": hours.get("card"),
    }
    for seed in cell["seeds"]:
        own = {
            name: seed[name] for name in ("seed", "state", "images", "run", "score", "signature")
        }
        yield shared | own | {"value": seed.get("exact")}
    if not cell["seeds"]:
        yield shared | {"state": cell["state"], "value": cell["ours"]}


class _Number(str):
    """Digits with a sign, no formula."""


def _csv_cell(value: object) -> object:
    if value is None or isinstance(value, int | float | _Number):
        return value
    text = one_line(str(value))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


# -- plain text ------------------------------------------------------------------------------------


def terminal(document: Json) -> str:
    """Lines of at most 100 columns: a block for each column of numbers."""
    title = f"{headline(document)} ({document['source']})"
    lines = _wrapped(title, "", "  ")
    lines += _wrapped(document["setting"], "", "  ")
    lines += _wrapped(f"rows: {head_text(document)}", "", "  ")
    for column in document["columns"]:
        lines += ["", *_block(document, column)]
    lines.append("")
    for note in notes(document):
        lines += _wrapped(note, "", "  ")
    if (kind := hours_kind(document)) != "hours":
        lines += _wrapped(f"last column: {kind}", "", "  ")
    for who, what in [*reasons(document), *differing(document)]:
        lines += _wrapped(f"{who}: {what}", "", "  ")
    return "\n".join(lines)


def _block(document: Json, column: Json) -> Iterator[str]:
    both = has_paper(document, column)
    names = ("paper" * both, "ours", "difference" * both, "images", "hours")
    head = _wrapped_to(one_line(column["name"]), LABEL)
    yield f"{head[0]:<{LABEL}}  {_numbers_line(names)}"
    yield from head[1:]
    for row, label in zip(document["rows"], labels_text(document), strict=True):
        cell = row["numbers"][column["name"]]
        first, *others = _wrapped_to(label, LABEL) or [""]
        texts = (
            paper_text(cell) * both,
            ours_text(cell, column["digits"], " +- "),
            difference_text(cell, column["digits"]),
            images_text(row),
            hours_text(row["hours"]),
        )
        yield f"{first:<{LABEL}}  {_numbers_line(texts)}".rstrip()
        yield from others


def _numbers_line(texts: Sequence[str]) -> str:
    paper, ours, difference, images, hours = texts
    return f"{paper:>7}  {ours:>17}  {difference:>10}  {images:>6}  {hours:>9}".rstrip()


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(one_line(text), WIDTH, initial_indent=first, subsequent_indent=then)


def _wrapped_to(text: str, width: int) -> list[str]:
    """Lines of at most ``width``; the spaces within one stay, that cells stand in columns."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent="  ")
