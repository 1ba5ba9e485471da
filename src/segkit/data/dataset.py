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
