"""P rows: runs on several processes, and what becomes of them when one does not play along."""

import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from figures import keep
from many import all_well, free_port, launched, together, torchrun
from safetensors.torch import load_file
from sandbox import TINY, Sandbox, living, outcome, working_in
from torch import Tensor

LAST = re.compile(r"^segkit: error\[([A-Z0-9-]+)\]: ")
# Equal on one rank and on two but for rounding: no statistics of a rank's own, no dropout.
FROZEN = ("schedule.stages.0.bn=frozen_stats", "model.dropout=0")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def order(run: Path) -> list[tuple[object, object]]:
    """Which samples every step saw, as the checksum of their ids in order."""
    return [(row["step"], row["samples"]) for row in metrics(run) if "samples" in row]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run) if "loss" in row]


def scored(run: Path) -> set[int]:
    """How many images the validations counted."""
    return {row["validation"]["images"] for row in metrics(run) if "validation" in row}


def weights(run: Path, file: str = "model.safetensors") -> dict[str, Tensor]:
    last = max((run / "checkpoints").glob("step-*"))
    return dict(load_file(last / file))


# -- well ----------------------------------------------------------------------------------------


def test_two_ranks_train_what_one_trains(box: Sandbox) -> None:
    """P9: the same samples in every step, the same weights and average but for rounding."""
    words = (*TINY, *FROZEN, "schedule.ema=0.9")
    box.ok(*words)
    one = box.run_folder.rename(box.work / "runs/one")
    all_well(box, 2, *words)
    assert order(one) == order(box.run_folder)
    for file in ("model.safetensors", "average.safetensors"):
        mine, theirs = weights(one, file), weights(box.run_folder, file)
        for name, tensor in mine.items():
            far = (tensor - theirs[name]).abs().max().item()
            assert far <= 1e-5 * max(tensor.abs().max().item(), 1e-3), name
    losses = [
        [row["loss"] for row in metrics(run) if "loss" in row] for run in (one, box.run_folder)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.faults
def test_accumulation_and_ranks_share_the_batch(box: Sandbox) -> None:
    """One rank in four parts, two ranks in two: the global batch is the schedule's."""
    box.ok(*TINY, *FROZEN, "schedule.accumulate=4")
    one = box.run_folder.rename(box.work / "runs/one")
    all_well(box, 2, *TINY, *FROZEN, "schedule.accumulate=2", "workers=2")
    assert order(one) == order(box.run_folder)
    losses = [
        [row["loss"] for row in metrics(run) if "loss" in row] for run in (one, box.run_folder)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.faults
def test_rank_counts_may_change_over_resumes(box: Sandbox) -> None:
    """P10: 2 -> 1 -> 2 ranks see the samples in the same order; K14's line says what is lost."""
    box.ok(*TINY)
    whole = order(box.run_folder)
    box.run_folder.rename(box.work / "runs/whole")
    words = (*TINY, "resume=true")
    for ranks, step in ((2, 2), (1, 4), (2, None)):
        fault = f"terminate_at:{step - 1}" if step and step <= 4 else ""
        ends = (
            [r.wait() for r in together(box, ranks, *words, inject=fault)]
            if ranks > 1
            else [box.run(*words, inject=fault)]
        )
        assert {end.code for end in ends} == ({143} if fault else {0}), ends[0].err
        if ranks == 1:
            assert "not bit-exact because" in ends[0].err
            assert "ranks 2 -> 1" in ends[0].err
    assert order(box.run_folder) == whole


@pytest.mark.faults
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_repeat_themselves_bit_by_bit(box: Sandbox, size: int) -> None:
    """Also when they are stopped in the middle; their average as well."""
    words = (*TINY, "schedule.batch=6", "schedule.ema=0.9", "resume=true")
    all_well(box, size, *words)
    whole = outcome(box.run_folder)
    box.run_folder.rename(box.work / "runs/whole")
    ends = [rank.wait() for rank in together(box, size, *words, inject="terminate_at:2@1")]
    assert {end.code for end in ends} == {143}
    all_well(box, size, *words)
    assert outcome(box.run_folder) == whole


@pytest.mark.parametrize("count", ["1", "7"])
def test_odd_numbers_of_images(box: Sandbox, count: str) -> None:
    """P5: fewer images than ranks, and a number that does not divide: no hang, exact scores."""
    words = ("dataset.count=7", f"dataset.val.count={count}", "schedule.batch=2")
    bn = ("schedule.stages.0.bn=frozen_stats", "model.dropout=0")
    all_well(box, 2, *TINY, *words, *bn)
    counted = [
        row["validation"]["images"] for row in metrics(box.run_folder) if "validation" in row
    ]  # type: ignore[index]
    assert set(counted) == {int(count)}


@pytest.mark.parametrize(
    "words",
    [
        (),
        pytest.param(("ms=true", "flip=true"), marks=pytest.mark.faults),
        ("crf=true", "eval.limit=3"),
    ],
)
def test_evaluation_counts_every_pixel_once(trained: Sandbox, words: tuple[str, ...]) -> None:
    """B8, E1: 1, 2 and 3 processes give the same integers."""
    scores = []
    more = ("dataset.val.count=7", "eval.pictures=3", "eval.save_predictions=true")
    for size in (1, 2, 3):
        out = trained.work / f"out{size}"
        typed = ("eval", "ckpt=runs/x", f"out={out}", *more, *words)
        ends = all_well(trained, size, *typed) if size > 1 else [trained.ok(*typed)]
        scores.append(json.loads((out / "score.json").read_text()))
        assert "mIoU" in ends[0].out
        assert not any(end.out for end in ends[1:]), "one line, from one process"
        assert len(list((out / "pictures").rglob("*.png"))) == 3
        assert len(list((out / "predictions").rglob("*.png"))) == scores[-1]["images"]
    matrices = [score["confusion"] for score in scores]
    assert matrices[0] == matrices[1] == matrices[2]
    assert len({score["miou"] for score in scores}) == 1
    keep("B8", differing_cells=0, processes=[1, 2, 3])


# -- not well: forked ranks ------------------------------------------------------------------------


def ends_with(box: Sandbox, code: int, error: str, named: str, *words: str, **how: str) -> float:
    """Two ranks that must all end with ``code`` and rank 0's last line; seconds until the last."""
    began = time.monotonic()
    ends = [rank.wait(60) for rank in together(box, 2, *TINY, *words, **how)]  # type: ignore[arg-type]
    seconds = time.monotonic() - began
    said = "\n---\n".join(end.err for end in ends)
    assert {end.code for end in ends if end.code != -signal.SIGKILL} == {code}, said
    match = LAST.match(ends[0].last_line)
    assert match, said
    assert match[1] == error, said
    assert named in ends[0].last_line, said
    assert "Traceback" not in said
    assert not any(living(end.pid) for end in ends), "an orphan"
    return seconds


def test_the_bad_image_is_the_headline(box: Sandbox) -> None:
    """P2: not the other rank's lost connection."""
    ends_with(box, 3, "DATA-UNREADABLE", "broken.png", inject="bad_image_at:2@1")
    found = box.status()
    assert (found["code"], found["error_id"]) == (3, "DATA-UNREADABLE")


def test_a_hanging_rank_is_named(box: Sandbox) -> None:
    """P3: out soon after the timeout, and the one named is the one that did not arrive."""
    seconds = ends_with(
        box, 8, "DIST-PEER-HUNG", "rank 1: ", "rank_timeout=3", inject="hang_at:2@1"
    )
    assert seconds < 3 + 15
    assert box.status()["error_id"] == "DIST-PEER-HUNG"


@pytest.mark.faults
def test_the_one_that_hangs_in_its_forward_pass_is_named(box: Sandbox) -> None:
    """The other waits for it in DDP's backward, where both look idle."""
    ends_with(box, 8, "DIST-PEER-HUNG", "rank 1: ", "rank_timeout=3",
              inject="hang_in_forward_at:2@1")  # fmt: skip
    assert box.status()["error_id"] == "DIST-PEER-HUNG"


@pytest.mark.faults
def test_a_limit_of_one_rank_is_the_fault_of_all(box: Sandbox) -> None:
    ends_with(box, 6, "ENV-MEMORY", "out of memory", inject="no_memory_at:2@1")
    assert box.status()["code"] == 6


@pytest.mark.faults
def test_a_long_last_save_is_waited_for(box: Sandbox) -> None:
    """The others have nothing left to do; that is no reason to think them dead."""
    fault = "slow_save:8,terminate_at:2@1"
    ends = [r.wait(60) for r in together(box, 2, *TINY, "rank_timeout=3", inject=fault)]
    assert [end.code for end in ends] == [143, 143], ends[0].err
    assert box.status()["last_checkpoint"] == "step-00000003"


@pytest.mark.faults
def test_long_images_are_no_hang(box: Sandbox) -> None:
    words = (*TINY, "rank_timeout=2", "eval.every=1000")
    ends = [r.wait(90) for r in together(box, 2, *words, inject="slow_images:6")]
    assert [end.code for end in ends] == [0, 0], ends[0].err


@pytest.mark.faults
def test_a_suspended_job_goes_on(box: Sandbox) -> None:
    """Stopped and continued as a scheduler does it, not all in the same moment."""
    words = (*TINY, "schedule.stages.0.steps=300", "eval.every=null", "rank_timeout=4")
    running = together(box, 2, *words)
    assert running[0].wait_for(lambda: after_step(box, 3))
    for rank in running:
        rank.kill(signal.SIGSTOP)
    time.sleep(7)
    for rank in running:
        rank.kill(signal.SIGCONT)
        time.sleep(0.4)
    assert [rank.wait(60).code for rank in running] == [0, 0]


def test_an_evaluation_by_two_protocols_is_refused(trained: Sandbox) -> None:
    words = ("eval", "ckpt=runs/x")
    ends = [r.wait(60) for r in together(trained, 2, *words, inject="other_value:flip=true@1")]
    assert [end.code for end in ends] == [8, 8]
    assert "flip: False -> True" in ends[0].last_line


@pytest.mark.faults
def test_a_stopped_process_does_not_stop_the_others_for_ever(box: Sandbox) -> None:
    ends_with(box, 8, "DIST-PEER-DIED", "rank 1: ", "rank_timeout=3", inject="freeze_at:2@1")


@pytest.mark.parametrize(
    ("key", "value"), [("seed", "1"), ("dataset.count", "9"), ("model.dropout", "0.2")]
)
def test_ranks_that_disagree_do_not_start(box: Sandbox, key: str, value: str) -> None:
    """P6: refused at the start, and the difference is named."""
    ends_with(box, 8, "DIST-DISAGREE", key.split(".")[0] if key != "dataset.count" else "samples",
              inject=f"other_value:{key}={value}@1")  # fmt: skip
    assert not box.run_folder.exists()


def test_a_nan_on_one_rank_stops_all_at_the_same_step(box: Sandbox) -> None:
    """R17: before the update, on both ranks."""
    ends_with(box, 5, "NUM-NON-FINITE", "step 3", inject="nan_gradient_at:2@1")
    assert [step for step, _ in order(box.run_folder)] == [1, 2]


def test_a_batch_that_ranks_cannot_share_is_refused(box: Sandbox) -> None:
    ends_with(box, 2, "CFG-RANGE", "devices", "schedule.batch=3")
    assert not box.run_folder.exists()


@pytest.mark.faults
def test_nobody_else_comes(box: Sandbox) -> None:
    """P11: the port belongs to another program: an error within its time, not a wait for ever."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        env = {"MASTER_PORT": str(other.getsockname()[1])}
        ends = [rank.wait(60) for rank in together(box, 2, *TINY, env=env, inject="join_in:5")]
    assert {end.code for end in ends} == {8}
    assert all(end.last_line.startswith("segkit: error[DIST-JOIN]: ") for end in ends)


# -- through torch's launcher, as a user starts it -----------------------------------------------


def after_step(box: Sandbox, step: int) -> bool:
    return box.steps_logged() >= step


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_run_and_the_resumed_run_is_whole(box: Sandbox, victim: int) -> None:
    """P1."""
    words = (*TINY, "resume=true", "workers=1")
    launched(box, *words).wait()
    whole = outcome(box.run_folder)
    box.run_folder.rename(box.work / "runs/whole")

    killed = launched(box, *words, inject=f"kill_at:3@{victim}")
    assert killed.wait_for(lambda: after_step(box, 3))
    began = time.monotonic()
    end = killed.wait(60)
    seconds = time.monotonic() - began
    assert seconds < 15
    assert end.code == 8, end.err
    assert end.last_line.startswith(f"segkit: error[DIST-PEER-DIED]: rank {victim}: ")
    assert box.status()["error_id"] == "DIST-PEER-DIED"
    assert not orphans(box), "a rank lives on"
    end = launched(box, *words).wait()
    assert end.code == 0, end.err
    assert outcome(box.run_folder) == whole
    keep("B5", **{f"killed_rank_{victim}_seconds": round(seconds, 1)})


@pytest.mark.faults
def test_a_hanging_leader_ends_the_run(box: Sandbox) -> None:
    running = launched(box, *TINY, "rank_timeout=5", inject="hang_at:3@0")
    assert running.wait_for(lambda: after_step(box, 3))
    began = time.monotonic()
    end = running.wait(60)
    seconds = time.monotonic() - began
    assert end.code == 8, end.err
    assert end.last_line.startswith("segkit: error[DIST-PEER-HUNG]: rank 0: ")
    assert seconds < 5 + 15
    assert box.status()["error_id"] == "DIST-PEER-HUNG"
    assert not orphans(box)
    keep("B5", hung_rank_seconds=round(seconds, 1))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_to_the_launcher_saves_once(
    box: Sandbox, number: signal.Signals, code: int
) -> None:
    """P7."""
    words = (*TINY, "schedule.stages.0.steps=2000", "checkpoint.every=100000", "eval.every=null")
    running = launched(box, *words)
    assert running.wait_for(lambda: after_step(box, 5))
    running.kill(number)
    end = running.wait(20)
    assert end.code == code, end.err
    assert end.last_line.startswith("segkit: error[STOP-SIG")
    found = box.status()
    assert found["code"] == code
    assert found["last_checkpoint"] == f"step-{found['step']:08d}"
    assert not orphans(box)


@pytest.mark.faults
def test_a_signal_to_one_rank_stops_all(box: Sandbox) -> None:
    running = launched(box, *TINY, inject="terminate_at:3@1")
    end = running.wait(60)
    assert end.code == 143, end.err
    assert box.status()["state"] == "preempted"
    assert not orphans(box)


@pytest.mark.faults
def test_a_killed_launcher_leaves_no_orphan(box: Sandbox) -> None:
    words = (*TINY, "schedule.stages.0.steps=2000", "eval.every=null")
    running = launched(box, *words)
    assert running.wait_for(lambda: after_step(box, 5))
    running.kill(signal.SIGKILL)
    running.wait(5)
    assert not orphans(box, 20)


@pytest.mark.faults
def test_a_launcher_killed_during_imports_leaves_no_orphan(box: Sandbox) -> None:
    running = launched(box, *TINY, "schedule.stages.0.steps=2000", "eval.every=null")
    assert running.wait_for(lambda: len(working_in(box.work)) == 3)  # it, and its ranks
    running.kill(signal.SIGKILL)
    running.wait(5)
    assert not orphans(box, 20)


@pytest.mark.faults
def test_a_signal_ends_a_sweep_of_launched_jobs(box: Sandbox) -> None:
    words = (*TINY, "-m", "name=x,y", "schedule.stages.0.steps=2000", "eval.every=null")
    running = launched(box, *words)
    assert running.wait_for(lambda: after_step(box, 3))
    running.kill(signal.SIGINT)
    end = running.wait(30)
    assert end.code == 130, end.err
    assert not (box.work / "runs/y").exists()
    assert not orphans(box)


@pytest.mark.faults
def test_two_signals_lose_no_save(box: Sandbox) -> None:
    running = launched(box, *TINY, "schedule.stages.0.steps=2000", "eval.every=null")
    assert running.wait_for(lambda: after_step(box, 5))
    running.kill(signal.SIGINT)
    time.sleep(0.5)
    if running.poll() is None:
        running.kill(signal.SIGINT)
    end = running.wait(30)
    assert end.code == 130, end.err
    assert (box.run_folder / "checkpoints" / str(box.status()["last_checkpoint"])).is_dir()
    assert not orphans(box)


@pytest.mark.faults
def test_plain_torchrun(box: Sandbox) -> None:
    """The launcher flattens exit codes to 1; status.json and its own summary carry the cause."""
    end = torchrun(box, *TINY).wait()
    assert end.code == 0, end.err
    whole = outcome(box.run_folder)
    box.run_folder.rename(box.work / "runs/whole")
    end = torchrun(box, *TINY, inject="bad_image_at:2@1").wait(60)
    assert end.code == 1
    assert "segkit: error[DATA-UNREADABLE]" in end.err
    assert box.status()["code"] == 3
    assert not orphans(box)
    # Its own restarts go on where the run stood.
    again = torchrun(
        box, *TINY, options=["--standalone", "--max-restarts=1"],
        inject="kill_at_first_try:3@1",
    ).wait()  # fmt: skip
    assert again.code == 0, again.err
    assert outcome(box.run_folder) == whole


@pytest.mark.faults
def test_two_launchers_make_one_job(box: Sandbox) -> None:
    """What several machines do, on one: two launchers that meet at an address."""
    endpoint = f"127.0.0.1:{free_port()}"
    options = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=job"]
    words = (*TINY, "schedule.batch=8")
    nodes = [torchrun(box, *words, options=[*options, "--local-addr=127.0.0.1"]) for _ in range(2)]
    ends = [node.wait(180) for node in nodes]
    assert [end.code for end in ends] == [0, 0], "\n".join(end.err for end in ends)
    recorded = json.loads((box.run_folder / "environment.json").read_text())
    assert recorded["ranks"] == 4
    assert [step for step, _ in order(box.run_folder)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.faults
def test_two_jobs_at_once(box: Sandbox) -> None:
    """P11: each takes a free port of its own."""
    running = [launched(box, *TINY, f"name={name}") for name in ("y", "z")]
    assert [r.wait().code for r in running] == [0, 0]


def orphans(box: Sandbox, seconds: float = 5.0) -> list[int]:
    """Living processes that work in the sandbox; its ranks have sessions of their own."""
    end = time.monotonic() + seconds
    while (found := working_in(box.work)) and time.monotonic() < end:
        time.sleep(0.05)
    return found
