"""Tables for the terminal and for Markdown; names from outside are escaped where they land."""

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from segkit.errors import one_line
from segkit.report.signature import percent

_BAR = 24  # characters of a full bar


def print_class_table(
    iou: Mapping[str, float | None], miou: float | None, file: TextIO | None = None
) -> None:
    """IoU of every class (0..1; None or NaN: absent, not in the mean) and their mean.

    Drawn with rich on a terminal; plain aligned text everywhere else, in any encoding.
    """
    file = sys.stdout if file is None else file
    encoding = (file.encoding or "utf-8").lower()
    if file.isatty() and encoding.replace("-", "") == "utf8":
        _print_rich(iou, miou, file)
    else:
        file.write(printable(class_table(iou, miou), file) + "\n")


def printable(text: str, file: TextIO) -> str:
    """``text`` with what the encoding of ``file`` lacks as escapes."""
    encoding = file.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def class_table(iou: Mapping[str, float | None], miou: float | None) -> str:
    """The table as plain text."""
    rows = [(one_line(name), percent(value), _bar(value)) for name, value in iou.items()]
    rows.append(("mean", percent(miou), ""))
    width = max(len("class"), *(len(name) for name, _, _ in rows))
    lines = [f"{'class':<{width}}  {'IoU':>6}"]
    lines += [f"{name:<{width}}  {value:>6}  {bar}".rstrip() for name, value, bar in rows]
    return "\n".join(lines)


def _print_rich(iou: Mapping[str, float | None], miou: float | None, file: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("")
    for name, value in iou.items():
        absent = percent(value) == "n/a"
        row = (one_line(name), percent(value), "absent" if absent else _bar(value, "━"))
        table.add_row(*(Text(cell, style="dim" if absent else "") for cell in row))
    table.add_section()
    table.add_row(Text("mean", style="bold"), Text(percent(miou), style="bold"), "")
    Console(file=file).print(table)


def _bar(value: float | None, stroke: str = "#") -> str:
    return "" if percent(value) == "n/a" else stroke * round(_BAR * float(value or 0))


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], align: str | None = None
) -> str:
    """A pipe table; ``align`` has one of ``l r c`` per column. Cells are Markdown already."""
    rules = {"l": "---", "r": "---:", "c": ":---:"}
    rule = [rules[a] for a in (align or "l" * len(header))]
    for cells in (rule, *rows):
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells under {len(header)} columns: {cells}")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def markdown_text(text: str) -> str:
    """``text`` as literal text in a Markdown cell or paragraph: no markup, no HTML, one line."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|~&$#!" else c for c in one_line(text))
