"""The uninterrupted toy run that every other is compared with."""

from pathlib import Path

import pytest
import toy_training as toy


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("whole") / "run"
    toy.train_toy(folder)
    return toy.outcome(folder)
