"""A choice of a data set's samples, which is a data set again."""

from collections.abc import Sequence

import numpy as np

from segkit.data.dataset import Dataset, instances_of


class Chosen:
    """The samples ``indices`` of a data set, in this order; one may come several times."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray) -> None:
        self.labels, self._dataset = dataset.labels, dataset
        self._indices = np.asarray(indices, dtype=np.int64)
        self.ids: Sequence[str] | np.ndarray = np.asarray(dataset.ids)[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._dataset.read(int(self._indices[index]))

    def instances(self, index: int) -> np.ndarray | None:
        return instances_of(self._dataset, int(self._indices[index]))
