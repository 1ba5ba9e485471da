"""What holds for every test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: see cli.py. The command line sets it for itself.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A shell that starts the tests in the background has SIGINT ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def same_words_are_composed_once() -> Iterator[None]:
    """A tenth of a second of every command that a test runs in this process (once.py)."""
    from once import composed_once

    with pytest.MonkeyPatch.context() as patch:
        composed_once(patch)
        yield


@pytest.fixture(autouse=True)
def no_record_of_weights(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tests load as ImageNet weights is not written into the user's own record."""
    from segkit.models import known_weights

    place: list[Path] = []

    def record() -> Path:
        if not place:
            place.append(tmp_path_factory.mktemp("cache") / "segkit/known-weights.json")
        return place[0]

    monkeypatch.setattr(known_weights, "record", record)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """torch's slow exact kernels, and with them every exact path of segkit's own."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
