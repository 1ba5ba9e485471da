"""Small data sets on disk, and the command's answer about them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import jpeg, png, write

from segkit import cli
from segkit.errors import ExitCode

CLASSES = ("road", "sky", "tree")
HEIGHT, WIDTH = 24, 32


def photo(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colours, RGB uint8 [H,W,3], as different from one another as photos are."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)


def mask(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Labels of all of ``CLASSES`` and void, uint8 [H,W]."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))


@dataclass
class SmallFolder:
    """A data set for ``dataset=folder``; lists are written by ``lists``."""

    root: Path

    def fill(self, names: str = "a b c d e f", first_seed: int = 0) -> "SmallFolder":
        """A pair for each of the names, and the classes."""
        write(self.root / "classes.txt", "\n".join(CLASSES).encode())
        for seed, name in enumerate(names.split(), first_seed):
            self.image(name, jpeg(photo(seed)))
            self.mask(name, png(mask(seed)))
        return self

    def image(self, name: str, content: bytes, ending: str = ".jpg") -> Path:
        return write(self.root / f"images/{name}{ending}", content)

    def mask(self, name: str, content: bytes) -> Path:
        return write(self.root / f"masks/{name}.png", content)

    def lists(self, **splits: str) -> "SmallFolder":
        for split, names in splits.items():
            write(self.root / f"{split}.txt", "\n".join(names.split()).encode())
        return self


@dataclass
class Answer:
    """What the command said: its exit code, its JSON, the last line of stderr."""

    code: int
    facts: dict[str, Any]
    error: str

    def found(self, name: str) -> list[dict[str, Any]]:
        """The findings of that id."""
        return [finding for finding in self.facts["findings"] if finding["id"] == name]

    def one(self, name: str) -> dict[str, Any]:
        """The only finding of that id."""
        (finding,) = self.found(name)
        return finding

    @property
    def ids(self) -> list[str]:
        return sorted({finding["id"] for finding in self.facts["findings"]})


def checked(
    capsys: pytest.CaptureFixture[str], where: Path | str, *words: str, workers: int = 0
) -> Answer:
    """``segkit data check WHERE WORDS --json``."""
    capsys.readouterr()
    code = cli.main(["data", "check", str(where), *words, f"workers={workers}", "--json"])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    last = (told.err.splitlines() or [""])[-1]
    assert last.startswith("segkit: error[DATA-CHECK]: ") == (code == ExitCode.DATA), told.err
    answer = Answer(code, json.loads(told.out), last)
    assert (answer.facts["errors"] > 0) == (code == ExitCode.DATA)
    return answer


def wheres(findings: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the files that findings are about."""
    return sorted(Path(finding["where"]).name for finding in findings)
