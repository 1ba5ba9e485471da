"""Planned stops and resumes of the real command end in the same bits (rows K4, K5, K8, K12, K15).

The engine's own tests stop at every step of a toy (K3), several times (K4), check the rate of every
step (K9) and batch norm's modes (K12); test_kills.py has bf16 (K13).
"""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sandbox import TINY, Sandbox, hashes, outcome

ON = "resume=true"


def stop(box: Sandbox, step: int, *words: str) -> None:
    """SIGTERM comes before the update, which is finished."""
    assert box.run(*TINY, *words, inject=f"terminate_at:{step - 1}").code == 143
    assert box.status()["step"] == step


def test_workers_change_over_resumes(box: Sandbox, finished_run: Path) -> None:
    """K5: the same samples in the same order, whoever reads them (metrics.jsonl tells)."""
    stop(box, 1, "workers=0")
    stop(box, 3, "workers=2", ON)
    box.ok(*TINY, "workers=1", ON)
    assert outcome(box.run_folder) == outcome(finished_run)


def test_twice_from_one_checkpoint(box: Sandbox, finished_run: Path) -> None:
    """K4: going on changes nothing that going on again would see."""
    stop(box, 3)
    shutil.copytree(box.run_folder, box.root / "copy")
    for _ in range(2):
        box.ok(*TINY, ON)
        assert outcome(box.run_folder) == outcome(finished_run)
        shutil.rmtree(box.run_folder)
        shutil.copytree(box.root / "copy", box.run_folder)


def test_after_the_end_nothing_is_rewritten(trained: Sandbox) -> None:
    """K4."""
    before = hashes(trained.run_folder)
    result = trained.ok(*TINY, ON)
    assert "already complete (6 steps)" in result.err
    after = hashes(trained.run_folder)
    assert {name for name in after if after[name] != before.get(name)} <= {".lock"}


def test_killed_between_the_parts_of_an_update(box: Sandbox) -> None:
    """K8: no half of a gradient survives."""
    parts = (*TINY, "schedule.accumulate=2")
    box.ok(*parts, "name=whole")
    assert box.run(*parts, inject="kill_in_backward:7").code == -9
    assert box.steps_logged() == 3
    box.ok(*parts, ON)
    assert outcome(box.run_folder) == outcome(box.work / "runs/whole")


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["frozen", "frozen_stats"])
def test_frozen_batch_norm_stays_frozen(box: Sandbox, mode: str) -> None:
    """K12: over validations, a stage and a resume; only ``frozen_stats`` trains the affine part."""
    words = (*TINY, f"schedule.stages.0.bn={mode}", f"schedule.stages.1.bn={mode}",
             "checkpoint.keep=9")  # fmt: skip
    assert box.run(*words, inject="terminate_at:3").code == 143
    box.ok(*words, ON)
    first, last = (
        load_file(box.run_folder / f"checkpoints/step-{step:08d}/model.safetensors")
        for step in (0, 6)
    )
    changed = {name for name in first if not first[name].equal(last[name])}
    norms = {name.rpartition(".")[0] for name in first if name.endswith("running_mean")}
    assert changed, "nothing was trained"
    assert not [name for name in changed if name.endswith(("running_mean", "running_var"))]
    affine = {name for name in changed if name.rpartition(".")[0] in norms}
    assert bool(affine) == (mode == "frozen_stats")


@pytest.mark.faults
def test_no_hidden_inputs(box: Sandbox) -> None:
    """K15: hash seed, working directory and home differ; every byte of the results is equal."""
    other = Sandbox(box.root.parent / "another place", box.server)
    for place, seed in ((box, "0"), (other, "1")):
        place.ok(*TINY, fresh=True, env={"PYTHONHASHSEED": seed})
    found, twin = (hashes(place.run_folder) for place in (box, other))
    for name in ("status.json", "timing.jsonl", ".lock"):
        assert found.pop(name, "")
        twin.pop(name)
    assert found == twin


@pytest.mark.faults
def test_a_run_folder_may_be_moved(box: Sandbox, finished_run: Path) -> None:
    """K15: no path of the place where a run was made decides where it can go on."""
    stop(box, 3)
    there = box.work / "elsewhere/x"
    there.parent.mkdir()
    shutil.move(box.run_folder, there)
    box.ok(*TINY, ON, f"runs={there.parent}")
    assert outcome(there) == outcome(finished_run)
