"""``python -m segkit``."""

from segkit.cli import entry

entry()
