"""Randomness is counted, not carried.

Every random draw is a function of (seed, purpose, counters): the augmentation of sample *i* in
epoch *e*, the order of epoch *e*, the dropout of step *s*. Nothing depends on workers, ranks or
interruptions, and a resumed run needs no saved generator state.
"""

import zlib

import numpy as np


def _key(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A fresh NumPy generator for (seed, purpose, counters)."""
    return np.random.default_rng(_key(seed, purpose, counters))


def integer(seed: int, purpose: str, *counters: int) -> int:
    """A number in 0..2**63-1 for (seed, purpose, counters): seeds foreign generators (torch's)."""
    return int(_key(seed, purpose, counters).generate_state(1, np.uint64)[0]) >> 1
