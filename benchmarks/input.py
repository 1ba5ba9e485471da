"""What a training sample costs: our input, and what ports of the papers and torchvision do.

    python benchmarks/input.py [--rounds 25]

One thread, processor time per sample (what else runs on the machine hardly counts), every row in
every round on the same sample. Ours is told twice: whole, normalised to floats
on this CPU as the others are, which alone has a bar; and as the bytes that a loader's worker hands
to a GPU, which normalises them. What is the same is the work, not the pixels: each draws and rounds
its own way. The scale is drawn from 0.5 to 2 by all, the crop is as large, flips are as frequent;
ours resizes only the part that the crop shows. Beside ours, each with a place in the batch:

- albumentations, as ports of the papers use it: OpenCV or Pillow decodes, RandomScale, PadIfNeeded,
  RandomCrop, HorizontalFlip, Normalize
- torchvision's reference presets (references/segmentation): Pillow decodes and resizes the whole
  picture, then the crop is taken; what who trains torchvision's own DeepLab runs. Its base size is
  the reference's 520 for VOC's pictures, 1024 (their own) for Cityscapes'

The 2048×1024 pairs are drawn: clouds of four sizes with a grain, smooth enough for PNG encoders to
take the filters they take for street scenes (Paeth for nine rows in ten, as Cityscapes' own files),
3.5 MB each; the masks hold labelIds in patches. Decoding is most of what they cost, and has rows of
its own. The 500×375 pairs are the same kind of picture as JPEG, with palette masks, as VOC's are.
"""

import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from common import Row, compared, grown, in_fresh_process, run, taken
from PIL import Image
from torchvision.transforms import functional as F

from segkit.data.cache import on_disk
from segkit.data.labels import CITYSCAPES, CITYSCAPES_CLASS_OF, VOC
from segkit.data.loader import Dataset
from segkit.data.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise, mean_pixel
from segkit.data.pairs import FilePairs, Layout
from segkit.data.transforms import TrainTransform

TITLE = "a training sample"
SECONDS = 60
PORT, PRESET = "albumentations, read by OpenCV", "torchvision's presets"
BYTES, HERE = "bytes, as a GPU gets them", "normalised on this CPU"
UNCACHED, CACHED = "segkit, uncached", "segkit, dataset.cache=disk"

Sampled = Callable[[int], object]  # makes the sample of a number


@dataclass(frozen=True)
class Kind:
    """Pictures of one size, and what was promised: ratios by (ours, theirs)."""

    title: str
    make: Callable[[Path, int], FilePairs]
    pairs: int
    crop: int
    base: int
    bars: dict[tuple[str, str], float]
    rounds: int  # for each one asked for: small samples are cheap


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
    for number in range(0 if (root / "list.txt").exists() else count):
        rng = np.random.default_rng(number)
        save(root / f"images/{number}.png", Image.fromarray(photo(rng, 1024, 2048)))
        save(root / f"masks/{number}.png", Image.fromarray(mask(rng, 1024, 2048, 34)))
    layout = Layout("large", "", "images", "masks", "list.txt", image_suffix=".png")
    write_list(root, count)
    return FilePairs(root, layout, CITYSCAPES, value_table=CITYSCAPES_CLASS_OF)


def small_pairs(root: Path, count: int) -> FilePairs:
    for number in range(0 if (root / "list.txt").exists() else count):
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


# -- who reads -----------------------------------------------------------------------------------


def port(pairs: FilePairs, crop: int, read: Callable[[str], np.ndarray]) -> Sampled:
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


