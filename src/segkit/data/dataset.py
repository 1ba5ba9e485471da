"""What every data set offers, for whom torch would be too heavy to import."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from segkit.data.labels import LabelSet


class Dataset(Protocol):
    """What a data set offers."""

    labels: LabelSet
    ids: Sequence[str] | np.ndarray

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB uint8 [H,W,3] and labels uint8 or uint16 [H,W], range-checked."""


def instances_of(dataset: Dataset, index: int) -> np.ndarray | None:
    """The instance map of a sample, integers [H,W]: ``class * 1000 + number``, negative outside.

    A data set that has such maps offers ``instances(index)``; None where there is none.
    """
    instances = getattr(dataset, "instances", None)
    found: np.ndarray | None = instances(index) if instances is not None else None
    return found
