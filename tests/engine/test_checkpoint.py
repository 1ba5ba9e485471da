"""Every damage is noticed by name, and no failed save costs an older checkpoint."""

import errno
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from segkit import whole_files
from segkit.engine import checkpoint
from segkit.engine.seal import digest, seal
from segkit.errors import CheckpointError, EnvironmentFault, NumericsError, SegkitError

FILES = ("model.safetensors", "optimizer.safetensors", "average.safetensors", "checkpoint.json")


def save(run: Path, step: int, **changes: Any) -> Path:
    os.makedirs(run / "checkpoints", exist_ok=True)  # noqa: PTH103  (Path.mkdir is made to fail)
    given = {
        "run": "r",
        "step": step,
        "stage": 0,
        "model": {
            "w": torch.full((4, 3, 3, 3), float(step)).to(memory_format=torch.channels_last),
            "norm.num_batches_tracked": torch.tensor(step),
        },
        "optimizer": {"w.momentum_buffer": torch.full((4, 3, 3, 3), step + 0.5)},
        "average": {"w": torch.full((4, 3, 3, 3), step - 0.5)},
        "config": {"lr": 0.007, "os": 16, "none": None, "list": [1, "é"]},
        "labels": {"names": ["a", "b"], "ignore_label": 255},
    }
    saved = checkpoint.save(run / "checkpoints", **{**given, **changes})
    checkpoint.mark_latest(saved)
    return saved


def test_it_holds_what_was_given(tmp_path: Path) -> None:
    path = save(tmp_path, 12)
    assert {item.name for item in path.iterdir()} == set(FILES)
    read = checkpoint.load(path, run_id="r")
    assert (read.step, read.stage, read.run, read.path) == (12, 0, "r", path)
    assert read.config == {"lr": 0.007, "os": 16, "none": None, "list": [1, "é"]}
    assert read.labels == {"names": ["a", "b"], "ignore_label": 255}
    assert torch.equal(read.model["w"], torch.full((4, 3, 3, 3), 12.0))
    assert read.model["w"].is_contiguous()
    assert read.model["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(read.optimizer["w.momentum_buffer"], torch.full((4, 3, 3, 3), 12.5))
    assert read.average is not None
    assert torch.equal(read.average["w"], torch.full((4, 3, 3, 3), 11.5))


def test_without_an_average_nothing_is_said_of_one(tmp_path: Path) -> None:
    """As it was before there were averages; a stray file of that name is none."""
    path = save(tmp_path, 12, average=None)
    assert {item.name for item in path.iterdir()} == set(FILES) - {"average.safetensors"}
    assert "average" not in (path / "checkpoint.json").read_text()
    (path / "average.safetensors").write_bytes(b"stray")
    assert checkpoint.load(path).average is None


def test_other_programs_read_it(tmp_path: Path) -> None:
    path = save(tmp_path, 12)
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    assert torch.equal(tensors["w"], torch.full((4, 3, 3, 3), 12.0))
    assert json.loads((path / "checkpoint.json").read_text())["step"] == 12


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 3), save(tmp_path / "two", 3)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_noticed(tmp_path: Path, name: str) -> None:
    """C2."""
    path = save(tmp_path, 5) / name
    whole, draw = path.read_bytes(), random.Random(1)
    lengths = {0, 1, 10, len(whole) // 2, len(whole) - 1}
    lengths |= {draw.randrange(len(whole)) for _ in range(200)}
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(path.parent)
        assert caught.value.where == str(path)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    """C3."""
    path = save(tmp_path, 5) / name
    whole, draw = path.read_bytes(), random.Random(2)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(path.parent)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("pointer", ["latest.json", "best.json"])
def test_flipped_bits_in_pointers_are_noticed(tmp_path: Path, pointer: str) -> None:
    checkpoint.mark_best(save(tmp_path, 5))
    path = tmp_path / "checkpoints" / pointer
    whole, draw = path.read_bytes(), random.Random(3)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        told: list[SegkitError] = []
        # The newest is found without its pointer; the best is not.
        assert checkpoint.newest(tmp_path, told.append).name == "step-00000005"
        assert (pointer in str(told)) == (pointer == "latest.json")
        if pointer == "best.json":
            with pytest.raises(CheckpointError, match=pointer):
                checkpoint.best(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_step_are_noticed(tmp_path: Path, name: str) -> None:
    """C4: each file is sound, together they are not."""
    one, two = save(tmp_path, 5), save(tmp_path, 6)
    shutil.copy(one / name, two / name)
    with pytest.raises(CheckpointError):
        checkpoint.load(two)
    checkpoint.load(one)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 5)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(path)
    os.mkfifo(path / name)  # must not block either
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(path)


def test_swapped_payloads_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    (path / FILES[0]).rename(path / "x")
    (path / FILES[1]).rename(path / FILES[0])
    (path / "x").rename(path / FILES[1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load(path)


def test_another_run_and_a_renamed_folder_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    with pytest.raises(CheckpointError, match="belongs to run 'r', not to 'q'"):
        checkpoint.load(path, run_id="q")
    moved = path.rename(path.with_name("step-00000009"))
    with pytest.raises(CheckpointError, match="belongs to step 5"):
        checkpoint.load(moved)
    checkpoint.load(moved.rename(tmp_path / "my-best-model"))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"step": "5"},
        {"files": []},
        {"files": {}},
        {"files": {"model.safetensors": 1, "optimizer.safetensors": 2}},
        {"files": {"model.safetensors": {}, "optimizer.safetensors": {}, "average.safetensors": 3}},
        {"config": None},
        {"run": 3},
    ],
)
def test_a_well_sealed_but_wrong_manifest_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = save(tmp_path, 5) / "checkpoint.json"
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    path.write_bytes(seal({**manifest, **changes}))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        checkpoint.load(path.parent)