def torchvision_preset(pairs: FilePairs, crop: int, base: int) -> Sampled:
    """What references/segmentation does with PIL images: resize, flip, pad, crop, to tensors.

    The shorter side is drawn from half to twice ``base``, whatever the picture's own size. The
    reference's default is 520, for pictures of VOC's size.
    """
    table = np.arange(256, dtype=np.uint8)
    for value, label in (pairs.value_table or {}).items():
        table[value % 256] = label
    images, labels = torch.empty((3, crop, crop)), torch.empty((crop, crop), dtype=torch.int64)

    def row(number: int) -> None:
        draw = random.Random(number)
        index = number % len(pairs)
        image = Image.open(pairs.image_path(index)).convert("RGB")
        target = Image.open(pairs.mask_path(index))
        if pairs.value_table:
            target = Image.fromarray(table[np.asarray(target)])
        side = draw.randint(base // 2, 2 * base)
        image = F.resize(image, side, antialias=True)
        target = F.resize(target, side, interpolation=F.InterpolationMode.NEAREST)
        if draw.random() < 0.5:
            image, target = F.hflip(image), F.hflip(target)
        if min(image.size) < crop:
            right, below = (max(crop - size, 0) for size in image.size)
            image = F.pad(image, [0, 0, right, below], fill=0)
            target = F.pad(target, [0, 0, right, below], fill=255)
        top, left = draw.randint(0, image.height - crop), draw.randint(0, image.width - crop)
        image, target = (F.crop(part, top, left, crop, crop) for part in (image, target))
        image = F.convert_image_dtype(F.pil_to_tensor(image), torch.float)
        images[:] = F.normalize(image, IMAGENET_MEAN, IMAGENET_STD)
        labels[:] = torch.as_tensor(np.array(target), dtype=torch.int64)

    return row


def by_opencv(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def by_pillow(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def ours(dataset: Dataset, crop: int) -> Sampled:
    """What a worker does: read, augment, a place in the batch of bytes."""
    transform = TrainTransform(crop)
    images, labels = np.empty((crop, crop, 3), np.uint8), np.empty((crop, crop), np.uint8)

    def row(number: int) -> None:
        images[:], labels[:] = transform(*dataset.read(number % len(dataset)), number)

    return row


def first_reading(pairs: FilePairs, path: Path, crop: int) -> Sampled:
    """From the cache, with the checksum of a sample that nobody has read before."""

    def row(number: int) -> float:
        read = ours(cached(pairs, path), crop)
        began = time.thread_time()
        read(number)
        return time.thread_time() - began

    return row


def whole(dataset: Dataset, crop: int) -> Sampled:
    """``ours``, and what the training step does with it on a CPU: floats, as the others give."""
    sample, normalised = ours(dataset, crop), normalising(crop)

    def row(number: int) -> None:
        sample(number)
        normalised(number)

    return row


def normalising(crop: int) -> Sampled:
    normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
    images = torch.zeros((1, crop, crop, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return lambda _: normalise(images)


def cached(pairs: FilePairs, path: Path) -> Dataset:
    return on_disk(
        pairs, path, "0" * 32, without=(), workers=0, say=lambda _: None, should_stop=lambda: False
    )


def works_of(kind: Kind, pairs: FilePairs, path: Path) -> dict[str, Sampled]:
    def decoding(read: Callable[[str], np.ndarray]) -> Sampled:
        return lambda number: read(str(pairs.image_path(number % len(pairs))))

    crop = kind.crop
    return {
        PORT: port(pairs, crop, by_opencv),
        "albumentations, read by Pillow": port(pairs, crop, by_pillow),
        PRESET: torchvision_preset(pairs, crop, kind.base),
        f"{UNCACHED}, {HERE}": whole(pairs, crop),
        f"{UNCACHED}, {BYTES}": ours(pairs, crop),
        f"{CACHED}, {HERE}": whole(cached(pairs, path), crop),
        f"{CACHED}, {BYTES}": ours(cached(pairs, path), crop),
        "segkit, the cache's first reading, bytes": first_reading(pairs, path, crop),
        "decoding the image alone, OpenCV": decoding(by_opencv),
        "decoding the image alone, Pillow": decoding(by_pillow),
        "decoding both with every check, segkit": lambda n: pairs.read(n % len(pairs)),
        "normalising on the device (this CPU)": normalising(crop),
    }


# -- rows --------------------------------------------------------------------------------------

KINDS = (
    Kind(
        "500x375 JPEG, crop 513", small_pairs, 20, 513, 520,
        {(UNCACHED, PORT): 1.0, (UNCACHED, PRESET): 1.5}, 4,
    ),
    Kind(
        "2048x1024 PNG, crop 769", large_pairs, 5, 769, 1024,
        {
            **dict.fromkeys(((UNCACHED, PORT), (UNCACHED, PRESET)), 1.15),
            **dict.fromkeys(((CACHED, PORT), (CACHED, PRESET)), 15.0),
        },
        1,
    ),
)  # fmt: skip


def numbered(work: Sampled) -> Callable[[], object]:
    """``work`` on one sample after the other, the same ones in every row."""
    numbers = itertools.count()
    return lambda: work(next(numbers))


def peak(kind: Kind, room: Path, name: str) -> int:
    """Bytes that as many samples as there are pairs cost a process that made none before."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    work = works_of(kind, kind.make(room / "files", kind.pairs), room / "samples.cache")[name]
    return grown(lambda: [work(number) for number in range(kind.pairs)])


def rows_of(kind: Kind, room: Path, rounds: int) -> list[Row]:
    """Every way beside the port, and ours beside the presets."""
    works = works_of(kind, kind.make(room / "files", kind.pairs), room / "samples.cache")
    ways = {name: numbered(work) for name, work in works.items()}
    # The cache looks at each sample once, at its first reading, which has a row of its own.
    warm = kind.pairs
    seconds = taken(ways, rounds=kind.rounds * rounds, warm=warm, clock=time.thread_time)
    mine = tuple(name for name in works if name.startswith((UNCACHED, CACHED)))
    peaks = {name: in_fresh_process(peak, kind, room, name) for name in (*mine, PORT, PRESET)}
    found = []
    for theirs in (PORT, PRESET):
        for name in works if theirs == PORT else mine:
            if name != theirs:
                pair = compared(seconds[name], seconds[theirs])
                memory = {"peak": peaks.get(name), "their_peak": peaks[theirs]}
                bar = kind.bars.get((name.removesuffix(f", {HERE}"), theirs))
                found.append(Row(f"{kind.title}: {name}", theirs, **pair, **memory, least=bar))
    return found


def rows(rounds: int, device: str) -> list[Row]:
    """Nothing on CUDA: samples are made on the CPU."""
    if device == "cuda":
        return []
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(KINDS):
            found += rows_of(kind, Path(folder) / str(number), rounds)
    return found


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=25))
