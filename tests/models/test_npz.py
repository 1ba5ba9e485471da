"""NumPy archives: arrays of numbers and nothing else, and no header is believed."""

import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.errors import CheckpointError, RefusedError, SegkitError
from segkit.models.weight_files import read

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    """An array file with a header of one's own making."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def claim(shape: str, descr: str = "'<f4'") -> bytes:
    member = npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", bytes(8))
    return archive({"a.npy": member})


def test_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    given = {
        "a": NUMBERS,
        "turned": np.asfortranarray(NUMBERS),
        "big_endian": NUMBERS.astype(">f4"),
        "half": NUMBERS.astype(np.float16),
        "global_step": np.int64(30000),
    }
    path.write_bytes(npz(**given))
    found, digest = read(path)
    assert len(digest) == 64
    assert found.keys() == given.keys()
    for name in ("a", "turned", "big_endian"):
        assert torch.equal(found[name], torch.from_numpy(NUMBERS))
        assert found[name].is_contiguous()
    assert found["half"].dtype == torch.float16
    assert found["global_step"].item() == 30000


def test_objects_are_refused_unopened(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "canary",)

    path = tmp_path / "x.npz"
    pickled = pickle.dumps(Payload())
    forged = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickled)
    for content in (npz(a=np.array([Payload()], dtype=object)), archive({"a.npy": forged})):
        path.write_bytes(content)
        with pytest.raises(RefusedError) as fault:
            read(path)
        assert fault.value.id == "SAFE-PICKLE"
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content",
    [
        claim("(1000000000000,)"),
        claim("(4611686018427387904, 4)"),
        claim("(-1,)"),
        archive({"a.npy": npy("{}", bytes(100_000))}, zipfile.ZIP_DEFLATED),
    ],
    ids=["long", "overflow", "negative", "compressed"],
)
def test_claims_beyond_the_file_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(RefusedError) as fault:
        read(path)
    assert fault.value.id == "SAFE-ARCHIVE"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        npz(a=NUMBERS)[:-30],
        pickle.dumps({"a": 1}),
        archive({"a.txt": b"x"}),
        archive({"a.npy": b""}),
        archive({"a.npy": b"\x93NUMPY\x09\x00"}),
        archive({"a.npy": npy("{'descr': ")}),
        archive({"a.npy": npy("(" * 100)}),
        claim("(1" + "0" * 40 + ", 0)"),
        claim("(3,)", "'<U1'")[:-1],
        npz(a=np.array(["text"])),
        npz(a=np.array([True])),
        npz(a=np.array([1j])),
    ],
)
def test_what_is_no_archive_of_numbers(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as fault:
        read(path)
    assert fault.value.id == "CKPT-WEIGHTS-UNREADABLE"
    assert "\n" not in fault.value.line()


def test_random_damage_is_a_line_or_a_read(tmp_path: Path) -> None:
    good = npz(a=NUMBERS, b=np.zeros(100))
    generator = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    for _ in range(200):
        content = bytearray(good)
        content[int(generator.integers(len(good)))] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
        with contextlib.suppress(SegkitError):
            read(path)
