"""D1 and D2 through the command: files of a data set that are no pictures."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cases import Case, Prepare
from PIL import Image
from sandbox import TINY, Sandbox

NAMES = [f"{number:03d}" for number in range(4)]
FILE = {"images": "002.jpg", "labels": "002.png"}
CAMVID = (
    *("dataset=camvid", "dataset.root=camvid", "dataset.train_split=train"),
    *("eval.every=3", "augment.crop=33"),
)


def camvid(box: Sandbox) -> Path:
    """Four frames in the layout of CamVid."""
    root = box.work / "camvid"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        pixels = rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{name}.jpg")
        Image.fromarray(pixels[..., 0] % 11).save(root / f"labels/{name}.png")
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("\n".join(NAMES))
    return root


def cut(percent: int, form: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        Image.open(path).save(path, format=form)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * percent // 100])

    return damage


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": replaced(lambda path: path.write_bytes(b"")),
    "text": replaced(lambda path: path.write_text("not a picture\n")),
    "html": replaced(lambda path: path.write_text("<!DOCTYPE html><html>404</html>")),
    "folder": replaced(lambda path: path.mkdir()),
    "dangling-link": replaced(lambda path: path.symlink_to("nowhere")),
    "fifo": replaced(os.mkfifo),
    **{f"png-{p}": cut(p, "PNG") for p in (2, 50, 99)},
    **{f"jpeg-{p}": cut(p, "JPEG") for p in (2, 50, 99)},
}


FAST = ("empty", "fifo", "jpeg-50")


def damaged(folder: str, damage: str, workers: int) -> Prepare:
    def prepare(box: Sandbox) -> tuple[str, ...]:
        root = camvid(box)
        DAMAGES[damage](root / folder / FILE[folder])
        words = [w for w in TINY if not w.startswith("dataset.")]
        return *words, *CAMVID, f"workers={workers}"

    return prepare


CASES = [
    Case(
        "D1" if damage[-1].isdigit() else "D2", f"{damage}-{folder}",
        damaged(folder, damage, number % 2), 3,
        "DATA-MISSING-FILE" if damage == "dangling-link" else
        "DATA-UNREADABLE",
        f"camvid/{folder}/{FILE[folder]}", seconds=5, status=True,
        speed="fast" if damage in FAST else "slow",
    )
    for number, damage in enumerate(DAMAGES)
    for folder in ("images", "labels")
]  # fmt: skip
