"""docs/your-own-data.md: its commands, run as they stand there, on a small folder of photos."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.cli import main
from segkit.data.folder import Folder

PAGE = Path(__file__).parents[1] / "docs" / "your-own-data.md"
PHOTOS, SIZE = 24, (120, 160)


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def photo(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Green leaves on gravel, and where they are."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(60, 140, (*SIZE, 3), np.uint8)
    mask = np.zeros(SIZE, np.uint8)
    for _ in range(2):
        centre = (int(rng.integers(20, 140)), int(rng.integers(20, 100)))
        axes, angle = (int(rng.integers(18, 34)), int(rng.integers(10, 20))), rng.integers(180)
        green = (50, int(rng.integers(160, 220)), 40)
        cv2.ellipse(picture, centre, axes, int(angle), 0, 360, green, -1)
        cv2.ellipse(mask, centre, axes, int(angle), 0, 360, 1, -1)
    return picture[..., ::-1], mask


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the reader of the page has, with masks in every form that it names."""
    monkeypatch.chdir(tmp_path)
    raw, new = tmp_path / "my-photos", tmp_path / "new-photos"
    for place in (
        raw / "images",
        raw / "masks",
        raw / "masks-by-label",
        raw / "masks-in-colour",
        new,
    ):
        place.mkdir(parents=True)
    for number in range(PHOTOS):
        name = f"IMG_{number:04d}"
        picture, mask = photo(number)
        cv2.imwrite(str(raw / f"images/{name}.jpg"), picture)
        cv2.imwrite(str(raw / f"masks/{name}.png"), 255 * mask)
        cv2.imwrite(str(raw / f"masks-by-label/{name}.png"), mask)
        green = np.array([[0, 0, 0], [0, 128, 0]], np.uint8)
        cv2.imwrite(str(raw / f"masks-in-colour/{name}.png"), green[mask])
    cv2.imwrite(str(new / "garden.jpg"), photo(PHOTOS)[0])
    rows = [
        f"images/{p.stem}.jpg,masks-by-label/{p.name}"
        for p in sorted((raw / "masks-by-label").iterdir())
    ]
    (raw / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_every_way_to_prepare_makes_the_same_set(capsys: pytest.CaptureFixture[str]) -> None:
    ways = [line for line in commands() if line.startswith("segkit data prepare folder ")]
    assert len(ways) == 4
    made = []
    for line in ways:
        words = shlex.split(line)
        assert main(words[1:]) == 0, capsys.readouterr().err
        data = Folder(next(w for w in words if w.startswith("root=")).removeprefix("root="), "all")
        made.append(np.stack([data.read(index)[1] for index in range(len(data))]))
    assert made[0].shape == (PHOTOS, *SIZE)
    assert all(np.array_equal(labels, made[0]) for labels in made)
    assert np.array_equal(made[0][3], photo(3)[1])


@pytest.mark.slow
def test_the_whole_page(folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = {}
    for line in commands():
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said[line] = done.stdout
    scores = [float(s) for s in re.findall(r"^mIoU ([\d.]+) =", "\n".join(said.values()), re.M)]
    assert len(scores) == 3
    assert min(scores) > 75, "sixty steps suffice for green leaves"
    with Image.open(folder / "predicted/labels/garden.png") as labels:
        found, truth = np.asarray(labels) == 1, photo(PHOTOS)[1] == 1
    assert (found & truth).sum() > 0.7 * (found | truth).sum()
    assert (folder / "predicted/overlay/garden.png").is_file()
    for name in (
        "runs/leaves-trial/scores",
        "runs/leaves-trial/status.json",
        "data/leaves/val.txt",
    ):
        assert (folder / name).exists(), "the page names it"
