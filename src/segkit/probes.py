"""What ``segkit doctor`` finds out about the machine; ``doctor.py`` judges it.

A ``Probe`` is a process of its own for what can crash, hang or take seconds: torch, torchvision,
pydensecrf, the data folders. A crash is then an answer like any other.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.conf_files import conf_dir
from segkit.errors import SegkitError

PROBE_SECONDS = 120  # a cold torchvision on a busy machine has taken 30
GIB = 2**30

Answer = Mapping[str, Any]  # what a probe found; {"fault": text} where it could not


def device_nodes() -> list[str]:
    """NVIDIA devices that this machine or container was given (``/dev/dxg``: under Windows)."""
    nodes = Path("/dev").glob("nvidia[0-9]*")
    return sorted(str(n) for n in [*nodes, Path("/dev/dxg")] if n.exists())


def driver() -> str:
    """``driver 570.86``, or that it does not say."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "driver unknown"
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return f"driver {found[0]}" if found else "driver unknown"


def compiler_here(env: Mapping[str, str]) -> tuple[str, str | None, bool]:
    """The C++ compiler a build would take, the first line of its ``--version``, Python.h there."""
    names = [env["CXX"]] if env.get("CXX") else ["c++", "g++", "clang++"]
    name = next((n for n in names if shutil.which(n.split()[0])), names[0] if "CXX" in env else "")
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    try:
        command = [*name.split(), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return name, None, headers
    return name, (done.stdout.splitlines() or ["?"])[0], headers


def size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def reason(error: BaseException) -> str:
    """An exception in one short line."""
    if isinstance(error, SegkitError):
        return str(error)
    text = (str(error).splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {text}"


class Probe:
    """A function of ``PROBES`` in a process of its own, started at once and asked later."""

    def __init__(self, name: str) -> None:
        self._answer: Answer | None = None
        self._process: subprocess.Popen[str] | None = None
        # It looks for modules exactly where this process does, so that it meets the same traps.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-P", "-m", "segkit.probes", name, str(os.getpid())]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=env, encoding="utf-8", errors="replace",
                **pipes,
            )  # fmt: skip
        except OSError as error:
            self._answer = {"fault": f"no process could be started: {error.strerror}"}

    def answer(self) -> Answer:
        """What it printed; ``fault`` says how it ended if it did not come to that."""
        if self._answer is None:
            assert self._process is not None
            try:
                out, said = self._process.communicate(timeout=PROBE_SECONDS)
                self._answer = understood(self._process.returncode, out, said)
            except subprocess.TimeoutExpired:
                self.end()
                self._answer = {"fault": f"no answer within {PROBE_SECONDS} s"}
        return self._answer

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def understood(code: int, out: str, said: str) -> Answer:
    """A probe's last line; libraries may have printed before it."""
    if code < 0:
        return {"fault": f"the process was ended by {signal.Signals(-code).name}"}
    lines, words = out.splitlines(), said.splitlines()
    if code or not lines:
        return {"fault": words[-1] if words else f"the process ended with exit code {code}"}
    answer: Answer = json.loads(lines[-1])
    return answer


def probe_torch() -> Answer:
    """torch, each CUDA device after one addition on it, and the weight files of each backbone."""
    import torch

    answer: dict[str, Any] = {"built_for": None, "devices": [], "why": "it sees none"}
    if torch.version.cuda or torch.version.hip:
        runtime = (
            f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
        )
        answer["built_for"] = runtime
        try:
            torch.cuda.init()
            answer["devices"] = [device(torch, n) for n in range(torch.cuda.device_count())]
        except (RuntimeError, AssertionError) as error:
            answer["why"] = reason(error)
    answer["cache"] = str(Path(torch.hub.get_dir(), "checkpoints"))
    try:
        answer["weights"] = known_weights(torch)
    except Exception as error:
        answer["weights"] = {"fault": reason(error)}
    return answer


def device(torch: Any, number: int) -> dict[str, str | None]:
    about, fault = torch.cuda.get_device_properties(number), None
    try:
        torch.ones(1, device=f"cuda:{number}").add(1).item()
    except RuntimeError as error:  # no kernel image for it, out of memory, in exclusive use
        fault = reason(error)
    return {"name": f"cuda:{number} {about.name} ({size(about.total_memory)})", "fault": fault}


def known_weights(torch: Any) -> dict[str, list[str]]:
    """Backbone -> names of the files that would do, as the shipped configs build it."""
    from segkit import instantiate

    known = {}
    with torch.device("meta"):
        for name, node in shipped("backbone"):
            net = instantiate.partial(node, "backbone")(output_stride=16, multi_grid=None)
            if net.imagenet and net.imagenet.files:
                known[name] = [file.name for file in net.imagenet.files]
    return known


def probe_torchvision() -> Answer:
    import torchvision

    return {"version": torchvision.__version__}


def probe_crf() -> Answer:
    """Refine a picture of 8x8: an extension built for another NumPy imports, then crashes."""
    import numpy as np

    from segkit.inference.crf import DenseCrf

    DenseCrf().refine(np.zeros((8, 8, 3), np.uint8), np.full((2, 8, 8), 0.5, np.float32))
    return {}


def probe_data() -> Answer:
    """Open every split of every shipped data set that lies in files, as training would."""
    from segkit import instantiate

    answer: dict[str, list[str]] = {"sets": [], "absent": [], "faults": []}
    for name, composed in shipped("dataset"):
        node, there = composed["dataset"], []
        if "root" not in node or name == "folder":  # a folder of one's own has no known place
            continue
        for split in dict.fromkeys((node["train_split"], node["val_split"])):
            own = (node.get("val") or {}) if split == node["val_split"] else {}
            try:
                made = instantiate.partial(node | own, "dataset")(split=split)
                there.append(f"{len(made)} {split}")
            except SegkitError as error:
                if error.id != "DATA-MISSING":
                    answer["faults"].append(f"{name}: {reason(error)}")
        answer["sets" if there else "absent"].append(
            f"{name} ({', '.join(there)})" if there else name
        )
    return answer


def shipped(group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import yaml

    for path in sorted((conf_dir() / group).glob("*.yaml")):
        yield path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))


PROBES: dict[str, Callable[[], Answer]] = {
    "torch": probe_torch,
    "torchvision": probe_torchvision,
    "crf": probe_crf,
    "data": probe_data,
}


def serve(name: str, parent: int) -> None:
    """The process of a ``Probe``: one line of JSON."""
    signal.alarm(PROBE_SECONDS + 10)  # should native code hang and the thread never run
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    warnings.simplefilter("ignore")  # what matters in them is asked for; stderr is for crashes
    try:
        answer = PROBES[name]()
    except Exception as error:
        answer = {"fault": reason(error)}
    print(json.dumps(answer))


def end_with(parent: int) -> None:
    """End this process soon after ``parent`` has, however that one ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
