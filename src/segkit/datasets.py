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
    """Where its ``main(argv)`` is, what it does, and the words that TAB offers."""

    module: str
    summary: str
    words: tuple[str, ...]


DATASETS = ("voc", "voc_aug", "cityscapes", "cityscapes_coarse", "camvid", "folder")

SUBCOMMANDS = {
    "prepare": Subcommand(
        "segkit.prepare.command",
        "make a data set ready: from archives and folders you have, or by download",
        (*DATASETS, "root=", "from=", "download=true"),
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
    return int(import_module(SUBCOMMANDS[name].module).main(words))
