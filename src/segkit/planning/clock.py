"""Seconds of work on a device as if nothing else ran there."""

import time
from collections.abc import Callable, Sequence

import torch

# Each work is asked so often at least, and all of them for so long, after once to warm up.
ROUNDS, SECONDS = 3, 0.6


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """As ``seconds_of_each`` of one."""
    return seconds_of_each([work], device)[0]


def seconds_of_each(works: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """The shortest of a few rounds of each, in turns: what else runs meanwhile hits all of them.

    On a CPU it is the time that the calling thread had: it works or spins as long as the others of
    its team do, so that on a machine with something else to do it comes nearest to a quiet one's.
    """
    for work in works:
        work()
    rounds: list[list[float]] = []
    while len(rounds) < ROUNDS or sum(map(sum, rounds)) < SECONDS * len(works):
        rounds.append([_once(work, device) for work in works])
    return [min(one) for one in zip(*rounds, strict=True)]


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
