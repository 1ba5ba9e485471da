"""Rebuild what docs/performance.md and README.md say of speed from files that benchmarks wrote.

    python tools/performance.py            rewrite both, and the figures beside the page
    python tools/performance.py --check    exit 1 if one is out of date

Every folder under docs/results/bench/ is one machine: ``cpu``, or a card's name (``cuda``: the rows
for a card, made where there was none, which say that nothing was measured). In both pages the lines
between the two ``bench`` comments are replaced: in README.md the ratios that have a bar, in
docs/performance.md everything. Figures are drawn from ``profiles.json`` of the processor.
"""

import argparse
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from results import _read, _read_json, replace_block

from segkit.errors import SegkitError
from segkit.report.tables import markdown_table, markdown_text
from segkit.whole_files import write_whole

BENCH = Path("docs/results/bench")
PAGE = Path("docs/performance.md")
FIGURE = Path("docs/performance-time.svg")
NOT_MEASURED = "not measured"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = parser.parse_args(argv)
    try:
        stale = [(path, text) for path, text in files(arguments.root) if _read(path) != text]
    except SegkitError as fault:
        print(fault.line(), file=sys.stderr)
        return int(fault.code)
    for path, text in stale:
        if arguments.check:
            print(f"{path} is out of date; run: python tools/performance.py", file=sys.stderr)
        else:
            write_whole(path, text.encode())
            print(f"wrote {path}")
    return int(arguments.check and bool(stale))


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """The files this tool owns, wholly or in part, with what they should hold."""
    machines = sorted({path.parent for path in (root / BENCH).glob("*/*.json")})
    found = {place.name: read(place) for place in machines}
    page, readme = root / PAGE, root / "README.md"
    text = replace_block(page, _read(page), "bench", "\n\n".join(map(whole, found.values())))
    predicted = root / BENCH / "cpu" / "memory.json"
    if predicted.exists():
        text = replace_block(page, text, "memory", memory(_read_json(predicted)["rows"]))
    yield page, text
    yield readme, replace_block(readme, _read(readme), "bench", short(found))
    profiles = root / BENCH / "cpu" / "profiles.json"
    if profiles.exists():
        yield root / FIGURE, bars(_read_json(profiles)["rows"])


def read(place: Path) -> list[dict[str, Any]]:
    """The documents of one machine, by name, but for those that have a place of their own."""
    own = ("profiles", "memory")
    paths = [path for path in sorted(place.glob("*.json")) if path.stem not in own]
    return [{"row": path.stem, **_read_json(path)} for path in paths]


# -- tables ------------------------------------------------------------------------------------


def whole(documents: list[dict[str, Any]]) -> str:
    """Every row of one machine, a table for each file."""
    machine = documents[0]["machine"]
    words = [where(machine), f"{machine['cores']} cores"]
    versions = [f"{name} {version}" for name, version in machine.items() if _is_version(name)]
    parts = [f"### {markdown_text(', '.join(words))}"]
    for document in documents:
        load = document["machine"]["load"]
        parts += [f"**{markdown_text(document['title'])}** (load {load})", table(document["rows"])]
    return "\n\n".join([*parts, markdown_text(f"With {', '.join(versions)}.")])


def where(machine: dict[str, Any]) -> str:
    """The processor, or the card; rows for a card that are measured nowhere have a null."""
    return str(machine.get("card", machine["cpu"]) or "no CUDA device")


def _is_version(name: str) -> bool:
    return name not in ("cpu", "cores", "load", "card")


HEADER = ["", "against", "ours", "theirs", "ratio (quartiles)", "memory", "bar", ""]


def table(rows: list[dict[str, Any]]) -> str:
    body = [
        [
            markdown_text(row["name"]),
            markdown_text(row["against"] or ""),
            _time(row["seconds"]),
            _time(row["theirs"]),
            _ratio(row),
            _memory(row),
            _bar(row),
            ", ".join(filter(None, [_verdict(row), markdown_text(row["note"])])),
        ]
        for row in rows
    ]
    return markdown_table(HEADER, body, "llrrrrrl")


