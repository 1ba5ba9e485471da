"""What was measured on this machine, kept for the next plan: a file below the user's cache."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import segkit
from segkit.data.content import cache_folder
from segkit.errors import SegkitError
from segkit.parts import cores
from segkit.whole_files import write_whole


class Remembered:
    """Figures by a text, of one device with these versions and threads. ``fresh`` forgets them.

    Where the folder cannot be read or written nothing is remembered: a plan needs no disk.
    """

    def __init__(self, device: torch.device, *, fresh: bool = False) -> None:
        self._folder = cache_folder(None) / "speed" / machine(device)
        self._fresh = fresh
        self._now: dict[str, dict[str, float]] = {}
        self.measured = 0

    def get(self, text: str) -> dict[str, float] | None:
        if text in self._now:
            return self._now[text]
        if self._fresh:
            return None
        with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
            found = json.loads(self._path(text).read_text(encoding="utf-8"))
            if found["about"] == text and all(
                isinstance(v, float) and 0 <= v < float("inf") for v in found["figures"].values()
            ):
                self._now[text] = found["figures"]
        return self._now.get(text)

    def put(self, text: str, figures: dict[str, float]) -> None:
        self.measured += 1
        self._now[text] = figures
        data = json.dumps({"about": text, "figures": figures}, indent=1).encode()
        with suppress(OSError, SegkitError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(text), data)

    def _path(self, text: str) -> Path:
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def machine(device: torch.device) -> str:
    """A name for what changes speed: the device, its threads, torch and segkit."""
    facts: list[Any] = [device.type, torch.__version__, segkit.__version__]
    if device.type == "cuda":
        facts += [torch.cuda.get_device_name(device), torch.version.cuda]
    else:
        facts += [torch.get_num_threads(), cores(), torch.backends.cpu.get_cpu_capability()]
        with suppress(OSError):
            facts += [os.uname().machine, _processor()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith("model name")), "")
