"""What a failed save means, and whether there is room for the next."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy_training as toy

from segkit.engine import checkpoint, saving
from segkit.engine.average import Average
from segkit.engine.saving import Saving
from segkit.errors import EnvironmentFault, NumericsError


def saving_of(folder: Path, said: list[str], **changes: Any) -> Any:
    """``save(step, must)`` of a fresh run in ``folder``."""
    run = toy.open_run(folder, notice=said.append)
    run.begin(0)
    net = toy.make_net()
    optimizer = toy.plan(0, 1).make_optimizer(net)
    given = {"keep": 2, "on_error": "stop", "saved": lambda: None, **changes}
    saving = Saving(run, **given)
    saving.warn_of_little_room(net, optimizer)

    def save(step: int, *, must: bool = False) -> None:
        saving(net, optimizer, step, 0, must=must)

    save.net = net  # type: ignore[attr-defined]
    return save


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches a disk without room for checkpoints on and off."""
    mkdir = Path.mkdir

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        if ".step-" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(path, *args, **kwargs)

    return lambda on: monkeypatch.setattr(Path, "mkdir", refuse if on else mkdir)


def kept(folder: Path) -> list[str]:
    return [path.name[-1] for path in checkpoint.steps(folder / "checkpoints")]


def test_warn_forgives_three_in_a_row(tmp_path: Path, full: Any) -> None:
    said: list[str] = []
    save = saving_of(tmp_path / "run", said, on_error="warn")
    save(0)
    full(True)
    for step in (1, 2, 3):
        save(step)
    full(False)
    save(4)  # the count begins anew
    full(True)
    for step in (5, 6, 7):
        save(step)
    with pytest.raises(EnvironmentFault, match="step-00000008"):
        save(8)
    assert [line.split(" is not saved")[0] for line in said] == [
        f"step {step}" for step in (1, 2, 3, 5, 6, 7)
    ]
    assert kept(tmp_path / "run") == ["4", "0"]


@pytest.mark.parametrize(("policy", "must"), [("stop", False), ("warn", True)])
def test_a_failed_save_is_raised(tmp_path: Path, full: Any, policy: str, must: bool) -> None:
    save = saving_of(tmp_path / "run", [], on_error=policy)
    full(True)
    with pytest.raises(EnvironmentFault):
        save(1, must=must)


def test_warn_is_no_excuse_for_weights_that_are_not_finite(tmp_path: Path) -> None:
    save = saving_of(tmp_path / "run", [], on_error="warn")
    save.net.stem.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError):
        save(1)


def test_a_best_that_could_not_be_marked_is_not_retired(tmp_path: Path) -> None:
    """Retiring spares what is marked, and what may have to be."""
    marks = iter([True, True, False, False])

    def mark() -> None:
        if not next(marks):
            raise EnvironmentFault("DISK-FULL", "best.json", "no room")

    save = saving_of(tmp_path / "run", [], keep=1, on_error="warn", saved=mark)
    for step in (1, 2, 3, 4):
        save(step)
    assert kept(tmp_path / "run") == ["4", "3"]


def test_what_follows_a_checkpoint_is_told_by_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is there and counts, older ones go, and the last save tries again."""
    said: list[str] = []
    save = saving_of(tmp_path / "run", said, keep=1, on_error="warn")
    save(1)
    hints = tmp_path / "run/checkpoints/latest.json"
    before, mark = hints.read_bytes(), checkpoint.mark_latest

    def refuse(path: Path) -> None:
        raise EnvironmentFault("DISK-FULL", path.parent / "latest.json", "no room")

    monkeypatch.setattr(checkpoint, "mark_latest", refuse)
    save(2)
    assert kept(tmp_path / "run") == ["2"]
    assert "step 2 is saved, but not all that follows is done (1 in a row" in said[0]
    assert "latest.json" in said[0]
    assert hints.read_bytes() == before
    with pytest.raises(EnvironmentFault, match=r"latest\.json"):
        save(2, must=True)
    monkeypatch.setattr(checkpoint, "mark_latest", mark)
    save(2, must=True)
    assert b"step-00000002" in hints.read_bytes()


@pytest.mark.parametrize(("free", "warned"), [(10_000, True), (10**9, False)])
def test_little_room_is_told_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, warned: bool
) -> None:
    """C6."""
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said: list[str] = []
    save = saving_of(tmp_path / "run", said, keep=7)
    save(1)
    assert bool(said) == warned
    if warned:
        size = sum(t.nbytes for t in (*save.net.state_dict().values(), *save.net.parameters()))
        assert f"9 checkpoints of {size} bytes need {9 * size} bytes, 10000 are free" in said[0]
        assert "checkpoint.keep" in said[0]


def test_the_average_takes_room_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said: list[str] = []
    run, net = toy.open_run(tmp_path / "run", notice=said.append), toy.make_net()
    saving = Saving(run, keep=1, on_error="stop", saved=lambda: None)
    state = sum(t.nbytes for t in net.state_dict().values())
    trained = sum(t.nbytes for t in net.parameters())
    saving.warn_of_little_room(net, toy.plan(0, 1).make_optimizer(net), Average(net, 0.5))
    assert f"of {2 * state + trained} bytes" in said[0]


def test_files_that_go_while_they_are_counted_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a save that is being renamed."""
    (tmp_path / "there").write_bytes(b"1234")
    (tmp_path / "going").write_bytes(b"12")
    stat = Path.stat

    def late(path: Path, **how: Any) -> os.stat_result:
        if path.name == "going":
            raise FileNotFoundError(path)
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", late)
    assert saving._bytes_in(tmp_path) == 4
    assert saving._bytes_in(tmp_path / "gone") == 0