def safetensors_bytes(header: Any, body: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
CRAFTED = {
    "empty": b"",
    "short": b"abc",
    "header of 2^62": safetensors_bytes({}, size=2**62),
    "not JSON": safetensors_bytes(b"{" * 100),
    "deep JSON": safetensors_bytes(b"[" * 100_000),
    "shape beyond the data": safetensors_bytes({"a": {**TENSOR, "shape": [2**40]}}, b"\0" * 8),
    "gap": safetensors_bytes({"a": {**TENSOR, "data_offsets": [8, 16]}}, b"\0" * 16),
    "overlap": safetensors_bytes({"a": TENSOR, "b": TENSOR}, b"\0" * 8),
    "doubled name": safetensors_bytes(
        b'{"a":%b,"a":%b}' % ((json.dumps(TENSOR).encode(),) * 2), b"\0" * 8
    ),
    "unknown dtype": safetensors_bytes({"a": {**TENSOR, "dtype": "X9"}}, b"\0" * 8),
    "data left over": safetensors_bytes({"a": TENSOR}, b"\0" * 99),
    "NaN": safetensors_bytes({"a": TENSOR}, struct.pack("<2f", 1.0, float("nan"))),
    "pickle": b"\x80\x04cposix\nsystem\n.",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_payloads_with_right_hashes_are_refused(tmp_path: Path, name: str) -> None:
    """S4: the sender controls the hashes as well."""
    path, data = save(tmp_path, 5), CRAFTED[name]
    manifest = json.loads((path / "checkpoint.json").read_text())
    manifest.pop("sha256")
    manifest["files"]["model.safetensors"] = {"bytes": len(data), "sha256": digest(data)}
    (path / "checkpoint.json").write_bytes(seal(manifest))
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(SegkitError, match=r"model\.safetensors"):
        checkpoint.load(path)
    save(tmp_path, 4)
    assert checkpoint.newest(tmp_path).name == "step-00000004"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["model", "optimizer", "average"])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, place: str, value: float) -> None:
    save(tmp_path, 4)
    broken = {"fine": torch.ones(2), "broken.weight": torch.tensor([1.0, value])}
    with pytest.raises(NumericsError, match=r"broken\.weight"):
        save(tmp_path, 5, **{place: broken})
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "latest.json",
        "step-00000004",
    }


def test_tied_tensors_can_be_saved(tmp_path: Path) -> None:
    tied = torch.ones(3)
    assert set(checkpoint.load(save(tmp_path, 1, model={"a": tied, "b": tied})).model) == {"a", "b"}


def test_the_newest_goes_by_step_and_soundness(tmp_path: Path) -> None:
    for step in (3, 20, 100):
        save(tmp_path, step)
    os.utime(tmp_path / "checkpoints/step-00000003")
    assert checkpoint.newest(tmp_path).name == "step-00000100"
    (tmp_path / "checkpoints/step-00000100/checkpoint.json").unlink()
    told: list[SegkitError] = []
    assert checkpoint.newest(tmp_path, told.append).name == "step-00000020"
    assert "step-00000100" in str(told[0])
    for path in checkpoint.steps(tmp_path / "checkpoints"):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of 3"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_no_checkpoint_at_all_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.newest(tmp_path / folder)


