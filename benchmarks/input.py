"""What a training sample costs: our input, and albumentations as ports of the papers use it.

    python benchmarks/input.py [--rounds 25] [--out docs/results/input.json]

One thread, processor time per sample (what else runs on the machine hardly counts), every row in
every round on the same sample, medians over rounds; a ratio is the median of its rounds' ratios.

The 2048×1024 pairs are drawn: clouds of four sizes with a grain, smooth enough for PNG encoders to
take the filters they take for street scenes (Paeth for nine rows in ten, as Cityscapes' own files),
3.5 MB each; the masks hold labelIds in patches. Decoding is most of what they cost, and has rows of
its own. The 500×375 pairs are the same kind of picture as JPEG, with palette masks, as VOC's are.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image

from segkit.data.cache import on_disk
from segkit.data.labels import CITYSCAPES, CITYSCAPES_CLASS_OF, VOC
from segkit.data.loader import Dataset
from segkit.data.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise, mean_pixel
from segkit.data.pairs import FilePairs, Layout
from segkit.data.transforms import TrainTransform

Row = Callable[[int], object]

# What was promised: how many times the port's cost ours goes into it.
BARS = {
    ("large", "segkit, uncached"): 1.15,
    ("large", "segkit, dataset.cache=disk"): 15.0,
    ("small", "segkit, uncached"): 1.0,
}
TITLES = {"large": "2048×1024 PNG, crop 769", "small": "500×375 JPEG, crop 513"}
THEIRS = "albumentations, read by OpenCV"


# -- pictures ----------------------------------------------------------------------------------


def clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    coarse = rng.standard_normal((cells, 2 * cells, 3), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((6, 70), (30, 40), (150, 18)):
        picture += strength * clouds(rng, height, width, cells)
    picture += 3 * rng.standard_normal((height, width, 1), dtype=np.float32)
    picture += rng.standard_normal((height, width, 3), dtype=np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def mask(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    field = clouds(rng, height, width, 12)[..., 0]
    return np.digitize(field, np.quantile(field, np.linspace(0, 1, count + 1)[1:-1])).astype("u1")


def large_pairs(root: Path, count: int) -> FilePairs:
    for number in range(count):
        rng = np.random.default_rng(number)
        save(root / f"images/{number}.png", Image.fromarray(photo(rng, 1024, 2048)))
        save(root / f"masks/{number}.png", Image.fromarray(mask(rng, 1024, 2048, 34)))
    layout = Layout("large", "", "images", "masks", "list.txt", image_suffix=".png")
    write_list(root, count)
    return FilePairs(root, layout, CITYSCAPES, value_table=CITYSCAPES_CLASS_OF)


def small_pairs(root: Path, count: int) -> FilePairs:
    for number in range(count):
        rng = np.random.default_rng(number)
        save(root / f"images/{number}.jpg", Image.fromarray(photo(rng, 375, 500)), quality=92)
        indexed = Image.fromarray(mask(rng, 375, 500, 21)).convert("P")
        indexed.putpalette(np.array(VOC.colours, np.uint8).tobytes())
        save(root / f"masks/{number}.png", indexed)
    write_list(root, count)
    return FilePairs(root, Layout("small", "", "images", "masks", "list.txt"), VOC)


def save(path: Path, image: Image.Image, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_list(root: Path, count: int) -> None:
    (root / "list.txt").write_text("".join(f"{number}\n" for number in range(count)))


# -- rows --------------------------------------------------------------------------------------


def port(pairs: FilePairs, crop: int, read: Callable[[str], np.ndarray]) -> Row:
    """A port's data set: decode, five transforms, a place in the float batch."""
    table = np.arange(256, dtype=np.uint8)
    for value, label in (pairs.value_table or {}).items():
        table[value % 256] = label
    fill = {"border_mode": cv2.BORDER_CONSTANT, "fill": mean_pixel(IMAGENET_MEAN), "fill_mask": 255}
    transform = A.Compose(
        [
            A.RandomScale(scale_limit=(-0.5, 1.0), p=1.0),
            A.PadIfNeeded(crop, crop, **fill),
            A.RandomCrop(crop, crop),
            A.HorizontalFlip(p=0.5),
            A.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
    images, labels = np.empty((3, crop, crop), np.float32), np.empty((crop, crop), np.uint8)

    def row(number: int) -> None:
        transform.set_random_seed(number)
        index = number % len(pairs)
        label = np.asarray(Image.open(pairs.mask_path(index)))
        if pairs.value_table:
            label = table[label]
        made = transform(image=read(str(pairs.image_path(index))), mask=label)
        images[:], labels[:] = made["image"].transpose(2, 0, 1), made["mask"]

    return row


def by_opencv(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def by_pillow(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def ours(dataset: Dataset, crop: int) -> Row:
    """What a worker does: read, augment, a place in the batch of bytes."""
    transform = TrainTransform(crop)
    images, labels = np.empty((crop, crop, 3), np.uint8), np.empty((crop, crop), np.uint8)

    def row(number: int) -> None:
        images[:], labels[:] = transform(*dataset.read(number % len(dataset)), number)

    return row


def first_reading(pairs: FilePairs, path: Path, crop: int) -> Row:
    """From the cache, with the checksum of a sample that nobody has read before."""

    def row(number: int) -> float:
        row = ours(cached(pairs, path), crop)
        began = time.thread_time()
        row(number)
        return time.thread_time() - began

    return row


def normalising(crop: int) -> Row:
    normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
    images = torch.zeros((1, crop, crop, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return lambda _: normalise(images)


def cached(pairs: FilePairs, path: Path) -> Dataset:
    return on_disk(
        pairs, path, "0" * 32, without=(), workers=0, say=lambda _: None, should_stop=lambda: False
    )


def rows_of(pairs: FilePairs, path: Path, crop: int) -> dict[str, Row]:
    def decoding(read: Callable[[str], np.ndarray]) -> Row:
        return lambda number: read(str(pairs.image_path(number % len(pairs))))

    return {
        THEIRS: port(pairs, crop, by_opencv),
        "albumentations, read by Pillow": port(pairs, crop, by_pillow),
        "segkit, uncached": ours(pairs, crop),
        "segkit, dataset.cache=disk": ours(cached(pairs, path), crop),
        "segkit, the cache's first reading": first_reading(pairs, path, crop),
        "decoding the image alone, OpenCV": decoding(by_opencv),
        "decoding the image alone, Pillow": decoding(by_pillow),
        "decoding both with every check, segkit": lambda n: pairs.read(n % len(pairs)),
        "normalising on the device (this CPU)": normalising(crop),
    }


# -- measuring ---------------------------------------------------------------------------------


def measured(rows: dict[str, Row], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time, one list for each row; the first two rounds warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(-2, rounds):
        for name, row in rows.items():
            began = time.thread_time()
            own = row(number + 2)
            spent = own if isinstance(own, float) else time.thread_time() - began
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def summary(kind: str, seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name, mine in seconds.items():
        ratios = [a / b for a, b in zip(seconds[THEIRS], mine, strict=True)]
        bar = BARS.get((kind, name))
        ratio = statistics.median(ratios)
        found.append(
            {
                "row": name,
                "milliseconds": round(1e3 * statistics.median(mine), 2),
                "times_as_fast_as_albumentations": round(ratio, 2),
                "bar": bar,
                "met": None if bar is None else ratio >= bar,
            }
        )
    return found


def machine() -> dict[str, object]:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = {m.__name__: m.__version__ for m in (A, cv2, np, torch)} | {
        "PIL": Image.__version__,
        "python": platform.python_version(),
    }
    return {"cpu": cpu, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), **versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    document: dict[str, object] = {"machine": machine(), "rounds": options.rounds}
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        for kind, make, crop in (("large", large_pairs, 769), ("small", small_pairs, 513)):
            pairs = make(room / kind, 5 if kind == "large" else 20)
            rounds = options.rounds * (1 if kind == "large" else 4)
            found = summary(kind, measured(rows_of(pairs, room / f"{kind}.cache", crop), rounds))
            document[kind] = found
            print(f"\n{TITLES[kind]:40} ms/sample  ratio  bar")
            for row in found:
                verdict = "met" if row["met"] else "MISSED"
                bar = "" if row["bar"] is None else f"{row['bar']} {verdict}"
                ratio = row["times_as_fast_as_albumentations"]
                print(f"{row['row']:40} {row['milliseconds']:9} {ratio:6}  {bar}")
                missed += row["met"] is False
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
