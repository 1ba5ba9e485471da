"""Limits of the machine that are reached: what libraries and the system say, as one kind of fault.

Memory, open files and processes run out in any line of any library, so that the top level, the run
record and the loop ask here what an exception means.
"""

import errno
import re
import resource
from pathlib import Path

from segkit.errors import EnvironmentFault

# torch's CPU and CUDA allocators, C++, OpenCV, the dynamic linker, cuDNN and cuBLAS.
_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|CUDA out of memory|std::bad_alloc"
    r"|Insufficient memory|Cannot allocate memory|failed to map segment|_STATUS_ALLOC_FAILED",
)
_THREADS = re.compile(r"can't start new thread|Resource temporarily unavailable")
LESS_MEMORY = "lower schedule.batch, augment.crop or workers"


def fault_of(error: BaseException) -> EnvironmentFault | None:
    """The limit behind ``error``, or None if it is about something else."""
    if is_memory(error):
        first = (str(error).splitlines() or [""])[0][:200]
        what = "out of memory" + (f" ({first})" if first else "")
        return EnvironmentFault("MEMORY", "", what, LESS_MEMORY)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return out_of_files()
    is_spawn = isinstance(error, RuntimeError | OSError) and _THREADS.search(str(error))
    if is_spawn:
        what = f"no more processes or threads can be started (ulimit -u: {_soft('NPROC')})"
        return EnvironmentFault("PROCESSES", "", what, "type ulimit -u unlimited, or workers=0")
    return None


def is_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, whoever says so."""
    if isinstance(error, MemoryError):
        return True
    named = type(error).__name__ == "OutOfMemoryError"  # torch's own, without importing torch
    spoken = (
        isinstance(error, RuntimeError | OSError | ImportError) or type(error).__name__ == "error"
    )
    return named or (spoken and bool(_MEMORY.search(str(error))))


def out_of_files() -> EnvironmentFault:
    what = f"too many open files (ulimit -n: {_soft('NOFILE')})"
    return EnvironmentFault("FILES", "", what, "type ulimit -n 1024, or use fewer workers")


def _soft(name: str) -> str:
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def free_memory() -> int | None:
    """Bytes that may still be used: the machine's, or less where a control group says less."""
    free = [_of_machine(), *map(_of_group, _groups())]
    known = [count for count in free if count is not None]
    return min(known) if known else None


def _of_machine() -> int | None:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _groups() -> list[Path]:
    """This process's control groups of both kinds; in a container its own is the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    root, found = Path("/sys/fs/cgroup"), []
    for line in lines:
        _, kinds, name = line.split(":", 2)
        if kinds == "" or "memory" in kinds.split(","):
            top = root / "memory" if kinds else root
            found += [top / name.lstrip("/"), top]
    return found


def _of_group(group: Path) -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            room = int((group / limit).read_text()) - int((group / used).read_text())
            stat = (group / "memory.stat").read_text()
        except (OSError, ValueError):  # not there, or "max"
            continue
        # File pages that the kernel gives back at once are no loss.
        cached = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)
        return room + (int(cached[1]) if cached else 0)
    return None
