"""B10: the tests bite. Each mutant is laid over a copy of segkit and must fail its test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from figures import keep
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
FAILED = 1  # pytest's exit code for failing tests; 2 and above are something else
caught: list[str] = []


@pytest.mark.faults
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_mutant(mutant: Mutant, tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    path = source / "segkit" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, "the mutant no longer fits the file"
    path.write_text(text.replace(mutant.old, mutant.new))
    result = run_test(mutant.test, source)
    assert result.returncode == FAILED, f"survived {mutant.test}\n{result.stdout[-3000:]}"
    caught.append(mutant.name)
    keep("B10", mutants=len(MUTANTS), caught=len(caught))


def run_test(test: str, source: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
    words = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "not long and not gpu"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(ROOT / "tests" / test)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "SEGKIT_FIGURES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
