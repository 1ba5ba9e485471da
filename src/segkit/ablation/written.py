"""The finished tables as files: OUT/ID-SCALE/table.json, .md, .csv and .html.

Tables whose trainings are not the scale's own are others, and have digits behind their names:
OUT/ID-SCALE-1a2b3c.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.ablation import computed
from segkit.ablation.book import Table, merged
from segkit.ablation.jobs import Plan
from segkit.ablation.plan import PLACES
from segkit.ablation.results import collect, text_of
from segkit.config import compose
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
    changed: Sequence[str] = (),
) -> tuple[dict[str, Any], Path]:
    """Write ``table`` as it stands; its document and the folder. ``words`` were typed with it,
    ``changed`` are those of ``changes``.

    Each file is whole or as it was. Raises EnvironmentFault where one cannot be written.
    """
    document = collect(
        table,
        plan,
        values["scale"],
        values["seeds"],
        command=shlex.join(["segkit", "table", table.id, *words]),
        computed=partial(computed.number, table=table, config_dir=config_dir),
        words=changed,
    )
    folder = folder_of(table, values, changed)
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


def folder_of(table: Table, values: Mapping[str, Any], changed: Sequence[str] = ()) -> Path:
    """OUT is RUNS/tables unless it is typed."""
    home = Path(values["out"] or Path(values["runs"]) / "tables").expanduser()
    return home / folder_name(table.id, values["scale"]["name"], changed)


def folder_name(table_id: str, scale: str, changed: Sequence[str] = ()) -> str:
    """ID-SCALE, and six digits over ``changed`` where there are any; their order does not count."""
    plain = f"{table_id}-{scale}"
    if not changed:
        return plain
    digits = hashlib.sha256("\n".join(sorted(changed)).encode()).hexdigest()[:6]
    return f"{plain}-{digits}"


def changes(
    values: Mapping[str, Any],
    overrides: Sequence[str],
    extra: Sequence[str],
    config_dir: str | None = None,
) -> tuple[str, ...]:
    """The words by which all trainings differ from the scale's: those behind ``--`` (``extra``),
    ``scale.`` keys among ``overrides`` whose value is another than the scale's, ``coco`` and
    ``precision``. Not those that say where and how fast.
    """
    found = [word for word in merged(extra) if word.partition("=")[0] not in PLACES]
    untold = {"precision": "auto", "coco": None}
    found += [f"{key}={values[key]}" for key, told in untold.items() if values[key] != told]
    others = [word for word in overrides if not word.lstrip("+~").startswith("scale.")]
    if len(others) < len(overrides):
        before, now = compose("table", others, config_dir).values["scale"], values["scale"]
        keys = [key for key in now if key not in _SAYS_NOTHING and now[key] != before[key]]
        found += [f"scale.{key}={json.dumps(now[key])}" for key in keys]
    return tuple(found)


# Of a scale: what its trainings are called, and what is kept of them.
_SAYS_NOTHING = ("name", "note", "compare", "keep_weights")
