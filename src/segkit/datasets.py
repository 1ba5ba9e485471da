"""``segkit data SUBCOMMAND``: data sets on disk, before anything is trained on them.

Imports nothing heavy: the usage answers at once, and completion asks for the words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from segkit.conf_files import nearest
from segkit.errors import ConfigError, ExitCode


@dataclass(frozen=True)
class Subcommand:
    """Where its function of ``argv`` is, what it does, and the words that TAB offers."""

    module: str
    summary: str
    words: tuple[str, ...]
    function: str = "main"


DATASETS = ("voc", "voc_aug", "cityscapes", "cityscapes_coarse", "camvid", "folder")
OWN_WORDS = ("dataset.root=", "split=", "split=train", "split=val", "split=all", "--json")

SUBCOMMANDS = {
    "prepare": Subcommand(
        "segkit.prepare.command",
        "make a data set ready: from archives and folders you have, or by download",
        (*DATASETS, "root=", "from=", "download=true", "link=true"),
    ),
    "check": Subcommand(
        "segkit.data_check",
        "decode every pair: what is damaged, wrong, doubled or in training and val at once",
        (*(f"dataset={name}" for name in (*DATASETS, "shapes")), *OWN_WORDS),
        "check",
    ),
    "stats": Subcommand(
        "segkit.data_check",
        "class frequencies and weights, colours, sizes: a table and a picture",
        (*(f"dataset={name}" for name in (*DATASETS, "shapes")), *OWN_WORDS, "out="),
        "statistics",
    ),
}

USAGE = """\
segkit data SUBCOMMAND ...

{subcommands}

segkit data SUBCOMMAND --help says more."""


def main(argv: Sequence[str]) -> int:
    """Run one subcommand; ``ConfigError`` CFG-COMMAND where there is none of that name."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = (f"  {name:<10} {sub.summary}" for name, sub in SUBCOMMANDS.items())
        print(USAGE.format(subcommands="\n".join(lines)))
        return ExitCode.OK
    name, *words = argv
    if name not in SUBCOMMANDS:
        fix = "subcommands: " + ", ".join(SUBCOMMANDS) + nearest(name, SUBCOMMANDS)
        raise ConfigError("COMMAND", f"data {name}", "no such subcommand", fix)
    found = SUBCOMMANDS[name]
    return int(getattr(import_module(found.module), found.function)(words))
