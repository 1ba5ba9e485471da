"""SBD's .mat files: what is read of them, and what foreign ones do."""

import io
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import small_sets as small

from segkit.errors import DataError, RefusedError
from segkit.prepare.sbd import read_mat


def saved(path: Path, compressed: bool = True, **variables: object) -> Path:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compressed)
    path.write_bytes(buffer.getvalue())
    return path


def test_the_label_map_of_a_true_file(tmp_path: Path) -> None:
    labels = small.labels_of("x", border=False)
    (tmp_path / "x.mat").write_bytes(small.mat(labels))
    found = read_mat(tmp_path / "x.mat")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("compressed", [True, False])
def test_any_integer_type(tmp_path: Path, dtype: type, compressed: bool) -> None:
    labels = np.arange(20, dtype=dtype).reshape(4, 5)
    path = saved(tmp_path / "x.mat", compressed, GTcls={"Segmentation": labels})
    np.testing.assert_array_equal(read_mat(path), labels)


@pytest.mark.parametrize(
    "variables",
    [
        {"other": 1},
        {"GTcls": 1},
        {"GTcls": {"Other": np.zeros((2, 2), np.uint8)}},
        {"GTcls": {"Segmentation": np.zeros((2, 2))}},
        {"GTcls": {"Segmentation": np.zeros((2, 2, 2), np.uint8)}},
        {"GTcls": {"Segmentation": "text"}},
        {"GTcls": {"Segmentation": np.zeros((0, 2), np.uint8)}},
        {"GTcls": {"Segmentation": np.full((2, 2), 21, np.uint8)}},
    ],
)
def test_other_contents_are_named(tmp_path: Path, variables: dict[str, object]) -> None:
    path = saved(tmp_path / "x.mat", **variables)
    with pytest.raises(DataError) as fault:
        read_mat(path)
    assert fault.value.where == str(path)


def test_damage_anywhere_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """A checksum guards the compressed content, so that what is read is what was written."""
    labels = small.labels_of("x", border=False)
    whole = small.mat(labels)
    path = tmp_path / "x.mat"
    rng = np.random.default_rng(0)
    for _ in range(300):
        torn = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        torn[rng.integers(len(torn))] ^= 1 << rng.integers(8)
        path.write_bytes(torn)
        with suppress(DataError):
            np.testing.assert_array_equal(read_mat(path), labels)


def test_damage_without_a_checksum_ends_no_process(tmp_path: Path) -> None:
    """scipy ends with a segmentation fault on some of these."""
    labels = small.labels_of("x", border=False)
    whole = saved(tmp_path / "x.mat", False, GTcls={"Segmentation": labels}).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        torn = bytearray(whole)
        for _ in range(3):
            torn[rng.integers(len(torn))] = rng.integers(256)
        (tmp_path / "x.mat").write_bytes(torn)
        with suppress(DataError):
            assert read_mat(tmp_path / "x.mat").max() <= 255


def test_s8_a_bomb_is_not_expanded(tmp_path: Path) -> None:
    header = small.mat(np.zeros((2, 2), np.uint8))[:128]
    bomb = zlib.compress(bytes(200 << 20), 1)
    path = tmp_path / "x.mat"
    path.write_bytes(header + struct.pack("<II", 15, len(bomb)) + bomb)
    begun = time.monotonic()
    with pytest.raises(RefusedError, match="expands"):
        read_mat(path)
    assert time.monotonic() - begun < 2
