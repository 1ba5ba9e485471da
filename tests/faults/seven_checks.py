"""The seven checks that every negative case must pass (docs: the error contract)."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox import Result, Sandbox, hashes, living

from segkit.engine import checkpoint

LINE = re.compile(r"^segkit: error\[([A-Z0-9-]+)\]: ")
# What a failing command may change in a run folder that was there before.
FREE = re.compile(r"^(logs/|\.lock$|status\.json$|timing\.jsonl$|tb/)")


@dataclass(frozen=True)
class Before:
    """What the sandbox looked like before the fault."""

    beside: frozenset[str]
    files: Mapping[str, str]
    newest: str


def look(box: Sandbox) -> Before:
    """Take the picture that ``check_all_seven`` compares with."""
    runs = box.work / "runs"
    return Before(_beside(box), hashes(runs) if runs.is_dir() else {}, _newest(box.run_folder))


def check_all_seven(
    box: Sandbox,
    before: Before,
    result: Result,
    *,
    code: int,
    error: str,
    names: str,
    seconds: float = 20.0,
    status: bool = False,
) -> None:
    """``error`` is the id, ``names`` stands in the last line; with ``status`` the run folder's
    status.json must say the same."""
    said = f"\n--- stderr\n{result.err}"
    # 1. The exit code, and the record of it.
    assert result.code == code, f"exit {result.code}, not {code}{said}"
    if status:
        found = box.status()
        assert (found["code"], found["error_id"]) == (code, error), found
    # 2. One last line that names the error and the place.
    match = LINE.match(result.last_line)
    assert match, f"the last line is no error line{said}"
    assert match[1] == error, f"{match[1]}, not {error}{said}"
    assert names in result.last_line, f"{names!r} is not named{said}"
    # 3. No traceback.
    assert "Traceback" not in result.out + result.err, said
    # 4. In time.
    assert result.seconds <= seconds, f"took {result.seconds:.1f} s{said}"
    # 5. Nothing of the session lives on.
    assert not living(result.pid), "a process of the session is still alive"
    # 6. What was there is as it was, and still loads.
    _check_files(box, before)
    # 7. Nothing outside; no payload ran.
    assert _beside(box) == before.beside, _beside(box) ^ before.beside
    assert not box.canary.exists(), "a payload was executed"


def _check_files(box: Sandbox, before: Before) -> None:
    now = hashes(box.work / "runs") if before.files else {}
    changed = [
        name
        for name, digest in before.files.items()
        if now.get(name) != digest and not FREE.match(name.partition("/")[2])
    ]
    retired = {n for n in changed if n not in now and "/checkpoints/step-" in n}
    assert not set(changed) - retired, f"changed: {changed}"
    if before.newest:
        checkpoint.newest(box.run_folder)


def _newest(run: Path) -> str:
    with contextlib.suppress(Exception):
        return checkpoint.newest(run).name
    return ""


def _beside(box: Sandbox) -> frozenset[str]:
    """What lies beside and around the working directory."""
    outer = list(box.root.parent.iterdir())
    inner = [p for name in ("home", "tmp") for p in (box.root / name).rglob("*")]
    # A new interpreter's torch makes an empty folder of its own there.
    inner = [p for p in inner if not p.name.startswith("torchinductor_")]
    return frozenset(str(p) for p in [*outer, *inner, *box.root.iterdir()])


def read_json(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text()))
