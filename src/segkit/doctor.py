"""``segkit doctor``: what this machine has, one plain verdict per line with what to type.

Every check is a function from what was found to a ``Finding``. What can crash or hang is asked in
other processes (``probes.py``); this one imports nothing but Python's own library.
"""

import importlib.metadata
import json
import locale
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from segkit import __version__
from segkit.errors import ConfigError, ExitCode, one_line
from segkit.probes import (
    GIB,
    PROBES,
    Answer,
    Probe,
    compiler_here,
    device_nodes,
    driver,
    reason,
    size,
)

USAGE = """\
segkit doctor [--json] [runs=FOLDER]: look at this machine, one verdict per line

  ok    as it should be
  warn  works, or something you may not need is missing
  bad   will not work

Every line ends with what to type. Exit code 0 if nothing is bad, 6 otherwise. --json prints one
list of {subject, verdict, found, fix} instead."""

PYTHON_FLOOR = "3.11"

# Distribution: (lowest version, first version too new). tests/test_doctor.py holds these to
# pyproject.toml, which cannot be asked: the metadata of a broken installation is what is in doubt.
VERSIONS: dict[str, tuple[str, str | None]] = {
    "torch": ("2.11", None),
    "torchvision": ("0.26", None),
    "hydra-core": ("1.3.4", None),
    "omegaconf": ("2.3", None),
    "albumentations": ("2.0", "2.1"),
    "opencv-python-headless": ("4.11", None),
    "numpy": ("1.26", None),
    "pillow": ("12.3", None),
    "safetensors": ("0.5", None),
}
# They all install the same folder cv2, each over the others.
OPENCV = (
    *("opencv-python-headless", "opencv-python"),
    *("opencv-contrib-python-headless", "opencv-contrib-python"),
)

CHECKPOINT = GIB // 2  # v3 on r101: weights and momentum
KEPT = 4  # the last two, the best one and the one being written
LITTLE_SHM = 64 * 2**20  # what containers have by default; too little for NCCL
FEW_FILES = 1024
TOO_FEW_FILES = 128

Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, the verdict, what was found, what to type."""

    subject: str
    verdict: Verdict
    found: str
    fix: str = ""

    def line(self) -> str:
        text = f"{self.found}; {self.fix}" if self.fix else self.found
        return one_line(f"{self.verdict:<4}  {self.subject:<22}  {text}")


def main(arguments: Sequence[str]) -> int:
    """Print the findings as they come; 6 if one is bad."""
    if {"-h", "--help"} & set(arguments):
        say(USAGE)
        return ExitCode.OK
    runs = runs_of(arguments)
    found = []
    for finding in findings(runs):
        found.append(finding)
        if "--json" not in arguments:
            say(finding.line())
    if "--json" in arguments:
        say(json.dumps([asdict(f) for f in found], indent=2))
    else:
        count = Counter(f.verdict for f in found)
        say(f"segkit doctor: {count['ok']} ok, {count['warn']} warn, {count['bad']} bad")
    return ExitCode.ENVIRONMENT if any(f.verdict == "bad" for f in found) else ExitCode.OK


def runs_of(arguments: Sequence[str]) -> Path:
    """The folder of ``runs=FOLDER``; ``ConfigError`` for what is not understood."""
    folder = "runs"  # schema.Common.runs
    for word in arguments:
        key, _, value = word.partition("=")
        if key == "runs" and value:
            folder = value
        elif word != "--json":
            raise ConfigError("USAGE", word, "not understood", "segkit doctor [--json] [runs=DIR]")
    return Path(folder)


def say(text: str) -> None:
    """Print; what the output's encoding lacks is escaped instead of raising."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:  # `segkit doctor | head -1`: the exit code still tells
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def findings(runs: Path) -> Iterator[Finding]:
    """Every check in turn; one that breaks is a bad finding that names the exception."""
    probes = {name: Probe(name) for name in PROBES}
    try:
        for subject, check in checks(probes, runs).items():
            try:
                yield check()
            except Exception as error:
                found = f"the check itself broke: {reason(error)}"
                yield Finding(subject, "bad", found, "please report it; it is a bug of segkit")
    finally:
        for probe in probes.values():
            probe.end()


