"""Truths and predictions for the tests of what is counted."""

from dataclasses import dataclass

import numpy as np
import torch

VOID = 255


@dataclass(frozen=True)
class Sample:
    """What a counter sees of a sample of the evaluation."""

    label: np.ndarray
    index: int = 0
    id: str = "a"


def blocks(shape: tuple[int, int], values: list[int], seed: int, side: int = 5) -> np.ndarray:
    """Squares of random values, as uint8 [H, W]: pictures with areas and borders."""
    draw = np.random.default_rng(seed)
    rows, columns = (-(-length // side) for length in shape)
    coarse = draw.choice(np.array(values, np.uint8), (rows, columns))
    return coarse.repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]].copy()


def counted(counter: object, truth: np.ndarray, found: np.ndarray) -> torch.Tensor:
    """The counts of ``counter`` after one image."""
    counter.update(Sample(truth), torch.from_numpy(found.astype(np.int64)))
    return counter.counts()
