"""Names of predictions: inside the folder, through no link, one per input, whole or absent."""

import os
from pathlib import Path

import pytest

from segkit.errors import EnvironmentFault, RefusedError
from segkit.report.names import prediction_path, relative_names
from segkit.whole_files import write_whole


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ([], []),
        (["a.png"], ["a"]),
        (["../../a.png"], ["a"]),
        (["/data/x/a.png"], ["a"]),
        (["/d/x/a.png", "/d/y/a.png"], ["x/a", "y/a"]),
        (["/d/a.png", "/d/a.jpg", "/d/b.jpg"], ["a.png", "a.jpg", "b"]),
        (["/d/a.png", "/d/A.png"], ["a.png", "A.png-2"]),
        (["/d/é.png", "/d/e\u0301.png"], ["é.png", "e\u0301.png-2"]),
        (["/d/a.png", "/d/e/../a.png"], ["a", "a"]),
        (["/d/frame.0001.png", "/d/frame.0002.png"], ["frame.0001", "frame.0002"]),
        (["/d/a.png", "/d/a.png.png"], ["a", "a.png"]),
        (["/d/a.png", "/d/a.jpg", "/d/a.png.png"], ["a.png", "a.jpg", "a.png-2"]),
    ],
)
def test_every_input_has_its_own_name(inputs, names):
    got = [str(name) for name in relative_names([Path(path) for path in inputs])]
    assert got == names


def test_paths_stay_inside_and_folders_are_made(tmp_path):
    path = prediction_path(tmp_path / "out", "x/y/frame.0001", "_overlay.png")
    assert path == tmp_path / "out/x/y/frame.0001_overlay.png"
    assert path.parent.is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "..", ".", "", "/etc/passwd", "C:x", "C:\\x", "\\\\host\\share\\x",
        "..\\x", "CON", "con", "a/nul.tar", "COM1", "lpt¹", "aux .x", "x\n", "a\x1bb", "x\0y", "x.",
        "x ", "a./b", "é" * 127,
    ],
)  # fmt: skip
def test_names_that_leave_or_confuse_are_refused_by_name(tmp_path, name):
    with pytest.raises(RefusedError) as caught:
        prediction_path(tmp_path / "out", name)
    assert caught.value.where == name
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["console", "a b", "12:30", "a..b", ".hidden", "é", "é" * 125])
def test_harmless_names_are_taken(tmp_path, name):
    path = prediction_path(tmp_path, name)
    write_whole(path, b"1")
    assert path.read_bytes() == b"1"


@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_refused_by_name(tmp_path, dangling):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    if not dangling:
        outside.mkdir()
        (outside / "x.png").write_bytes(b"precious")
    (out / "folder").symlink_to(outside)
    (out / "x.png").symlink_to(outside / "x.png")
    for name, link in (("folder/x", out / "folder"), ("x", out / "x.png")):
        with pytest.raises(RefusedError) as caught:
            prediction_path(out, name)
        assert caught.value.where == str(link)
    if not dangling:
        assert (outside / "x.png").read_bytes() == b"precious"


def test_a_folder_at_the_target_and_a_file_on_the_way(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(RefusedError):
        prediction_path(tmp_path, "a")
    (tmp_path / "b").write_bytes(b"")
    with pytest.raises(EnvironmentFault):
        prediction_path(tmp_path, "b/c")


def test_writing_replaces_a_link_and_not_what_it_points_to(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "x.png").symlink_to(precious)
    write_whole(tmp_path / "x.png", b"new")
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "x.png").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_whole(tmp_path / "x", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        write_whole(tmp_path / "x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_a_missing_folder_is_an_environment_fault(tmp_path):
    with pytest.raises(EnvironmentFault):
        write_whole(tmp_path / "gone" / "x", b"")
