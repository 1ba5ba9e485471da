"""R and G9 rows: processes that die or hang, memory that is not there, resumes that are refused."""

from cases import Case, typed
from sandbox import TINY

TRAIN = typed(*TINY, "workers=2", "worker_timeout=1")
# Two pictures, the second (val-000001) goes wrong.
EVAL = typed("eval", "workers=2", "worker_timeout=1", "eval.pictures=0")
EVAL_CRF = typed("eval", "crf=true", "workers=0", "worker_timeout=1", "eval.pictures=0")

WORKERS = [
    Case(
        "R9", f"data-worker-{death}", TRAIN, 6, f"ENV-WORKER-{error}", names,
        inject=f"reading:{death}/5", status=True,
    )
    for death, error, names in (
        ("killed", "DIED", "was killed by SIGKILL; if memory ran out: fewer workers"),
        ("crashes", "DIED", "was killed by SIGSEGV"),
        ("leaves", "DIED", "left with 0"),
        ("hangs", "STUCK", "sample train-000005: worker"),
    )
] + [
    Case(
        "R9", f"eval-worker-{death}", EVAL, 6, f"ENV-WORKER-{error}", "sample val-000001: worker",
        inject=f"reading:{death}/1", needs_run=True,
    )
    for death, error in (("killed", "DIED"), ("hangs", "STUCK"))
]  # fmt: skip

CRF = [
    Case(
        "R9", f"crf-worker-{name}", EVAL_CRF, 6, f"ENV-CRF-{error}", names,
        inject=f"crf:{name}", needs_run=True,
    )
    for name, error, names in (
        ("SIGKILL", "WORKER", "val-000000: the CRF's process was killed by SIGKILL"),
        ("SIGSEGV", "WORKER", "val-000000: the CRF's process was killed by SIGSEGV"),
        ("SIGSTOP", "STUCK", "val-000000: the CRF's process"),
    )
]  # fmt: skip

CASES = [*WORKERS, *CRF]
