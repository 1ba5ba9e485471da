"""Seconds of work on a device as if nothing else ran there."""

import time
from collections.abc import Callable

import torch

# A point is asked so often at least, and goes on for so long, after once to warm up.
ROUNDS, SECONDS = 2, 0.5
# Above this the warm-up counts, too: kernels are chosen and written in a fraction of it.
LONG = 4.0


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of a few rounds.

    On a CPU it is the time that the calling thread had: it works or spins as long as the others of
    its team do, so that this is a quiet machine's clock on a busy one, too.
    """
    found = [_once(work, device)]
    if found[0] < LONG:
        found = [_once(work, device)]
        while len(found) < ROUNDS or sum(found) < SECONDS:
            found.append(_once(work, device))
    return min(found)


def _once(work: Callable[[], object], device: torch.device) -> float:
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.thread_time
    if cuda:
        torch.cuda.synchronize(device)
    began = clock()
    work()
    if cuda:
        torch.cuda.synchronize(device)
    return clock() - began
