"""Saves beside the training: the same files, the same faults, and nothing that came after."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training as toy
from test_resume import same

from segkit.engine import background, checkpoint, payload
from segkit.engine.background import Copies, Task
from segkit.engine.saving import Saving
from segkit.errors import EnvironmentFault, Interrupted, NumericsError

STATM = Path("/proc/self/statm")


def in_background(folder: Path, said: list[str], **changes: Any) -> tuple[Saving, Any, Any]:
    """The saves of a fresh run in ``folder``, a network with momentum, its optimiser."""
    run = toy.open_run(folder, notice=said.append)
    run.begin(0)
    net = toy.make_net()
    optimizer = toy.plan(0, 1).make_optimizer(net)
    net.scores(torch.ones(2, 3, 9, 9))["out"].sum().backward()
    optimizer.step()
    given = {"keep": 2, "on_error": "stop", "saved": lambda: None, "background": True, **changes}
    return Saving(run, **given), net, optimizer


class Gate:
    """Holds up every save (in its thread) until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        write = payload.write

        def held(*given: Any) -> str:
            self.reached.set()
            assert self.open.wait(30)
            return write(*given)

        monkeypatch.setattr(payload, "write", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches a disk without room for checkpoints on and off."""
    write = payload.write

    def refuse(*_: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda on: monkeypatch.setattr(payload, "write", refuse if on else write)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "checkpoints").rglob("*")
        if path.is_file()
    } | {"metrics": (folder / "metrics.jsonl").read_text()}


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_files_are_those_of_the_foreground(tmp_path: Path, ema: float | None) -> None:
    for name, beside in (("one", True), ("other", False)):
        how = toy.settings(save_in_background=beside, ema=ema)
        stages = [toy.plan(0, 8), toy.plan(1, 4)]
        toy.train_toy(tmp_path / name, settings=how, stages=stages)
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert len(files(tmp_path / "one")) > 8


def test_what_comes_after_does_not_reach_the_file(tmp_path: Path, gate: Gate) -> None:
    saving, net, optimizer = in_background(tmp_path / "run", [])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    momentum = checkpoint.optimizer_state(net, optimizer)
    momentum = {name: tensor.clone() for name, tensor in momentum.items()}
    saving(net, optimizer, 1, 0, must=False)
    assert gate.reached.wait(30)
    with torch.no_grad():
        for tensor in (
            *net.state_dict().values(),
            *checkpoint.optimizer_state(net, optimizer).values(),
        ):
            tensor.fill_(7)
    gate.open.set()
    saving.finish()
    point = checkpoint.load(tmp_path / "run/checkpoints/step-00000001")
    assert all(torch.equal(tensor, point.model[name]) for name, tensor in before.items())
    assert momentum
    assert all(torch.equal(tensor, point.optimizer[name]) for name, tensor in momentum.items())


def test_training_goes_on_meanwhile_and_the_record_names_only_what_is_there(
    tmp_path: Path, gate: Gate
) -> None:
    """The save of step 3 is held up until the sixth update: no update waited for it."""
    seen: list[int] = []
    status = tmp_path / "run/status.json"

    def saw(step: int, _: list[str]) -> None:
        seen.append(step)
        if step == 2:
            gate.open.clear()
            gate.reached.clear()
        if step == 5:
            assert gate.reached.wait(30)
            assert json.loads(status.read_text())["last_checkpoint"] == "step-00000000"
            found = checkpoint.steps(tmp_path / "run/checkpoints")
            assert [path.name for path in found] == ["step-00000000"]
            gate.open.set()

    gate.open.set()
    stages = [toy.plan(0, 14, batches=toy.batches(0, 4, 14, saw))]
    toy.train_toy(tmp_path / "run", stages=stages, settings=toy.settings(validate_every=None))
    assert seen == list(range(14))
    assert json.loads(status.read_text())["last_checkpoint"] == "step-00000014"


def test_no_row_is_there_before_the_first_checkpoint(tmp_path: Path, gate: Gate) -> None:
    """A run killed in between would have rows and no checkpoint: it could not be taken up."""
    seen: list[int] = []
    early: list[bytes] = []

    def look() -> None:
        early.append((tmp_path / "run/metrics.jsonl").read_bytes())
        gate.open.set()

    def saw(step: int, _: list[str]) -> None:
        if not seen:
            threading.Timer(0.3, look).start()
        seen.append(step)

    stages = [toy.plan(0, 4, batches=toy.batches(0, 4, 4, saw))]
    toy.train_toy(tmp_path / "run", stages=stages, settings=toy.settings(log_every=1))
    assert early == [b""]


def test_one_save_at_a_time(tmp_path: Path, gate: Gate) -> None:
    saving, net, optimizer = in_background(tmp_path / "run", [])
    saving(net, optimizer, 1, 0, must=False)
    threading.Timer(0.2, gate.open.set).start()
    saving(net, optimizer, 2, 0, must=False)
    assert (tmp_path / "run/checkpoints/step-00000001").is_dir()
    saving.finish()
    assert checkpoint.load(tmp_path / "run/checkpoints/step-00000002").step == 2


def test_a_save_that_must_be_is_waited_for(tmp_path: Path, gate: Gate) -> None:
    saving, net, optimizer = in_background(tmp_path / "run", [])
    threading.Timer(0.2, gate.open.set).start()
    saving(net, optimizer, 1, 0, must=True)
    checkpoint.load(tmp_path / "run/checkpoints/step-00000001")


# -- faults --------------------------------------------------------------------------------------


def test_a_failure_is_raised_before_the_next_update(tmp_path: Path, full: Any) -> None:
    """Not only at the next save, which may be hours away."""
    seen: list[int] = []

    def saw(step: int, _: list[str]) -> None:
        seen.append(step)
        if step in (2, 4):
            for thread in threading.enumerate():
                if thread.name == "saving":
                    thread.join()
            full(step == 2)

    with pytest.raises(EnvironmentFault, match="step-00000003") as caught:
        toy.train_toy(
            tmp_path / "run",
            stages=[toy.plan(0, 14, batches=toy.batches(0, 4, 14, saw))],
            settings=toy.settings(save_every=3, validate_every=None),
        )
    assert caught.value.id == "ENV-DISK-FULL"
    assert seen[-1] in (3, 4)
    assert checkpoint.newest(tmp_path / "run").name == "step-00000000"
    full(False)
    toy.train_toy(tmp_path / "run", resume=True, stages=[toy.plan(0, 14)])


def test_warn_forgives_three_in_a_row(tmp_path: Path, full: Any) -> None:
    said: list[str] = []
    saving, net, optimizer = in_background(tmp_path / "run", said, on_error="warn")
    saving(net, optimizer, 0, 0, must=False)
    saving.finish()
    full(True)
    for step in (1, 2, 3, 4):
        saving(net, optimizer, step, 0, must=False)
    with pytest.raises(EnvironmentFault, match="step-00000004"):
        saving.finish()
    assert [line.split(":")[0] for line in said] == [
        f"step {step} is not saved ({step} in a row, 3 are allowed)" for step in (1, 2, 3)
    ]


@pytest.mark.parametrize("returns", [True, False])
def test_what_failed_is_tried_again_where_nothing_comes_after(
    tmp_path: Path, full: Any, returns: bool
) -> None:
    """A stop right after a failed save of the same step must not say that it is saved."""
    saving, net, optimizer = in_background(tmp_path / "run", [], on_error="warn")
    full(True)
    saving(net, optimizer, 1, 0, must=False)
    saving.finish()
    saving(net, optimizer, 1, 0, must=False)
    if returns:
        full(False)
        saving(net, optimizer, 1, 0, must=True)
        assert checkpoint.newest(tmp_path / "run").name == "step-00000001"
    else:
        with pytest.raises(EnvironmentFault):
            saving(net, optimizer, 1, 0, must=True)


def test_what_is_not_finite_is_raised_whatever_the_policy(tmp_path: Path) -> None:
    saving, net, optimizer = in_background(tmp_path / "run", [], on_error="warn")
    net.stem.weight.data[0] = float("inf")
    saving(net, optimizer, 1, 0, must=False)
    with pytest.raises(NumericsError, match=r"stem\.weight"):
        saving.finish()
    assert checkpoint.steps(tmp_path / "run/checkpoints") == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_folder_that_goes_meanwhile_is_gone(tmp_path: Path, gate: Gate) -> None:
    """R8, with the policy that forgives: nothing is made anew."""
    saving, net, optimizer = in_background(tmp_path / "run", [], on_error="warn")
    saving(net, optimizer, 1, 0, must=False)
    assert gate.reached.wait(30)
    shutil.rmtree(tmp_path / "run")
    gate.open.set()
    with pytest.raises(EnvironmentFault) as caught:
        saving.finish()
    assert caught.value.id == "ENV-RUN-GONE"
    assert not (tmp_path / "run").exists()


def test_the_first_fault_leads_and_a_failed_save_is_told(tmp_path: Path, full: Any) -> None:
    said: list[str] = []
    saving, net, optimizer = in_background(tmp_path / "run", said)
    full(True)
    with pytest.raises(ZeroDivisionError), saving:  # noqa: PT012
        saving(net, optimizer, 1, 0, must=False)
        raise ZeroDivisionError
    assert "step 1 is not saved" in said[-1]


def test_a_fault_of_training_leaves_the_save_whole(tmp_path: Path, gate: Gate) -> None:
    saving, net, optimizer = in_background(tmp_path / "run", [])
    threading.Timer(0.2, gate.open.set).start()
    with pytest.raises(ZeroDivisionError), saving:  # noqa: PT012
        saving(net, optimizer, 1, 0, must=False)
        raise ZeroDivisionError
    checkpoint.load(tmp_path / "run/checkpoints/step-00000001")


# -- signals and kills ---------------------------------------------------------------------------


def test_a_stop_while_a_save_is_under_way_saves_both(tmp_path: Path, gate: Gate) -> None:
    """The save of step 3 is held up; the signal comes before update 5."""

    def saw(step: int, _: list[str]) -> None:
        if step == 4:
            assert gate.reached.is_set()
            threading.Timer(0.3, gate.open.set).start()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    gate.open.set()
    closing = toy.plan(0, 14).learning_rate

    def rate(step: int) -> float:
        if step == 2:
            gate.open.clear()
            gate.reached.clear()
        return closing(step)

    stages = [toy.plan(0, 14, learning_rate=rate, batches=toy.batches(0, 4, 14, saw))]
    with pytest.raises(Interrupted):
        toy.train_toy_with_signals(
            tmp_path / "run", stages=stages, settings=toy.settings(validate_every=None)
        )
    found = [path.name[-1] for path in checkpoint.steps(tmp_path / "run/checkpoints")]
    assert found == ["4", "3"]
    assert json.loads((tmp_path / "run/status.json").read_text())["step"] == 4


def killed_while_saving(folder: Path, seconds: float, **how: Any) -> bool:
    """Train in a process of its own, killed after ``seconds``; whether that was within a save."""
    pid = os.fork()
    if not pid:
        try:
            toy.train_toy(folder, resume=True, **how)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return any(folder.rglob("*.tmp"))


def survive(folder: Path, trials: int, whole: dict[str, str]) -> int:
    """Runs killed three times each at random moments; how many kills came within a save."""
    draw, hits = random.Random(trials), 0
    for trial in range(trials):
        for _ in range(3):
            hits += killed_while_saving(folder / str(trial), draw.uniform(0, 0.4))
        toy.train_toy(folder / str(trial), resume=True)
        assert same(toy.outcome(folder / str(trial)), whole)
    return hits


@pytest.fixture
def slow_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """So slow that most kills come within one."""
    write = payload.write

    def slow(path: Path, tensors: Any) -> str:
        time.sleep(0.01)
        return write(path, tensors)

    monkeypatch.setattr(payload, "write", slow)


@pytest.mark.usefixtures("slow_saves")
def test_kill_nine_in_the_middle_of_saves_ends_in_the_same_bits(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    """K1, C1."""
    survive(tmp_path, 2, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("slow_saves")
def test_kill_nine_in_the_middle_of_many_saves(tmp_path: Path, whole: dict[str, str]) -> None:
    assert survive(tmp_path, 30, whole) > 20


# -- what the thread does not do ------------------------------------------------------------------


def test_all_that_is_said_is_said_by_the_loops_thread(tmp_path: Path, gate: Gate) -> None:
    """Also that the status has no room: stderr's lock may not be held while a worker is forked."""
    said: list[str] = []
    saving, net, optimizer = in_background(tmp_path / "run", said)
    saving._run.notice = lambda text: said.append(f"{threading.current_thread().name}: {text}")

    def refuse(**_: Any) -> None:
        raise EnvironmentFault("DISK-FULL", "status.json", "no room")

    saving._run.progress = refuse  # type: ignore[method-assign]
    for step in (1, 2):
        saving(net, optimizer, step, 0, must=False)
        gate.open.set()
        saving.finish()
    assert [line.split(":")[0] for line in said] == [threading.current_thread().name]
    assert "said once" in said[0]
    assert checkpoint.newest(tmp_path / "run").name == "step-00000002"


# -- the parts -----------------------------------------------------------------------------------


def test_copies_keep_layout_and_memory() -> None:
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    tied = torch.ones(2, 5).T
    states = [
        {"a": weight, "b": tied, "scalar": torch.tensor(3), "none": torch.zeros(0)},
        {"half": torch.ones(3, dtype=torch.bfloat16), "wide": torch.ones(1).expand(4)},
    ]
    copies = Copies()
    taken = copies.take(states)
    copies.wait()
    for state, copy in zip(states, taken, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in state)
    assert taken[0]["a"].stride() == weight.stride()
    places = [t.data_ptr() for copy in taken for t in copy.values()]
    again = copies.take([dict(state) for state in states])
    assert [t.data_ptr() for copy in again for t in copy.values()] == places
    held = {t.untyped_storage().data_ptr() for copy in again for t in copy.values()}
    assert len(held - {0}) == 1
    assert copies.take([]) == []


def test_the_first_room_is_enough_for_the_momentum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = background._memory

    def memory(needed: int, pinned: bool) -> torch.Tensor:
        made.append(needed)
        return real(needed, pinned)

    monkeypatch.setattr(background, "_memory", memory)
    run = toy.open_run(tmp_path / "run")
    run.begin(0)
    net = toy.make_net()
    optimizer = toy.plan(0, 1).make_optimizer(net)
    saving = Saving(run, keep=2, on_error="stop", saved=lambda: None, background=True)
    saving(net, optimizer, 0, 0, must=False)
    net.scores(torch.ones(2, 3, 9, 9))["out"].sum().backward()
    optimizer.step()
    saving(net, optimizer, 1, 0, must=False)
    saving.finish()
    assert len(made) == 1
    assert checkpoint.load(tmp_path / "run/checkpoints/step-00000001").optimizer


@pytest.mark.skipif(not STATM.exists(), reason="memory is read from /proc")
def test_the_system_has_the_memory_back() -> None:
    """Whatever the C library keeps: the room is none of its heap."""

    def resident() -> int:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    size, copies = 64 << 20, Copies()
    state = {"w": torch.ones(size, dtype=torch.uint8)}
    before = resident()
    copies.take([{"w": state["w"][:8]}], [state["w"]])
    assert resident() - before < size / 2
    taken = copies.take([state])
    assert resident() - before > size / 2
    del taken, copies
    assert resident() - before < size / 2


def test_without_room_for_a_copy_saves_hold_up_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "free_memory", lambda: 100)
    said: list[str] = []
    saving, net, optimizer = in_background(tmp_path / "run", said)
    for step in (1, 2):
        saving(net, optimizer, step, 0, must=False)
        checkpoint.load(tmp_path / f"run/checkpoints/step-0000000{step}")
    assert len(said) == 1
    assert "100 are free" in said[0]


def test_without_a_thread_it_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    task = Task(lambda: done.append(1))
    task.start()
    assert (done, task.ended) == ([1], True)
    task.wait()


@pytest.mark.gpu
def test_copies_of_a_gpu_are_of_the_moment() -> None:
    """What the GPU is told to do after the copies does not reach them."""
    weight = torch.randn(512, 512, 3, 3, device="cuda").to(memory_format=torch.channels_last)
    expected, copies = weight.cpu(), Copies()
    for _ in range(3):
        taken = copies.take([{"w": weight}])
        weight.add_(1)
        copies.wait()
        assert taken[0]["w"].is_pinned()
        assert torch.equal(taken[0]["w"], expected)
        expected = weight.cpu()
