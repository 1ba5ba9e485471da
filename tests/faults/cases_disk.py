"""C5, C10, R6, R8 rows: a disk that is full, fails or goes away ends a command with code 6."""

from collections.abc import Sequence

from cases import Case, Prepare, typed
from sandbox import TINY, Sandbox


def in_the_way(name: str, *words: str) -> Prepare:
    """A regular file ``name`` (relative to the working directory) where a folder belongs."""

    def prepare(box: Sandbox) -> Sequence[str]:
        path = box.work / name
        if path.is_dir():
            path.rename(box.work / "moved")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        return (*TINY, *words)

    return prepare


def failing(name: str, fault: str, error: str, names: str, *words: str, row: str = "C5") -> Case:
    """A fresh run that ends with a disk on which ``fault`` (see injectors_disk) happens."""
    prepare = typed(*TINY, *words)
    return Case(row, name, prepare, 6, error, names, inject=f"fail:{fault}", status=True)


WARN = "checkpoint.on_error=warn"
NO_SPACE = "write:ENOSPC:/checkpoints/"
CASES = [
    failing("full-at-a-save", f"{NO_SPACE}:1-99", "ENV-DISK-FULL", "/step-00000002:"),
    failing("quota", "write:EDQUOT:/checkpoints/:6-99", "ENV-DISK-FULL", "/step-00000006:"),
    failing("fsync-fails", "fsync:EIO:/checkpoints/:1-99", "ENV-WRITE", "/step-00000002:"),
    failing(
        *("warned-three-times", f"{NO_SPACE}:1-99", "ENV-DISK-FULL", "/step-00000004:"),
        *("checkpoint.every=1", WARN),
    ),
    failing("warned-at-the-end", f"{NO_SPACE}:6-99", "ENV-DISK-FULL", "/step-00000006:", WARN),
    failing(
        *("metrics-at-a-save", "write:ENOSPC:metrics.jsonl:1-99", "ENV-DISK-FULL"),
        "metrics.jsonl",
        row="R6",
    ),
    Case("C5", "policy", typed(*TINY, f"{WARN}s"), 2, "CFG-CHOICE", "checkpoint.on_error"),
    Case("R8", "deleted", typed(*TINY), 6, "ENV-RUN-GONE", "runs/x", inject="delete_run_at:3"),
    Case("R8", "replaced", typed(*TINY), 6, "ENV-RUN-GONE", "runs/x", inject="replace_run_at:3"),
    Case("R8", "file-for-runs", in_the_way("runs"), 6, "ENV-NO-FOLDER", "runs"),
    Case("R8", "file-for-the-run", in_the_way("runs/x"), 6, "ENV-NO-FOLDER", "runs/x"),
    *(
        Case(
            *("R8", f"file-for-{name}", in_the_way(f"runs/x/{name}", "resume=true")),
            *(6, "ENV-NO-FOLDER", f"runs/x/{name}"),
            needs_run=True,
        )
        for name in ("checkpoints", "logs", "tb")
    ),
]
