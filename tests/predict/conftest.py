"""A network of three steps, and an empty folder to work in."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from once import composed_once, loaded_once  # noqa: E402

from segkit import cli  # noqa: E402

TINY = (
    *("experiment=quickstart", "name=tiny", "dataset.size=33", "dataset.count=8"),
    *("dataset.val.count=2", "augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu"),
    *("schedule.stages.0.steps=2", "schedule.stages.1.steps=1", "log.tensorboard=false"),
    "eval.every=null",
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    assert cli.main(["train", *TINY, f"runs={folder}"]) == 0
    return folder / "tiny"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    loaded_once(monkeypatch)
    composed_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path
