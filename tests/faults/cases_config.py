"""G rows: configs that are refused, with code 2 and the key or file."""

from cases import Case, typed
from sandbox import TINY

CASES = [
    Case(
        "G1", "unknown-key", typed(*TINY, "augment.cropp=33"), 2, "CFG-UNKNOWN-KEY", "augment.cropp"
    ),
]
