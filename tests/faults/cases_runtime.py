"""R and G9 rows: processes that die or hang, memory that is not there, resumes that are refused."""

from cases import Case, typed
from PIL import Image
from sandbox import TINY, Sandbox

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


def big_photo(box: Sandbox) -> tuple[str, ...]:
    Image.new("RGB", (3000, 3000)).save(box.work / "photo.png")
    return "predict", "photo.png", "ckpt=runs/x"


LESS = "lower schedule.batch, augment.crop or workers"
LIMITS = [
    Case(
        "R10", "memory-train", typed(*TINY, "augment.crop=769", "schedule.batch=16"),
        6, "ENV-MEMORY", LESS, inject="memory:500", status=True,
    ),
    Case(
        "R10", "memory-eval", typed("eval", "dataset.size=2049", "dataset.val.count=1"),
        6, "ENV-MEMORY", "type eval.window.size=", inject="memory:200", needs_run=True,
    ),
    Case("R10", "memory-predict", big_photo, 6, "ENV-MEMORY", "photo.png: ", inject="memory:200",
         needs_run=True),
    Case(
        "R11", "batches-beyond-memory",
        typed(*TINY, "workers=2", "augment.crop=4097", "schedule.batch=1024"), 6, "ENV-MEMORY",
        "workers: batches in flight need 196704 MiB", status=True,
    ),
    Case(
        "R", "open-files", typed(*TINY, "workers=2"), 6, "ENV-WORKER-START", "type ulimit -n 1024",
        inject="files:2",
    ),
    Case(
        "R", "open-files-crf", EVAL_CRF, 6, "ENV-CRF-START", "type ulimit -n 1024",
        inject="files:2", needs_run=True,
    ),
    Case(
        "R", "processes", typed(*TINY, "workers=2"), 6, "ENV-WORKER-START", "type ulimit -u",
        inject="processes",
    ),
]  # fmt: skip

CASES = [*WORKERS, *CRF, *LIMITS]
