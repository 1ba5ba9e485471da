"""An installed wheel does what the checkout does: conf/ ships inside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, as an installer leaves it (a pure wheel is a zip)."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = out.glob("segkit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_every_config(site: Path) -> None:
    shipped = {p.relative_to(site / "segkit" / "conf") for p in site.rglob("conf/**/*.yaml")}
    assert shipped == {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")}
    assert not (site / "tests").exists()


def test_the_wheel_holds_the_page(site: Path) -> None:
    place = "segkit/report/templates"
    shipped = {p.name for p in (site / place).iterdir()}
    assert shipped == {p.name for p in (ROOT / "src" / place).iterdir()} >= {"report.html.j2"}


def test_an_installed_wheel_runs_the_quickstart(site: Path, tmp_path: Path) -> None:
    tiny = ["dataset.size=33", "dataset.count=8", "dataset.val.count=2", "augment.crop=33"]
    tiny += ["schedule.batch=4", "schedule.stages.0.steps=2", "schedule.stages.1.steps=1"]
    for words in (
        ["train", "experiment=quickstart", "workers=0", *tiny],
        ["eval", "os=8", "ms=true", "flip=true", "crf=true", "workers=0"],
    ):
        done = subprocess.run(
            # -P: not from the working directory; PYTHONPATH stands before the checkout's own.
            [sys.executable, "-P", "-m", "segkit", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("mIoU ")
    assert list(tmp_path.glob("runs/*/scores/*/score.json"))
    assert list(tmp_path.glob("runs/*/scores/*/report.html"))
