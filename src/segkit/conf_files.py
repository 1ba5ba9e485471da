"""Where the YAML is and which choices each group has: a listing, nothing is composed."""

import difflib
from collections.abc import Iterable
from pathlib import Path

GROUPS = (
    *("model", "backbone", "os", "multi_grid", "dataset", "schedule", "loss"),
    *("runtime", "experiment"),
)


def groups_of(command: str) -> tuple[str, ...]:
    """The groups of ``command``'s root config."""
    if command == "train":
        return GROUPS
    if command == "export":
        return ("dataset", "os")
    if command == "table":
        return ("scale", "engine")
    return (
        ("dataset", "os", "runtime") if command in ("eval", "submit", "crf") else ("os", "runtime")
    )


def conf_dir() -> Path:
    """The shipped ``conf/``: inside the package in a wheel, beside ``src/`` in a checkout."""
    packaged = Path(__file__).with_name("conf")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def choices_of(group: str, config_dir: str | None = None) -> list[str]:
    """Names of a group's files, those of ``config_dir`` included."""
    roots = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    names = {p.stem for root in roots for p in (root / group).glob("*.yaml")}
    return sorted(names, key=lambda n: (n.isdigit(), int(n) if n.isdigit() else 0, n))


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
