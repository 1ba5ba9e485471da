"""The points that a search has finished: a line each, so that a killed search goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.data.files import open_file
from segkit.report.names import make_folder, prediction_path
from segkit.whole_files import append, write_whole

NAME = "tune"


class Record:
    """``tune.jsonl`` in ``out``: what the search ``asked`` (a digest) found at each point.

    Lines of other searches stay where they are; a line that a kill tore off is removed.
    """

    def __init__(self, out: Path, asked: str) -> None:
        make_folder(out)
        self._path, self._asked = prediction_path(out, NAME, ".jsonl"), asked
        lines = _lines(self._path)
        write_whole(self._path, b"".join(map(_encoded, lines)))
        self._rows = {line["point"]: line["row"] for line in lines if line["asked"] == asked}

    def get(self, point: str) -> dict[str, Any] | None:
        return self._rows.get(point)

    def add(self, point: str, row: Mapping[str, Any]) -> None:
        append(self._path, _encoded({"asked": self._asked, "point": point, "row": row}))
        self._rows[point] = dict(row)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists() or not path.stat().st_size:
        return []
    with open_file(path) as file:
        written = file.read().split(b"\n")
    found = []
    for text in written:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        known = isinstance(line, dict) and line.keys() == {"asked", "point", "row"}
        if known and isinstance(line["row"], dict) and "miou" in line["row"]:
            found.append(line)
    return found