def checks(probes: Mapping[str, "Probe"], runs: Path) -> dict[str, Callable[[], Finding]]:
    """Subject -> check, in the order of the lines; facts are read here and judged there."""
    env = os.environ
    return {
        "python": lambda: python(platform.python_version(), sys.executable),
        "platform": lambda: machine(platform.platform(), os.cpu_count(), __version__),
        **{name: lambda n=name: version(n, installed(n)) for name in VERSIONS},  # type: ignore[misc]
        "opencv": lambda: opencv([name for name in OPENCV if installed(name)]),
        "cuda": lambda: cuda(probes["torch"].answer(), device_nodes(), driver(), env),
        "torchvision import": lambda: torchvision(probes["torchvision"].answer()),
        "pydensecrf": lambda: pydensecrf(probes["crf"].answer()),
        "c++ compiler": lambda: compiler(*compiler_here(env), crf=probes["crf"].answer()),
        "data": lambda: data(probes["data"].answer(), env.get("SEGKIT_DATA")),
        "weights": lambda: weights(probes["torch"].answer(), env.get("SEGKIT_WEIGHTS")),
        "shared memory": lambda: shared_memory(Path("/dev/shm")),
        "disk": lambda: disk(runs),
        "open files": lambda: open_files(resource.getrlimit(resource.RLIMIT_NOFILE)),
        "locale": lambda: encodings(sys.getfilesystemencoding(), locale.setlocale(locale.LC_CTYPE)),
        "stdout": lambda: stdout(sys.stdout),
    }


# -- versions ----------------------------------------------------------------------------------


def python(found: str, executable: str) -> Finding:
    if numbers(found) < numbers(PYTHON_FLOOR):
        fix = f"make the environment anew with Python >= {PYTHON_FLOOR}"
        return Finding("python", "bad", f"{found} ({executable}) is below {PYTHON_FLOOR}", fix)
    return Finding("python", "ok", f"{found} ({executable})")


def machine(name: str, cores: int | None, own: str) -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return Finding("platform", "ok", f"{name}, {usable} of {cores} cores usable, segkit {own}")


def version(name: str, found: str | None) -> Finding:
    """A distribution's version against its bounds."""
    floor, ceiling = VERSIONS[name]
    wanted = f"{name}>={floor}" + (f",<{ceiling}" if ceiling else "")
    fix = f"pip install '{wanted}'"
    if found is None and name in OPENCV:
        found = next((v for other in OPENCV if (v := installed(other))), None)
    if found is None:
        return Finding(name, "bad", "not installed", fix)
    if numbers(found) < numbers(floor):
        return Finding(name, "bad", f"{found} is below {floor}", fix)
    if ceiling and numbers(found) >= numbers(ceiling):
        return Finding(name, "bad", f"{found} is not below {ceiling}", fix)
    return Finding(name, "ok", f"{found} ({wanted.removeprefix(name)})")


def opencv(names: Sequence[str]) -> Finding:
    """Two OpenCV distributions write into one folder."""
    if len(names) > 1:
        fix = f"pip uninstall {' '.join(names)}, then pip install {OPENCV[0]}"
        return Finding("opencv", "warn", f"{' and '.join(names)} overwrite each other's cv2", fix)
    return Finding("opencv", "ok", f"cv2 is from {names[0]}" if names else "no cv2")


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(text: str) -> tuple[int, ...]:
    """``2.11.0+cu128`` -> (2, 11): the release, without trailing zeros (2.0.0 is 2.0)."""
    release = re.match(r"\d+(\.\d+)*", text)
    parts = [int(p) for p in release[0].split(".")] if release else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


# -- what can crash ----------------------------------------------------------------------------


