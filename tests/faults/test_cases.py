"""Every case of the table, through the seven checks."""

import shutil
from pathlib import Path

import pytest
from cases import Case
from cases_checkpoints import CASES as CHECKPOINTS
from cases_config import CASES as CONFIG
from cases_disk import CASES as DISK
from cases_files import CASES as FILES
from cases_runtime import CASES as RUNTIME
from cases_security import CASES as SECURITY
from sandbox import Sandbox
from seven_checks import check_all_seven, look

CASES = [*CONFIG, *CHECKPOINTS, *DISK, *FILES, *RUNTIME, *SECURITY]
MARKS = {"fast": (), "slow": (pytest.mark.faults,), "long": (pytest.mark.long,)}


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id, marks=MARKS[c.speed]) for c in CASES])
def test_case(case: Case, box: Sandbox, finished_run: Path) -> None:
    if case.needs_run:
        shutil.copytree(finished_run, box.run_folder)
    words = case.prepare(box)
    before = look(box)
    result = box.run(*words, inject=case.inject, fresh=case.fresh)
    check_all_seven(
        box,
        before,
        result,
        code=case.code,
        error=case.error,
        names=case.names,
        seconds=case.seconds,
        status=case.status,
    )
