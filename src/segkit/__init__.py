"""segkit: the DeepLab family, config-driven.

``segkit.load("runs/...", os=8)`` gives a trained network, ``segkit.build(model="v3", ...)`` a new
one. Both are imported on first use, so that ``import segkit`` costs nothing.
"""

TYPE_CHECKING = False  # of typing, which takes longer to import than everything else here
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load"]


def __getattr__(name: str) -> "Any":
    if name in ("build", "load"):
        from segkit import api

        return getattr(api, name)
    raise AttributeError(f"module 'segkit' has no attribute {name!r}")
