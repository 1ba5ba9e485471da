"""S14: names of inputs that would lead results out of their folder."""

import os
from pathlib import Path

import numpy as np
import pytest
from predicting import found, last_line, picture, piped, predict

from segkit.data.images import read_image


def test_names_from_elsewhere_stay_in_the_output_folder(run: Path, here: Path) -> None:
    inner = here / "deep" / "work"
    inner.mkdir(parents=True)
    picture("x.png")
    picture("abs/y.png", 1)
    before = {path for path in here.rglob("*") if "out" not in path.parts}
    os.chdir(inner)
    assert predict(run, "../../x.png", str(here / "abs/y.png")) == 0
    assert found() == [
        f"{kind}/{name}.png" for kind in ("labels", "overlay") for name in ("abs/y", "x")
    ]
    made = set(here.rglob("*")) - before
    assert all(path.is_relative_to(inner / "out") for path in made)


def test_names_that_no_system_takes_are_refused_and_the_others_done(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CON.png", "a\nb.png", "good.png"):
        picture(name)
    assert predict(run, "CON.png", "a\nb.png", "good.png") == 7
    err = capsys.readouterr().err
    assert "error[SAFE-PATH]: CON.png: " in err
    assert "error[SAFE-PATH]: a\\nb.png: " in err
    assert found() == ["labels/good.png", "overlay/good.png"]
    assert predict(run, ".") == 7, "the folder itself is searched, with the same names in it"


@pytest.mark.parametrize("place", ["out/labels/a.png", "out/overlay/a.png", "out/overlay"])
def test_a_link_at_the_target_is_refused_by_name(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    precious = here / "precious"
    precious.mkdir()
    (precious / "a.png").write_text("mine")
    Path(place).parent.mkdir(parents=True)
    Path(place).symlink_to(precious if place == "out/overlay" else precious / "a.png")
    picture("a.png")
    picture("b.png")
    assert predict(run, "a.png") == 7
    line = last_line(capsys)
    assert line.startswith("segkit: error[SAFE-PATH-LINK]: a.png: ")
    assert place in line
    assert (precious / "a.png").read_text() == "mine"
    assert [path.name for path in precious.iterdir()] == ["a.png"]


def test_a_list_that_names_what_is_no_picture(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = here / "home/.ssh/config"
    secret.parent.mkdir(parents=True)
    secret.write_text("Host secret")
    picture("a.png")
    monkeypatch.setenv("HOME", str(here / "home"))
    piped(monkeypatch, f"~/.ssh/config\n{secret}\na.png\n".encode())
    assert predict(run, "-") == 3
    err = capsys.readouterr().err
    assert "error[DATA-MISSING]: ~/.ssh/config: no such" in err
    assert f"error[DATA-UNREADABLE]: {secret}: neither PNG nor JPEG" in err
    for path in Path("out").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()
    assert len(found()) == 2


def test_pictures_of_one_name_from_several_folders_do_not_meet(run: Path) -> None:
    for number, folder in enumerate("pqr"):
        picture(f"{folder}/x.png", number)
    assert predict(run, "p", "q/*.png", "r/x.png") == 0
    maps = [read_image(f"out/overlay/{folder}/x.png") for folder in "pqr"]
    assert not np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[1], maps[2])
