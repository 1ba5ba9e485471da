"""The finished tables as files: OUT/ID-SCALE/table.json, .md, .csv and .html."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.ablation import computed
from segkit.ablation.book import Table
from segkit.ablation.jobs import Plan
from segkit.ablation.results import collect, text_of
from segkit.report import ablation_page, ablation_text
from segkit.report.names import make_folder
from segkit.whole_files import write_whole


def write(
    table: Table,
    plan: Plan,
    values: Mapping[str, Any],
    *,
    words: Sequence[str],
    config_dir: str | None = None,
) -> tuple[dict[str, Any], Path]:
    """Write ``table`` as it stands; its document and the folder. ``words`` were typed with it.

    Each file is whole or as it was. Raises EnvironmentFault where one cannot be written.
    """
    document = collect(
        table,
        plan,
        values["scale"],
        values["seeds"],
        command=shlex.join(["segkit", "table", table.id, *words]),
        computed=partial(computed.number, table=table, config_dir=config_dir),
    )
    folder = folder_of(table, values)
    make_folder(folder)
    files = {
        "table.json": text_of(document),
        "table.md": ablation_text.markdown(document).encode(),
        "table.csv": ablation_text.csv_text(document).encode(),
        "table.html": ablation_page.page(document, __version__),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return document, folder


def folder_of(table: Table, values: Mapping[str, Any]) -> Path:
    """OUT/ID-SCALE; OUT is RUNS/tables unless it is typed."""
    home = Path(values["out"] or Path(values["runs"]) / "tables").expanduser()
    return home / f"{table.id}-{values['scale']['name']}"
