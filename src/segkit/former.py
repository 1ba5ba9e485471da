"""What an earlier evaluation left in its folder, and when it has to go.

A score beside pictures of another one is a lie that nobody sees. So the score goes before the first
new picture comes, and not earlier: a call that stops at once costs no finished work.
"""

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

from segkit.errors import RefusedError
from segkit.whole_files import faults, refuse_links


def drop_score(out: Path) -> None:
    """Remove ``score.json`` and the page that shows it, which without a score is not ours."""
    score, shown = out / "score.json", out / "report.html"
    with faults(score, 0):
        if score.is_file() or score.is_symlink():
            shown.unlink(missing_ok=True)
            score.unlink(missing_ok=True)


def drop_pictures(out: Path, kept: Collection[str]) -> None:
    """Remove the pictures of the images in ``images.json``, save ``kept`` (``pictures/ID``).

    Only what an evaluation wrote is named there. Links are not followed.
    """
    names = [f"{kind}/{sample}" for sample in _listed(out) for kind in ("pictures", "predictions")]
    for name in set(names).difference(kept):
        path = out / f"{name}.png"
        if ".." in PurePosixPath(name).parts:
            continue
        # What stands in the way of removing stands in the way of nothing else.
        with suppress(OSError, RefusedError, ValueError):
            refuse_links(out, path)
            path.unlink()
            for folder in path.parents:
                if folder == out:
                    break
                folder.rmdir()  # until one is not empty


def _listed(out: Path) -> list[str]:
    path = out / "images.json"
    try:
        if path.is_symlink():
            return []
        return [str(row["id"]) for row in json.loads(path.read_bytes())["images"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
