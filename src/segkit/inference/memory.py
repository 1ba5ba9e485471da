"""What the predictor does where the device's memory runs short: less at a time, the same result."""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from segkit.errors import EnvironmentFault
from segkit.limits import is_memory

Result = TypeVar("Result")

# One band of scores. A processor is fastest where a band stays in its cache; a GPU has no such
# cache, and wants few large kernels.
BAND_BYTES = {"cpu": 2**20, "cuda": 2**28}
SMALL_BAND_BYTES = 2**24


def say(note: str) -> None:
    print(f"segkit: note: {note}", file=sys.stderr, flush=True)


class Memory:
    """How much is done at a time: ``batch`` images (or windows), mirrored ones with them or apart,
    bands of ``band_bytes``, scores on the device or the host.

    Each time memory runs short one of these is lowered, told once, and stays so. No step changes
    what is computed, only in which order; sums may round differently in the last bit.
    """

    def __init__(self, device: torch.device, batch: int = 1) -> None:
        self.device, self.batch = device, batch
        self.flip_apart = self.on_host = False
        self.band_bytes = BAND_BYTES.get(device.type, BAND_BYTES["cuda"])

    def attempt(
        self, work: Callable[[], Result], *, used: int, flips: bool, about: str, fix: str
    ) -> Result | None:
        """What ``work`` gives; None if memory ran out and less is to be tried.

        ``used`` images or windows at a time are in the work, ``flips`` says whether mirrored ones
        are. Raises EnvironmentFault MEMORY, with ``about`` and ``fix``, where nothing is left.
        """
        try:
            return work()
        except Exception as fault:
            if not is_memory(fault):
                raise
            words = (str(fault).splitlines() or [type(fault).__name__])[0][:200]
        # Past the except clause: the traceback would keep all that the failed work had made.
        if not self._lowered(used, flips):
            what = f"out of memory on {about}, with all that can be done apart ({words})"
            raise EnvironmentFault("MEMORY", str(self.device), what, fix)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _lowered(self, used: int, flips: bool) -> bool:
        on_cpu = self.device.type == "cpu"
        if used > 1:
            self.batch = used // 2
            done = f"batches of {self.batch} instead of {used}"
        elif flips and not self.flip_apart:
            self.flip_apart = True
            done = "mirrored images go through the network apart"
        elif not on_cpu and self.band_bytes > SMALL_BAND_BYTES:
            self.band_bytes = SMALL_BAND_BYTES
            done = f"results are made in bands of {SMALL_BAND_BYTES // 2**20} MiB"
        elif not on_cpu and not self.on_host:
            self.on_host, self.band_bytes = True, BAND_BYTES["cpu"]
            done = "scores are kept, and results made, on the host"
        else:
            return False
        say(f"memory ran short on {self.device}: {done}; results stay the same")
        return True
