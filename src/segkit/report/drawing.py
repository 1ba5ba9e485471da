"""What all pictures of figures share: their look, and bytes that depend on nothing else."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib takes half a second to import; only a drawn figure needs it
    from matplotlib.figure import Figure

GREY = "#9AA0A6"

STYLE: Any = {
    "svg.hashsalt": "segkit",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# For a figure that shows names: any of them may hold a dollar sign.
NAMED: Any = STYLE | {"axes.edgecolor": GREY, "text.parse_math": False}


def encoded(figure: "Figure", kind: str) -> bytes:
    """The bytes of ``figure``; ``kind`` is ``png`` or ``svg``. No date or version goes in."""
    buffer = io.BytesIO()
    stamp = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=130, metadata=stamp)
    return buffer.getvalue()
