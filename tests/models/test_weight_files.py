"""Finding, fetching and reading: nothing runs, nothing torn stays, every fault is a line."""

import builtins
import contextlib
import gzip
import http.server
import io
import os
import pickle
import re
import threading
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from segkit.errors import CheckpointError, RefusedError, SegkitError
from segkit.models import weight_files
from segkit.models.weight_files import WeightFile, fetch, find, read

LINE = re.compile(r"^segkit: error\[[A-Z0-9-]+\]: [^\n]+$")
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def torch_bytes(value: object, **how: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


class Runs:
    """Unpickled, it leaves a mark."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(canary: Path) -> dict[str, bytes]:
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    system = Runs(os.system, command)
    inner = torch_bytes({"a": system})
    cases = {
        "zip": torch_bytes({"a.weight": torch.ones(2), "b": system}),
        "zip-list": torch_bytes([torch.ones(2), [system]]),
        "legacy": torch_bytes({"a": system}, _use_new_zipfile_serialization=False),
        "eval": torch_bytes({"a": Runs(builtins.eval, code)}),
        "exec": torch_bytes({"a": Runs(builtins.exec, code)}),
        "nested": torch_bytes({"a": Runs(torch.storage._load_from_bytes, inner)}),
        "getattr": torch_bytes({"a": Runs(builtins.getattr, Runs(__import__, "os"), "system")}),
        "beside": torch_bytes({"model": TENSORS, "hook": system}),
        "inside": torch_bytes({"model": TENSORS, "best": Runs(np.dtype, system)}),
        "array": torch_bytes({"model": TENSORS, "scores": np.ones(2)}),
        "gzip": gzip.compress(torch_bytes({"a": system})),
        "inst": f"(S'{command}'\nios\nsystem\n.".encode(),
    }
    cases |= {f"protocol{n}": pickle.dumps(system, protocol=n) for n in range(6)}
    return cases


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ""])
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_pickles_that_run_code_are_refused(name, suffix, tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(payloads(canary)[name])
    with pytest.raises(RefusedError) as fault:
        read(path)
    assert fault.value.id == "SAFE-PICKLE"
    assert fault.value.code == 7
    assert fault.value.where == str(path)
    assert LINE.match(fault.value.line())
    assert not canary.exists()


def test_pickles_do_not_pass_as_safetensors(tmp_path):
    for name, payload in payloads(tmp_path / "canary").items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(payload)
        with pytest.raises(CheckpointError, match=re.escape(path.name)):
            read(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), path)
    with pytest.raises(RefusedError):
        read(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_are_read(tmp_path, legacy, prefix):
    path = tmp_path / "weights.pth"
    tensors = {prefix + key: value for key, value in TENSORS.items()}
    path.write_bytes(torch_bytes(tensors, _use_new_zipfile_serialization=not legacy))
    found, digest = read(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)
    assert digest == sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("word", ["model_state", "state_dict", "model"])
def test_checkpoints_of_training_scripts_are_read(tmp_path, word, legacy):
    """With what such scripts save beside the network, numbers of NumPy's among it."""
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    beside = {"epoch": 3, "optimizer": sgd.state_dict(), "meta": {"classes": ["a", "b"]}}
    path = tmp_path / "weights.pth"
    content = beside | {"best": np.float64(0.7), "accuracy": np.float32(0.9), word: TENSORS}
    path.write_bytes(torch_bytes(content, _use_new_zipfile_serialization=not legacy))
    found, _ = read(path)
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)
    assert found.keys() == TENSORS.keys()


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    found, digest = read(path)
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)
    assert digest == sha256(path.read_bytes()).hexdigest()