def cuda(torch: Answer, nodes: Sequence[str], driver: str, env: Mapping[str, str]) -> Finding:
    """Whether ``device=auto`` means what the machine has; ``nodes`` are its NVIDIA device files."""
    if "fault" in torch:
        fix = f"pip install --force-reinstall 'torch>={VERSIONS['torch'][0]}'"
        return Finding("cuda", "bad", f"torch cannot be imported: {torch['fault']}", fix)
    built, broken = torch["built_for"], [d for d in torch["devices"] if d["fault"]]
    here = f"{len(nodes)} NVIDIA device(s) here, {driver}"
    if broken:
        found = f"{broken[0]['name']} does not compute: {broken[0]['fault']}"
        fix = "install a torch built for this device, hide it (CUDA_VISIBLE_DEVICES), or device=cpu"
        return Finding("cuda", "bad", found, fix)
    if torch["devices"]:
        names = ", ".join(d["name"] for d in torch["devices"])
        return Finding("cuda", "ok", f"{names}; torch is built for {built}, {driver}")
    if not nodes:
        build = f"torch is built for {built}" if built else "torch is a CPU build"
        return Finding("cuda", "ok", f"no device; {build}, which is fine: device=auto is cpu")
    if not built:
        fix = "install CUDA builds of torch and torchvision together, or stay with device=cpu"
        return Finding("cuda", "warn", f"{here}, but torch is a CPU build", fix)
    if "CUDA_VISIBLE_DEVICES" in env:
        found = f"{here}, hidden by CUDA_VISIBLE_DEVICES={env['CUDA_VISIBLE_DEVICES']!r}"
        return Finding("cuda", "warn", found, "unset CUDA_VISIBLE_DEVICES")
    fix = f"update the driver, or install a torch built for an older runtime than {built}"
    return Finding("cuda", "bad", f"{here}, torch for {built} cannot use them: {torch['why']}", fix)


def torchvision(answer: Answer) -> Finding:
    """The pair of torch and torchvision; a mismatched one fails at import."""
    subject, fault = "torchvision import", answer.get("fault")
    if not fault:
        return Finding(subject, "ok", f"{answer['version']} fits torch {installed('torch')}")
    fix = "pip install --force-reinstall torch torchvision (both from the same index)"
    if "torchvision::nms" in fault:
        pair = f"torch {installed('torch')} and torchvision {installed('torchvision')}"
        found = f"{pair} are builds that do not belong together (a CPU and a CUDA one, or two "
        return Finding(subject, "bad", f"{found}releases): {fault}", fix)
    return Finding(subject, "bad", fault, fix)


def pydensecrf(answer: Answer) -> Finding:
    """Whether ``crf=true`` will work: an image was refined."""
    fault = answer.get("fault")
    if not fault:
        return Finding("pydensecrf", "ok", "crf=true works (an image was refined)")
    if "No module named 'pydensecrf'" in fault:
        fix = "pip install 'segkit[crf]' if you want crf=true"
        return Finding("pydensecrf", "warn", "not installed, so crf=true will not work", fix)
    fix = "pip install --force-reinstall --no-cache-dir --no-binary pydensecrf2 pydensecrf2"
    return Finding("pydensecrf", "bad", fault, fix)


def compiler(name: str, said: str | None, headers: bool, *, crf: Answer) -> Finding:
    """``said``: its version line, or None where it does not run. Only the crf extra is compiled."""
    if said and headers:
        return Finding("c++ compiler", "ok", said)
    lacks = "no Python.h" if said else f"{name} does not run" if name else "none found"
    if "fault" not in crf:
        return Finding("c++ compiler", "ok", f"{lacks}; not needed, pydensecrf is built already")
    fix = f"apt install {'python3-dev' if said else 'g++'}, or what your system calls it"
    return Finding("c++ compiler", "warn", f"{lacks}; only the crf extra needs it", fix)


def data(answer: Answer, room: str | None) -> Finding:
    """The known data sets below ``$SEGKIT_DATA`` or ``./data``."""
    where = f"SEGKIT_DATA={room}" if room else "./data (SEGKIT_DATA is not set)"
    fix = "export SEGKIT_DATA=/folder (layouts: data/README.md); dataset=shapes needs no files"
    if room and not Path(room).is_dir():
        return Finding("data", "bad", f"{where} is not a folder", fix)
    if "fault" in answer:
        return Finding("data", "bad", f"{where}: {answer['fault']}", fix)
    if answer["faults"]:
        return Finding("data", "bad", answer["faults"][0], "repair or remove that data set")
    if not answer["sets"]:
        return Finding("data", "warn", f"{where}: none of {', '.join(answer['absent'])}", fix)
    absent = f"; not there: {', '.join(answer['absent'])}" if answer["absent"] else ""
    return Finding("data", "ok", f"{where}: {', '.join(answer['sets'])}{absent}")


