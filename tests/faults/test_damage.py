"""Every damaged checkpoint is noticed by name, and the newest good one takes over (C2-C4, B3)."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import figures
import pytest
from cases_checkpoints import AVERAGE, MANIFEST, MODEL, OPTIMIZER, flip, with_average
from sandbox import TINY, Sandbox, outcome

from segkit.engine import checkpoint
from segkit.errors import CheckpointError, SegkitError

FILES = (MODEL, OPTIMIZER, MANIFEST)


def test_going_on_behind_a_damaged_one(box: Sandbox, finished_run: Path) -> None:
    """C2: the newest good one is taken, and it is said which file was passed over."""
    # In the foreground: killed at step 3, a run has that step's checkpoint.
    assert box.run(*TINY, "checkpoint.background=false", inject="kill_at:3").code == -9
    flip(MODEL, -5)(checkpoint.steps(box.run_folder / "checkpoints")[0])
    result = box.ok(*TINY, "resume=true")
    assert "skipped: runs/x/checkpoints/step-00000003/model.safetensors" in result.err
    assert "resuming at step 2 of 6" in result.err
    assert outcome(box.run_folder) == outcome(finished_run)


def noticed(point: Path, run_id: str, name: str = "") -> bool:
    """Whether a damaged checkpoint is refused by its path, and passed over by a resume that says
    so; ``name`` is the file that must be named, or any."""
    told: list[SegkitError] = []
    taken = checkpoint.newest(point.parent.parent, told.append, run_id=run_id)
    if taken == point or not told or name not in told[0].where or str(point) not in told[0].where:
        return False
    try:
        checkpoint.load(point, run_id=run_id)
    except CheckpointError as error:
        return error.where == told[0].where
    return False


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["cuts", "flips"])
def test_two_hundred_damages(trained: Sandbox, kind: str) -> None:
    """C2, C3: any file, any place."""
    point = checkpoint.steps(trained.run_folder / "checkpoints")[0]
    run_id = checkpoint.load(point).run
    with_average(point)
    files = (*FILES, AVERAGE)
    whole = {name: (point / name).read_bytes() for name in files}
    draw = random.Random(kind)
    found = 0
    for name in itertools.islice(itertools.cycle(files), 200):
        data = bytearray(whole[name])
        if kind == "cuts":
            del data[draw.randrange(len(data)) :]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (point / name).write_bytes(data)
        found += noticed(point, run_id, name)
        (point / name).write_bytes(whole[name])
    figures.keep("B3", **{kind: 200, f"{kind}_noticed": found})
    assert found == 200


def swaps(point: Path, other: Path) -> Iterator[Callable[[], None]]:
    """Sound files that do not belong together: of other steps, of another run, in wrong places."""
    donors = [*checkpoint.steps(point.parent)[1:], other]
    for donor, count in itertools.product(donors, (1, 2)):
        for names in itertools.combinations(FILES, count):
            yield lambda d=donor, n=names: [shutil.copy(d / one, point / one) for one in n]
    yield lambda: [shutil.copy(other / one, point / one) for one in FILES]

    def payloads() -> None:
        (point / MODEL).rename(point / "x")
        (point / OPTIMIZER).rename(point / MODEL)
        (point / "x").rename(point / OPTIMIZER)

    yield payloads


@pytest.mark.faults
def test_twenty_swaps(trained: Sandbox) -> None:
    """C4."""
    trained.ok(*TINY, "name=other", "seed=1")
    point = checkpoint.steps(trained.run_folder / "checkpoints")[0]
    other = trained.work / "runs/other/checkpoints" / point.name
    run_id = checkpoint.load(point).run
    kept = trained.root / "kept"
    shutil.copytree(point, kept)
    results = []
    for swap in swaps(point, other):
        swap()
        results.append(noticed(point, run_id))
        shutil.rmtree(point)
        shutil.copytree(kept, point)
    figures.keep("B3", swaps=len(results), swaps_noticed=sum(results))
    assert len(results) >= 20
    assert all(results)