@pytest.mark.parametrize(("keep", "left"), [(1, [2, 5]), (2, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_retention_keeps_the_newest_and_the_best(
    tmp_path: Path, keep: int, left: list[int]
) -> None:
    paths = [save(tmp_path, step) for step in range(1, 6)]
    checkpoint.mark_best(paths[1])
    checkpoint.retire(paths[-1], keep)
    assert sorted(int(path.name[5:]) for path in checkpoint.steps(tmp_path / "checkpoints")) == left
    assert checkpoint.best(tmp_path) == paths[1]


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """C5: at every call of a save, one after the other."""
    save(tmp_path, 4)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    owner: Any = os if call in ("write", "fsync") else Path
    failed = 0
    for at in range(1, 50):
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, failing(getattr(owner, call), at, number))
            fault = fault_of_saving(tmp_path)
        if fault is None:
            break
        failed += 1
        assert fault.id == ("ENV-WRITE" if number == errno.EIO else "ENV-DISK-FULL")
        assert "needs" in str(fault)
        assert str(tmp_path) in str(fault)
        assert list(tmp_path.rglob("*.tmp")) == []
        assert checkpoint.newest(tmp_path).name in ("step-00000004", "step-00000005")
        assert {p: p.read_bytes() for p in before if p.name != "latest.json"}.items() <= (
            before.items()
        )
        shutil.rmtree(tmp_path / "checkpoints/step-00000005", ignore_errors=True)
    assert failed >= 1
    assert checkpoint.newest(tmp_path).name == "step-00000005"


def fault_of_saving(run: Path) -> EnvironmentFault | None:
    try:
        save(run, 5)
    except EnvironmentFault as fault:
        return fault
    return None


def failing(call: Callable[..., Any], at: int, number: int) -> Callable[..., Any]:
    """``call``, which fails the ``at``-th time; once, as cleaning up must be able to work."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    return wrapped


def test_what_the_disk_altered_is_noticed_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 4)
    honest = whole_files.write_all

    def rotten(handle: int, data: bytes | memoryview) -> None:
        honest(handle, bytes(data)[:-1] + b"\0")

    monkeypatch.setattr(whole_files, "write_all", rotten)
    with pytest.raises(EnvironmentFault, match="differs"):
        save(tmp_path, 5)
    assert checkpoint.newest(tmp_path).name == "step-00000004"


def test_the_old_is_never_deleted_before_the_new_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged checkpoint of the same step is replaced; a failing save leaves it alone."""
    path = save(tmp_path, 5)
    (path / "model.safetensors").write_bytes(b"broken")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 1, errno.EIO))
    with pytest.raises(EnvironmentFault):
        save(tmp_path, 5)
    assert (path / "model.safetensors").read_bytes() == b"broken"
    monkeypatch.undo()
    save(tmp_path, 5)
    checkpoint.load(path)


def nets() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Sequential(nn.Conv2d(3, 5, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("0.weight"), "1 missing (0.weight)"),
        (lambda t: t.update(extra=torch.ones(1)), "1 unknown (extra)"),
        (lambda t: t.update({"0.bias": torch.ones(9)}), "1 of another shape (0.bias)"),
        (lambda t: [t.update({f"module.{k}": t.pop(k)}) for k in list(t)], "7 missing"),
    ],
)
def test_weights_that_do_not_fit_are_counted_and_named(
    change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """C13."""
    net = nets()[0]
    tensors = dict(net.state_dict())
    change(tensors)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_weights(net, tensors, "here")
    assert words in str(caught.value)
    assert caught.value.where == "here"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_optimizer_goes_by_name_and_keeps_the_layout(layout: torch.memory_format) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    state = {k: v.contiguous() for k, v in checkpoint.optimizer_state(net, optimizer).items()}
    assert set(state) == {f"{n}.{k}.momentum_buffer" for n in "01" for k in ("weight", "bias")}
    turned = torch.optim.SGD(reversed(list(net.parameters())), lr=0.1, momentum=0.9)
    checkpoint.load_optimizer(net, turned, state, "here")
    for parameter in net.parameters():
        old, new = (o.state[parameter]["momentum_buffer"] for o in (optimizer, turned))
        assert torch.equal(old, new)
        assert new.stride() == parameter.stride()


def test_optimizer_state_that_does_not_fit_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    wrong = [
        {"0.weight.momentum_buffer": torch.zeros(4, 3, 1, 1)},
        {"9.weight.momentum_buffer": torch.zeros(4, 3, 1, 1)},
        {"0.weight.momentum_buffer": torch.zeros(3)},
    ]
    for state in wrong:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        with pytest.raises(CheckpointError):
            checkpoint.load_optimizer(net, optimizer, state, "here")