def short(machines: dict[str, list[dict[str, Any]]]) -> str:
    """The rows with a bar for a ratio or for seconds, of all machines.

    Not those of growth: their bars are exponents, and would read as slower than asked.
    """
    rows = [
        [
            markdown_text(f"{document['title']}: {row['name']}"),
            markdown_text(row["against"] or ""),
            _ours(row),
            _asked(row),
            markdown_text(where(document["machine"])),
        ]
        for documents in machines.values()
        for document in documents
        for row in document["rows"]
        if document["row"] != "growth" and _asked(row)
    ]
    header = ["", "against", "ours", "asked", "on"]
    return markdown_table(header, rows, "llrrl") if rows else "Not measured."


def _ours(row: dict[str, Any]) -> str:
    """What has a bar, as it was measured."""
    if row["seconds"] is None:
        return NOT_MEASURED
    said = [f"{row['ratio']:.2f} times as fast"] if row["least"] is not None else []
    return ", ".join([*said, *([_time(row["seconds"])] if row["most"] is not None else [])])


def _asked(row: dict[str, Any]) -> str:
    said = [f"≥ {row['least']:g} times"] if row["least"] is not None else []
    return ", ".join([*said, *([f"≤ {_time(row['most'])}"] if row["most"] is not None else [])])


def memory(rows: list[dict[str, Any]]) -> str:
    """Predicted peaks beside the references'."""
    body = [
        [
            markdown_text(row["name"]),
            markdown_text(row["against"]),
            f"{row['peak'] / 2**30:.1f} GiB",
            f"{row['their_peak'] / 2**30:.1f} GiB",
            f"{row['peak'] / row['their_peak']:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(["step", "references of", "ours", "theirs", "share"], body, "llrrr")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _ratio(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return ""
    low, high = row["spread"] or (row["ratio"], row["ratio"])
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _memory(row: dict[str, Any]) -> str:
    if row["peak"] is None:
        return ""
    ours = f"{row['peak'] / 2**20:.0f} MiB"
    return f"{ours}, x {row['peak'] / row['their_peak']:.2f}" if row["their_peak"] else ours


def _bar(row: dict[str, Any]) -> str:
    bars = {"≥ {:g}": row["least"], "≤ {:g} s": row["most"], "memory ≤ {:g}": row["most_memory"]}
    return ", ".join(form.format(bar) for form, bar in bars.items() if bar is not None)


def _verdict(row: dict[str, Any]) -> str:
    return {True: "met", False: "**missed**", None: ""}[row["met"]]


# -- the figure --------------------------------------------------------------------------------

COLOURS = {
    "convolutions": "#33658a",
    "convolutions, backward": "#7aa5c4",
    "batch norm": "#f2a65a",
    "activations": "#d1495b",
    "copies": "#8f2d56",
    "resizing": "#6b9080",
    "softmax and argmax": "#a4c3b2",
    "loss": "#3c6e47",
    "optimiser": "#c9ada7",
    "other": "#bbbbbb",
}
WIDTH, LEFT, BAR, GAP, TOP = 920, 130, 20, 8, 60


def bars(rows: list[dict[str, Any]]) -> str:
    """Stacked bars as SVG: a group for each work, a bar for each way of doing it."""
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        name, _, part = row["name"].rpartition(": ")
        work, _, way = name.rpartition(", ")
        groups.setdefault(work, {}).setdefault(way, {})[part] = row["seconds"]
    lines, y = [*_legend()], TOP
    for work, ways in groups.items():
        lines.append(_text(10, y + 14, work, weight="bold"))
        y += 24
        longest = max(sum(parts.values()) for parts in ways.values())
        for way, parts in ways.items():
            lines += _stack(y, way, parts, (WIDTH - LEFT - 90) / longest)
            y += BAR + GAP
        y += 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="13">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>\n"])


def _stack(y: int, way: str, parts: dict[str, float], pixels: float) -> Iterator[str]:
    yield _text(LEFT - 10, y + 15, way, anchor="end")
    x = float(LEFT)
    for part, colour in COLOURS.items():
        width = parts.get(part, 0.0) * pixels
        if width >= 0.5:
            title = f"<title>{escape(part)}: {_time(parts[part])}</title>"
            place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"'
            yield f'<rect {place} fill="{colour}">{title}</rect>'
        x += width
    yield _text(int(x) + 8, y + 15, _time(sum(parts.values())))


def _legend() -> Iterator[str]:
    for number, (part, colour) in enumerate(COLOURS.items()):
        x, y = 10 + 180 * (number % 5), 10 + 20 * (number // 5)
        yield f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>'
        yield _text(x + 18, y + 11, part)


def _text(x: int, y: int, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>'


if __name__ == "__main__":
    sys.exit(main())
