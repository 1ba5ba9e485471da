"""K14, K17, G9: what a resume may change and what it says, and predictions that are cut short."""

import json
import signal

import pytest
from PIL import Image
from sandbox import TINY, Sandbox, hashes, living
from test_signals_rows import photos

ON = "resume=true"
LINE = "segkit: not bit-exact because "


def stopped(box: Sandbox, *words: str, **how: object) -> None:
    assert box.run(*TINY, *words, inject="terminate_at:2", **how).code == 143


def lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith(LINE)]


@pytest.mark.parametrize(
    "key",
    [
        "threads",
        *(
            pytest.param(key, marks=pytest.mark.faults)
            for key in ("ranks", "torch", "device", "cpu_capability")
        ),
    ],
)
def test_a_resume_elsewhere_says_that_bits_may_differ(box: Sandbox, key: str) -> None:
    """K14: another machine is another ``environment.json``."""
    stopped(box)
    path = box.run_folder / "environment.json"
    environment = json.loads(path.read_text())
    now, environment[key] = environment[key], "other"
    path.write_text(json.dumps(environment))
    result = box.ok(*TINY, ON)
    assert lines(result.err) == [f"{LINE}{key} other -> {now}"]
    assert box.status()["not_bit_exact"] == [f"{key} other -> {now}"]


@pytest.mark.faults
def test_a_resume_at_home_says_nothing_of_bits(box: Sandbox) -> None:
    """K14: and what was told once is kept, for the bits do not come back."""
    stopped(box)
    assert not lines(box.run(*TINY, ON, inject="terminate_at:3").err)
    assert "not_bit_exact" not in box.status()
    # torch counts its threads at the start: a new interpreter.
    other = {"OMP_NUM_THREADS": "2"}
    assert len(lines(box.ok(*TINY, ON, "name=x", fresh=True, env=other).err)) == 1
    assert box.status()["not_bit_exact"] == ["threads 1 -> 2"]


@pytest.mark.parametrize(
    ("word", "said", "allowed"),
    [
        ("schedule.stages.1.steps=3", "schedule.stages.1.steps: 2 -> 3", True),
        *(
            pytest.param(*row, marks=pytest.mark.faults)
            for row in (
                ("schedule.batch=8", "schedule.batch: 4 -> 8", True),
                ("seed=1", "seed: 0 -> 1", True),
                ("+dataset.classes=[ring,disc]", "dataset.classes", False),
            )
        ),
    ],
)
def test_a_resume_may_change_only_what_it_names(
    box: Sandbox, word: str, said: str, allowed: bool
) -> None:
    """G9. Another number of classes is another network: no allowance makes its weights fit."""
    stopped(box)
    before = hashes(box.run_folder)
    result = box.run(*TINY, ON, word)
    assert result.code == 2
    assert result.last_line.startswith("segkit: error[CFG-RESUME-CHANGED]: ")
    assert said in result.last_line
    assert hashes(box.run_folder) == before, "the old run was touched"
    key = word.partition("=")[0].removeprefix("+")
    result = box.run(*TINY, ON, word, f"resume_allow=[{key}]")
    assert result.code == (0 if allowed else 4), result.err
    assert "Traceback" not in result.err


@pytest.mark.faults
@pytest.mark.parametrize("crf", ["false", "true"])
def test_a_killed_prediction_leaves_only_whole_files(trained: Sandbox, crf: str) -> None:
    """K17."""
    photos(trained, 40)
    words = ("predict", "photos", "ckpt=runs/x", "out=found", f"crf={crf}")
    running = trained.start(*words, inject="pause:predict/20/20")
    assert running.wait_for((trained.work / "mark").exists)
    running.kill(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    assert not living(running.pid)
    found = [p for p in (trained.work / "found").rglob("*.png") if not p.name.startswith(".")]
    assert len(found) >= 20
    for path in found:
        Image.open(path).load()
    trained.ok(*words)
    assert len(list((trained.work / "found/labels").glob("*.png"))) == 40
    assert len(list((trained.work / "found/overlay").glob("*.png"))) == 40


@pytest.mark.faults
def test_a_sweep_leaves_no_empty_logs(box: Sandbox) -> None:
    box.ok(*(w for w in TINY if w != "name=x"), "-m", "seed=1,2", "schedule.stages.0.steps=1")
    assert not list((box.work / "runs").rglob("*.log"))
