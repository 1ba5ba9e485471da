"""The run folder: one writer, nothing overwritten, nothing re-created."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import toy_training as toy

from segkit.engine.loop import train
from segkit.engine.record import read_status
from segkit.engine.signals import Stop
from segkit.errors import CheckpointError, ConfigError, EnvironmentFault
from segkit.whole_files import clean, write_whole


def test_a_new_run_writes_what_it_was_given(tmp_path: Path) -> None:
    with toy.open_run(tmp_path / "a" / "run", config_text="x: é\n") as run:
        assert not run.resumed
    assert (run.folder / "config.yaml").read_text() == "x: é\n"
    assert "torch" in json.loads((run.folder / "environment.json").read_text())
    assert (run.folder / "logs").is_dir()


def test_a_used_folder_without_resume_is_refused_untouched(tmp_path: Path) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 4)])
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="resume=true") as caught:
        toy.open_run(tmp_path / "run")
    assert caught.value.id == "CFG-RUN-EXISTS"
    assert "name=" in str(caught.value)
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    before.pop(tmp_path / "run/.lock"), after.pop(tmp_path / "run/.lock")
    assert after == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError):
        toy.open_run(tmp_path, resume=resume)
    assert (tmp_path / "thesis.tex").exists()
    assert not (tmp_path / "config.yaml").exists()


def test_a_run_killed_while_it_was_created_starts_afresh(tmp_path: Path) -> None:
    with toy.open_run(tmp_path / "run"):
        pass
    (tmp_path / "run/run.json").unlink()
    (tmp_path / "run/.run.json.abc.tmp").write_text("{")
    said: list[str] = []
    with toy.open_run(tmp_path / "run", resume=True, notice=said.append) as run:
        assert not run.resumed
    assert "fresh start" in said[0]
    assert not (tmp_path / "run/.run.json.abc.tmp").exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]"])
def test_a_lost_run_id_is_named(tmp_path: Path, content: bytes | None) -> None:
    toy.train_toy(tmp_path / "run", stages=[toy.plan(0, 4)])
    (tmp_path / "run/run.json").unlink()
    if content is not None:
        (tmp_path / "run/run.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        toy.open_run(tmp_path / "run", resume=True)


def test_a_second_process_is_refused_by_pid_and_host(tmp_path: Path) -> None:
    """C10, also while the first has forked loader workers."""
    read, write = os.pipe()
    first = os.fork()
    if not first:
        with toy.open_run(tmp_path / "run"):
            os.write(write, b"x")
            signal.pause()
        os._exit(0)
    try:
        os.read(read, 1)
        with pytest.raises(EnvironmentFault) as caught:
            toy.open_run(tmp_path / "run", resume=True)
        assert caught.value.id == "ENV-RUN-LOCKED"
        assert str(first) in str(caught.value)
        assert os.uname().nodename in str(caught.value)
    finally:
        os.kill(first, 9)
        os.waitpid(first, 0)
    with toy.open_run(tmp_path / "run", resume=True):
        pass


def test_workers_that_outlive_a_run_do_not_keep_its_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with toy.open_run(tmp_path / "run"):
        worker = os.fork()
        if not worker:
            os.write(write, b"x")
            signal.pause()
        os.read(read, 1)
    try:
        with toy.open_run(tmp_path / "run", resume=True):
            pass
    finally:
        os.kill(worker, 9)
        os.waitpid(worker, 0)


def test_metrics_are_cut_back_and_torn_lines_dropped(tmp_path: Path) -> None:
    with toy.open_run(tmp_path / "run") as run:
        run.begin(0)
        run.log_metrics([{"step": step, "loss": 0.5} for step in (1, 2, 3, 4)])
    path = tmp_path / "run/metrics.jsonl"
    for torn in (b'{"step": 2, "lo', b'{"step": 2}', b"\n", b"\xff\n", b"[1]\n", b""):
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n' + torn)
        with toy.open_run(tmp_path / "run", resume=True) as run:
            run.begin(2)
            assert run.metrics() == [{"step": 1}, {"step": 2}]


def test_metrics_take_no_value_that_json_has_not(tmp_path: Path) -> None:
    with toy.open_run(tmp_path / "run") as run:
        run.begin(0)
        with pytest.raises(ValueError, match="JSON"):
            run.log_metrics([{"step": 1, "loss": float("nan")}])


def test_a_deleted_folder_is_not_created_again(tmp_path: Path) -> None:
    """R8, also for the record of the failure itself."""
    folder = tmp_path / "run"

    def saw(step: int, _: list[str]) -> None:
        while step == 4 and folder.exists():
            shutil.rmtree(folder, ignore_errors=True)  # while a save writes into it

    stages = [toy.plan(0, 14, batches=toy.batches(0, 4, 14, saw))]
    with pytest.raises(EnvironmentFault) as caught:
        toy.train_toy(folder, stages=stages)
    assert (caught.value.id, int(caught.value.code)) == ("ENV-RUN-GONE", 6)
    assert not folder.exists()


def test_a_replaced_folder_is_noticed(tmp_path: Path) -> None:
    with toy.open_run(tmp_path / "run") as run:
        run.begin(0)
        (tmp_path / "run").rename(tmp_path / "old")
        (tmp_path / "run").mkdir()
        (tmp_path / "run/.lock").touch()
        with pytest.raises(EnvironmentFault, match="replaced"):
            run.log_metrics([{"step": 1}])


@pytest.mark.parametrize(
    ("error", "state", "code", "name"),
    [
        (toy.Interrupted("SIGINT", "", ""), "interrupted", 130, "STOP-SIGINT"),
        (toy.Interrupted("SIGTERM", "", ""), "preempted", 143, "STOP-SIGTERM"),
        (EnvironmentFault("DISK-FULL", "x", "full"), "failed", 6, "ENV-DISK-FULL"),
        (ZeroDivisionError(), "failed", 1, "ZeroDivisionError"),
    ],
)
def test_how_a_run_ended_is_recorded(
    tmp_path: Path, error: Exception, state: str, code: int, name: str
) -> None:
    with pytest.raises(type(error)), toy.open_run(tmp_path / "run") as run:  # noqa: PT012
        run.begin(0)
        run.status("running", step=3, last_checkpoint="step-00000003")
        raise error
    status = read_status(tmp_path / "run")
    assert (status["state"], status["code"], status["error_id"]) == (state, code, name)
    assert (status["step"], status["last_checkpoint"]) == (3, "step-00000003")
    assert status["finished_at"] >= status["started_at"]
    has_trace = (tmp_path / "run/logs/error-rank0.log").exists()
    assert has_trace == (state == "failed")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_an_unreadable_status_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path) == {}


def test_a_changed_config_of_a_resumed_run_is_recorded_when_it_goes_on(tmp_path: Path) -> None:
    with toy.open_run(tmp_path / "run", config_text="a: 1\n"):
        pass
    with toy.open_run(tmp_path / "run", resume=True, run_id="other", config_text="a: 2\n") as run:
        assert run.id == "toy"
        assert (run.folder / "config.yaml").read_text() == "a: 1\n"
        run.begin(0)
        assert (run.folder / "config.yaml").read_text() == "a: 2\n"


def test_tensorboard_shows_the_run_and_nothing_twice(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    stop = Stop()

    def saw(step: int, _: list[str]) -> None:
        if step == 5:
            stop.request(2)

    stages = [toy.plan(0, 8, batches=toy.batches(0, 4, 8, saw))]
    with (
        pytest.raises(toy.Interrupted),
        toy.open_run(tmp_path / "run", tensorboard=True) as run,
    ):
        train(run, stages, toy.settings(), stop=stop, validate=toy.validate)
    with toy.open_run(tmp_path / "run", resume=True, tensorboard=True) as run:
        train(run, [toy.plan(0, 8)], toy.settings(), stop=Stop(), validate=toy.validate)
    board = events.EventAccumulator(str(tmp_path / "run/tb")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 9))
    assert [event.step for event in board.Scalars("validation/miou")] == [4, 8]


@pytest.mark.parametrize("waiting", ["file", "link", "dangling link"])
def test_write_whole_replaces_but_never_follows(tmp_path: Path, waiting: str) -> None:
    target, victim = tmp_path / "status.json", tmp_path / "victim"
    victim.write_text("precious")
    if waiting == "file":
        target.write_text("old")
    else:
        target.symlink_to(victim if waiting == "link" else tmp_path / "nowhere")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert victim.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["status.json", "victim"]


def test_a_file_in_the_way_of_the_folder_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(EnvironmentFault):
        toy.open_run(tmp_path / "runs" / "a")


def test_clean_removes_left_overs_only(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.ab.tmp").mkdir()
    (tmp_path / ".x.tmp").write_text("")
    (tmp_path / "kept.tmp").write_text("")
    assert len(clean(tmp_path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["kept.tmp"]