def weights(answer: Answer, room: str | None) -> Finding:
    """The known weight files in ``$SEGKIT_WEIGHTS`` and in torch's cache."""
    where = f"SEGKIT_WEIGHTS={room}" if room else "SEGKIT_WEIGHTS is not set"
    fix = "export SEGKIT_WEIGHTS=/folder, let train download them, or pretrained=none"
    if room and not Path(room).is_dir():
        return Finding("weights", "bad", f"{where} is not a folder", fix)
    if "fault" in answer or "fault" in answer["weights"]:
        fault = answer.get("fault") or answer["weights"]["fault"]
        return Finding("weights", "bad", f"{where}; no list of the known files: {fault}", fix)
    folders = [Path(room), Path(answer["cache"])] if room else [Path(answer["cache"])]
    have: list[str] = []
    lack: list[str] = []
    for backbone, names in answer["weights"].items():
        there = any((folder / name).is_file() for folder in folders for name in names)
        (have if there else lack).append(backbone)
    if not have:
        return Finding("weights", "warn", f"{where}: none for {', '.join(lack)}", fix)
    absent = f"; not there: {', '.join(lack)}" if lack else ""
    return Finding("weights", "ok", f"{where}: for {', '.join(have)}{absent}")


# -- the system --------------------------------------------------------------------------------


def shared_memory(folder: Path) -> Finding:
    """``/dev/shm``: the loader does without it, NCCL between devices does not."""
    fix = "start the container with --shm-size=1g or --ipc=host if you train on several devices"
    if not folder.is_dir():
        return Finding("shared memory", "warn", f"no {folder}", fix)
    free = shutil.disk_usage(folder).free
    found = f"{folder} has {size(free)} free"
    if not os.access(folder, os.W_OK):
        return Finding("shared memory", "warn", f"{folder} is not writable", fix)
    if free <= LITTLE_SHM:
        return Finding("shared memory", "warn", f"{found}; one device needs none", fix)
    return Finding("shared memory", "ok", found)


def disk(runs: Path) -> Finding:
    """Whether a run can be written where runs go, and how much of it."""
    place = next(p for p in (runs, *runs.absolute().parents) if p.exists())
    fix = "free some, or give another folder: runs=/path"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return Finding("disk", "bad", f"{place} cannot be written: {error.strerror}", fix)
    free = shutil.disk_usage(place).free
    found = f"{size(free)} free in {place.absolute()}, where runs={runs} goes"
    if free < CHECKPOINT:
        return Finding("disk", "bad", f"{found}: not one checkpoint of v3 on r101", fix)
    if free < KEPT * CHECKPOINT:
        need = f"a run of v3 on r101 takes up to {size(KEPT * CHECKPOINT)}"
        return Finding("disk", "warn", f"{found}; {need}", fix)
    return Finding("disk", "ok", found)


def open_files(limits: tuple[int, int]) -> Finding:
    """``limits``: soft and hard. Loader workers and the CRF pool hold pipes, a run its files."""
    soft, hard = limits
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        shown = "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}"
        return Finding("open files", "ok", shown)
    verdict: Verdict = "bad" if soft < TOO_FEW_FILES else "warn"
    reachable = hard == resource.RLIM_INFINITY or hard >= FEW_FILES
    fix = f"ulimit -n {FEW_FILES}" + ("" if reachable else " (an administrator must raise it)")
    return Finding("open files", verdict, f"up to {soft}", fix)


def encodings(files: str, ctype: str) -> Finding:
    """How file names are read; the locale itself changes nothing in segkit."""
    found = f"file names are {files}, LC_CTYPE={ctype}"
    if files.lower().replace("-", "") != "utf8":
        fix = "export PYTHONUTF8=1, or names beyond ASCII cannot be opened"
        return Finding("locale", "warn", found, fix)
    return Finding("locale", "ok", found)


def stdout(stream: Any) -> Finding:
    """Where lines go. Anything works; a narrow encoding shows some letters escaped."""
    if stream is None:
        return Finding("stdout", "warn", "closed", "give the command an output: > FILE")
    kind = "a terminal" if stream.isatty() else "not a terminal (no progress bar)"
    found = f"{kind}, {stream.encoding}"
    if (stream.encoding or "").lower().replace("-", "") != "utf8":
        return Finding("stdout", "warn", found, "export PYTHONIOENCODING=utf-8")
    return Finding("stdout", "ok", found)
