"""The uninterrupted toy run that every other is compared with, on one thread like all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_training as toy


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with toy.one_thread():
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("whole") / "run"
    with toy.one_thread():
        toy.train_toy(folder)
    return toy.outcome(folder)