GOOD = torch_bytes({"a": torch.zeros(5000)})
SAFE = safetensors.torch.save({"a": torch.zeros(5000)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("byte.pth", GOOD[:1]),
        *((f"cut{n}.pth", GOOD[:n]) for n in (3, 10, 600, len(GOOD) // 2, len(GOOD) - 1)),
        ("page.pth", b"\n<!DOCTYPE html><html>404</html>"),
        ("text.pth", b"hello world\n"),
        ("zeros.pth", bytes(1000)),
        ("tensor.pth", torch_bytes(torch.zeros(2))),
        ("list.pth", torch_bytes([torch.zeros(2)])),
        ("nested.pth", torch_bytes({"network": {"a": torch.zeros(2)}})),
        ("two.pth", torch_bytes({"model": {"a": torch.zeros(2)}, "state_dict": {}})),
        ("mixed.pth", torch_bytes({"model": {"a": torch.zeros(2)}, "b": torch.zeros(2)})),
        ("numbers.pth", torch_bytes({"a": np.float32(1)})),
        ("number.pth", torch_bytes({"a": 1.0})),
        ("key.pth", torch_bytes({1: torch.zeros(2)})),
        ("sparse.pth", torch_bytes({"a": torch.eye(3).to_sparse()})),
        ("meta.pth", torch_bytes({"a": torch.zeros(3, device="meta")})),
        ("empty.safetensors", b""),
        *((f"cut{n}.safetensors", SAFE[:n]) for n in (4, 20, 600, len(SAFE) - 1)),
        ("huge.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
        ("torch.safetensors", GOOD),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_no_weights(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as fault:
        read(path)
    assert fault.value.id == "CKPT-WEIGHTS-UNREADABLE"
    assert fault.value.where == str(path)
    assert LINE.match(fault.value.line())


def test_random_damage_is_a_line_or_a_read(tmp_path):
    """A flipped bit may stay unseen here (the hash tells); it must never be another exception."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "weights.pth"
    for _ in range(200):
        content = bytearray(GOOD)
        at = int(torch.randint(len(GOOD), (), generator=generator))
        content[at] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(content)
        with contextlib.suppress(SegkitError):
            read(path)


@pytest.mark.parametrize("kind", ["absent", "directory", "pipe", "dangling", "long"])
def test_paths_that_are_no_files(tmp_path, kind):
    path = tmp_path / ("x" * 300 if kind == "long" else "weights.pth")
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError) as fault:
        read(path)
    assert fault.value.where == str(path)
    assert LINE.match(fault.value.line())


@pytest.fixture
def folders(tmp_path, monkeypatch):
    given, hub = tmp_path / "given", tmp_path / "hub"
    (hub / "checkpoints").mkdir(parents=True)
    given.mkdir()
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(given))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    return given, hub / "checkpoints"


FILES = (WeightFile("first.pth"), WeightFile("second.pth"))


def test_order_of_places(folders):
    given, cache = folders
    (cache / "first.pth").write_bytes(b"x")
    assert find(FILES, download=False) == (cache / "first.pth", FILES[0])
    (given / "second.pth").write_bytes(b"x")
    assert find(FILES, download=False) == (given / "second.pth", FILES[1])
    (given / "first.pth").write_bytes(b"x")
    assert find(FILES, download=False) == (given / "first.pth", FILES[0])


@pytest.mark.parametrize("given", [True, False])
def test_missing_says_where_it_looked_and_what_to_type(folders, monkeypatch, given):
    if not given:
        monkeypatch.delenv("SEGKIT_WEIGHTS")
    with pytest.raises(CheckpointError) as fault:
        find(FILES, download=True)
    line = fault.value.line()
    assert fault.value.id == "CKPT-WEIGHTS-MISSING"
    assert LINE.match(line)
    for part in (
        "first.pth or second.pth",
        str(folders[1]),
        "pretrained=none",
        "no public address",
    ):
        assert part in line
    assert (str(folders[0]) if given else "SEGKIT_WEIGHTS (unset)") in line


@pytest.mark.usefixtures("folders")
def test_without_download_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(weight_files, "fetch", lambda *_: pytest.fail("asked the network"))
    file = WeightFile("net-01234567.pth", "https://example.org/net-01234567.pth")
    with pytest.raises(CheckpointError, match=re.escape(file.address)):
        find((file,), download=False)


class Answers(http.server.BaseHTTPRequestHandler):
    """Serves GOOD, or what the path asks for instead."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/file.pth")
            self.end_headers()
            return
        self.send_response(404 if kind == "absent" else 200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write({"cut": GOOD[:500], "other": bytes(len(GOOD))}.get(kind, GOOD))

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


NAME = f"net-{sha256(GOOD).hexdigest()[:8]}.pth"


def test_download_lands_whole_in_the_cache(folders, server):
    file = WeightFile(NAME, f"{server}/good/{NAME}")
    path, found = find((file,), download=True)
    assert (path, found) == (folders[1] / NAME, file)
    assert path.read_bytes() == GOOD
    assert find((file,), download=False)[0] == path
    assert [p.name for p in folders[1].iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("absent", "Not Found"), ("cut", "failed: "), ("other", "sha256"), ("moved", "failed: ")],
)
def test_bad_downloads_leave_nothing(folders, server, kind, reason):
    with pytest.raises(CheckpointError) as fault:
        find((WeightFile(NAME, f"{server}/{kind}/{NAME}"),), download=True)
    assert fault.value.id == "CKPT-WEIGHTS-MISSING"
    assert reason in fault.value.line()
    assert LINE.match(fault.value.line())
    assert not list(folders[1].iterdir())


def test_a_download_has_a_limit(folders, server, monkeypatch):
    monkeypatch.setattr(weight_files, "_MAX_DOWNLOAD", 100)
    with pytest.raises(ValueError, match="more than"):
        fetch(WeightFile(NAME, f"{server}/good/{NAME}"), folders[1])
    assert not list(folders[1].iterdir())


@pytest.mark.parametrize(
    "address", ["http://example.org/a.pth", "file:///etc/passwd", "ftp://x/a", "", "/etc/passwd"]
)
def test_only_https_is_followed(tmp_path, address):
    with pytest.raises(ValueError, match="https only"):
        fetch(WeightFile("a.pth", address), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nobody_listening_is_one_line(folders):
    with pytest.raises(CheckpointError) as fault:
        find((WeightFile(NAME, f"http://127.0.0.1:9/{NAME}"),), download=True)
    assert "refused" in fault.value.line()
    assert not list(folders[1].iterdir())


@pytest.mark.usefixtures("folders")
def test_an_unusable_cache_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file"))
    with pytest.raises(CheckpointError) as fault:
        find((WeightFile(NAME, f"http://127.0.0.1:9/{NAME}"),), download=True)
    assert LINE.match(fault.value.line())
