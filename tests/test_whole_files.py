"""A write is whole or did not happen, whatever the disk does half way."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import EnvironmentFault
from segkit.whole_files import append, faults, write_whole


def fill_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write takes half of what it is given, and then there is no room."""
    real = os.write

    def half(handle: int, data: Any) -> int:
        real(handle, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)


@pytest.mark.parametrize("write", [append, write_whole])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"one\n")
    with monkeypatch.context() as patch:
        fill_up(patch)
        with pytest.raises(EnvironmentFault, match=r"needs 8 bytes, [0-9]+ are free") as caught:
            write(path, b"two\nsix\n")
    assert (caught.value.id, caught.value.where) == ("ENV-DISK-FULL", str(path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"rows": b"one\n"}
    append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_append_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault):
        append(tmp_path / "rows", b"one\n")
    with pytest.raises(EnvironmentFault) as caught:
        append(tmp_path / "gone/rows", b"one\n")
    assert caught.value.id == "ENV-RUN-GONE"
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/inner"):
        with pytest.raises(EnvironmentFault) as caught, faults(path, 0):
            path.mkdir()
        assert caught.value.id == "ENV-NO-FOLDER"
        assert caught.value.where == str(path)
