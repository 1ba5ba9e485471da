"""What each protocol is worth: the same networks scored in many ways, and what an image costs.

    python tools/protocols.py CAMVID_RUN... [--out docs/results/protocols.json] [--only WORD]
    python tools/protocols.py CAMVID_RUN... --times

For every run: single scale at output strides 16 and 8, flip, scales, windows, and the dense CRF by
pydensecrf. On central crops (128x96; the exact CRF on a CPU takes the square of the pixels) both
backends. With SEGKIT_WEIGHTS also the published VOC network on the two photos with masks. Each
score comes from ``segkit eval``; with ``--times`` the time per image from a second evaluation of
few images, which wants a quiet machine. Scores and times that the file has already are kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from segkit import model_import, parts
from segkit.config import compose
from segkit.data.labels import VOC, LabelSet
from segkit.data.loader import Dataset
from segkit.report.pictures import encode_png
from segkit.report.signature import Signature, score_line
from segkit.whole_files import write_whole

SINGLE = {
    "single scale, own OS": "",
    "single scale, OS 8": "os=8",
    "flip": "flip=true",
    "CRF": "crf=true densecrf.backend=pydensecrf",
    "CRF, v1's parameters": "crf=true densecrf.backend=pydensecrf densecrf.preset=v1_largefov",
    "windows of 257": "eval.window.size=257",
    "windows of 257, weighted": "eval.window.size=257 eval.window.weighting=linear",
}
SCALES = {
    "single scale, own OS": "",
    "six scales": "ms=true",
    "six scales, flip": "ms=true flip=true",
    "six scales, flip, OS 8": "os=8 ms=true flip=true",
    "six scales, flip, OS 8, CRF": "os=8 ms=true flip=true crf=true densecrf.backend=pydensecrf",
}
BACKENDS = {
    "single scale, own OS": "",
    "CRF by pydensecrf": "crf=true densecrf.backend=pydensecrf",
    "CRF, exact": "crf=true densecrf.backend=exact",
}
DEAR = {name: words for name, words in SINGLE.items() if not words or "CRF" in name}

CROP = (96, 128)
PHOTOS = {"bird_segmentation": {3: 3, 0: 0}, "dog_segmentation": {0: 12, 1: 0}}  # mask -> VOC label


@dataclass(frozen=True)
class Subject:
    """A trained network on a data set, and the protocols it is asked by."""

    name: str
    words: tuple[str, ...]
    protocols: dict[str, str]
    timed_images: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=Path("docs/results/protocols.json"))
    parser.add_argument("--only", default="", help="subjects whose name has this word")
    parser.add_argument("--times", action="store_true", help="measure what an image costs")
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for subject in subjects(arguments.runs, place):
            if arguments.only not in subject.name:
                continue
            for protocol, words in subject.protocols.items():
                asked = [*subject.words, *words.split()]
                key = {"subject": subject.name, "protocol": protocol}
                known = next((row for row in rows if row | key == row), None)
                if known is None:
                    known = key | {"words": words} | score(asked, place / "score")
                    rows.append(known)
                elif arguments.times and "seconds_per_image" not in known:
                    known |= cost(asked, subject.timed_images, place / "timed")
                else:
                    continue
                print(known["subject"], known["protocol"], known["miou"], flush=True)
                write_whole(arguments.out, (json.dumps({"rows": rows}, indent=1) + "\n").encode())


def subjects(runs: list[Path], place: Path) -> Iterator[Subject]:
    for run in runs:
        choices = yaml.safe_load((run / "config.yaml").read_text())["choices"]
        name = f"{choices['model']} {choices['backbone']}"
        dear = choices["os"] == "8"  # v1 and v2: half a minute for ten images
        if not dear:
            yield Subject(f"CamVid val, {name}", (f"ckpt={run}",), SINGLE, 6)
        few = 10 if dear else 20
        words = (f"ckpt={run}", f"eval.limit={few}")
        protocols = DEAR if dear else SCALES
        yield Subject(f"CamVid val, first {few} images, {name}", words, protocols, 2)
    if runs:
        values = compose("train", ["dataset=camvid"]).values
        crops = folder_of_crops(parts.dataset_of(values, "val"), place / "crops")
        yield Subject(
            f"CamVid val, central crops of {CROP[1]}x{CROP[0]}",
            (f"ckpt={runs[0]}", "dataset=folder", f"dataset.root={crops}", "eval.limit=30"),
            BACKENDS,
            6,
        )
    weights, data = os.environ.get("SEGKIT_WEIGHTS"), os.environ.get("SEGKIT_DATA")
    if weights and data:
        file = Path(weights) / "deeplabv3_mnv2_pascal_dequant_fp16.pth"
        model_import.main([str(file), "name=voc", f"runs={place / 'runs'}"])
        photos = folder_of_photos(Path(data) / "photos", place / "photos")
        words = (f"ckpt={place / 'runs/voc'}", "dataset=folder", f"dataset.root={photos}")
        yield Subject("two photos, published VOC weights", (*words, "eval.pad=513"), PUBLISHED, 2)


# The published network has no atrous branches: at output stride 8 it is another network.
PUBLISHED = {
    "flip": "flip=true",
    **{k: v for k, v in SCALES.items() if "OS 8" not in k},
    "six scales, flip, CRF": "ms=true flip=true crf=true densecrf.backend=pydensecrf",
}


def score(words: list[str], out: Path) -> dict[str, Any]:
    found = evaluated(words, out)
    line = score_line(found["miou"], Signature.from_dict(found["signature"]))
    kept = {key: found.get(key) for key in ("miou", "images", "boundary", "trimap")}
    return kept | {"line": line}


def cost(words: list[str], images: int, out: Path) -> dict[str, Any]:
    """Seconds per image with the loader in the same process; the load tells who else was there."""
    load = os.getloadavg()[0]
    few = [f"eval.limit={images}", "eval.boundaries=false", "eval.report=false", "workers=0"]
    found = evaluated([*words, *few], out)
    per_image = found["seconds"]["total"] / found["images"]
    return {
        "seconds_per_image": round(per_image, 3),
        "machine": f"{parts.cores()} cores, load {load:.1f} before",
    }


def evaluated(words: list[str], out: Path) -> dict[str, Any]:
    """``score.json`` of one evaluation in a process of its own."""
    command = [sys.executable, "-m", "segkit", "eval", *words, f"out={out}", "device=cpu"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((out / "score.json").read_text())
    return found


def folder_of_crops(dataset: Dataset, root: Path) -> Path:
    """The middle of every image, as a data set ``folder``."""
    ids = []
    for index, name in enumerate(dataset.ids):
        rgb, label = dataset.read(index)
        top, left = ((side - cut) // 2 for side, cut in zip(label.shape, CROP, strict=True))
        window = np.s_[top : top + CROP[0], left : left + CROP[1]]
        ids.append(pair(root, str(name), rgb[window], label[window]))
    return described(root, ids, dataset.labels)


def folder_of_photos(photos: Path, root: Path) -> Path:
    """The photos that have a mask, in VOC's labels."""
    ids = []
    for name, meaning in PHOTOS.items():
        mask = np.array(Image.open(photos / f"{name}_mask.png"))
        label = np.full(mask.shape, VOC.ignore_label, np.uint8)
        for value, meant in meaning.items():
            label[mask == value] = meant
        rgb = np.array(Image.open(photos / f"{name}.png").convert("RGB"))
        ids.append(pair(root, name, rgb, label))
    return described(root, ids, VOC)


def pair(root: Path, name: str, rgb: np.ndarray, label: np.ndarray) -> str:
    for folder, picture in (("images", rgb), ("masks", label.astype(np.uint8))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_whole(root / folder / f"{name}.png", encode_png(Image.fromarray(picture)))
    return name


def described(root: Path, ids: list[str], labels: LabelSet) -> Path:
    (root / "val.txt").write_text("".join(f"{name}\n" for name in ids))
    (root / "train.txt").write_text("".join(f"{name}\n" for name in ids))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in labels.names))
    return root


if __name__ == "__main__":
    main()
