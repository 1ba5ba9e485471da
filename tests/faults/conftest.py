"""One fork server for all, one sandbox for each test, and two finished runs to start from."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fork_server import ForkServer
from sandbox import TINY, Sandbox


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    found = ForkServer()
    yield found
    found.close()


@pytest.fixture
def box(tmp_path: Path, server: ForkServer) -> Sandbox:
    """An empty sandbox."""
    return Sandbox(tmp_path / "box", server)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Path:
    """A run folder of ``TINY``, trained to its end. Copy it, do not change it."""
    box = Sandbox(tmp_path_factory.mktemp("finished") / "box", server)
    box.ok(*TINY)
    return box.run_folder


@pytest.fixture
def trained(box: Sandbox, finished_run: Path) -> Sandbox:
    """A sandbox with a finished run in ``run_folder``."""
    shutil.copytree(finished_run, box.run_folder)
    return box
