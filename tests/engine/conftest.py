"""The uninterrupted toy run that every other is compared with, on one thread like all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import toy_training as toy


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads on nine pixels spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("whole") / "run"
    with one_thread():
        toy.train_toy(folder)
    return toy.outcome(folder)
