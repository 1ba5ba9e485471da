"""One finished tiny table, copied for those tests that hurt it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import config_dir, planned

from segkit.ablation.book import Table
from segkit.ablation.engines.local import in_this_process
from segkit.ablation.jobs import Plan
from segkit.ablation.work import do


@dataclass
class Finished:
    """A plan whose jobs are done in ``runs``."""

    conf: Path
    runs: Path
    tables: list[Table]
    plan: Plan


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``conf`` and the ``runs`` of its table."""
    home = tmp_path_factory.mktemp("table")
    config_dir(home / "conf")
    _, plan = planned(home / "conf", home / "runs")
    for job in plan.jobs:
        done = do(job, command=in_this_process, keep_weights=True, should_stop=lambda: False)
        assert done.state == "done", done
    return home


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Finished:
    runs = tmp_path / "runs"
    shutil.copytree(trained / "runs", runs)
    tables, plan = planned(trained / "conf", runs)
    return Finished(trained / "conf", runs, tables, plan)
