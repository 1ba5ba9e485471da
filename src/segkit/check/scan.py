"""Every pair of a split, in parallel, as sums over the split and a few bytes for each pair."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from segkit.check.look import DIGEST_BYTES, LOOK_BYTES, PairFacts, look_at
from segkit.data.bars import shown
from segkit.data.dataset import Dataset
from segkit.data.labels import LabelSet
from segkit.data.workers import Note, in_order

# Small pairs take less than a message to a worker and back; some must always be on their way.
_PREFETCH = 16


@dataclass
class Survey:
    """What a scan knows of a split of n samples and C classes.

    ``digests``, ``mask_digests`` (n of 16 bytes) and ``looks`` (n of 32) are zero where there is
    none, ``sizes`` [n,2] are (width, height). ``pixels``, ``images`` and ``present`` [C] count
    pixels of a class, images that show it, and all pixels of those images; ``void`` and ``total``
    are pixels of masks, ``colour_sums`` and ``colour_squares`` [3] run over ``seen`` pixels of
    images. ``faulty`` holds the facts of those samples alone in which something is to be told.
    """

    split: str
    dataset: Dataset
    digests: np.ndarray
    mask_digests: np.ndarray
    looks: np.ndarray
    sizes: np.ndarray
    pixels: np.ndarray
    images: np.ndarray
    present: np.ndarray
    colour_sums: np.ndarray
    colour_squares: np.ndarray
    void: int = 0
    total: int = 0
    seen: int = 0
    mask_kinds: Counter[str] = field(default_factory=Counter)
    faulty: dict[int, PairFacts] = field(default_factory=dict)

    @classmethod
    def of(cls, split: str, dataset: Dataset) -> "Survey":
        """Of nothing yet."""
        count, classes = len(dataset), dataset.labels.num_classes
        return cls(
            split,
            dataset,
            digests=np.zeros((count, DIGEST_BYTES), np.uint8),
            mask_digests=np.zeros((count, DIGEST_BYTES), np.uint8),
            looks=np.zeros((count, LOOK_BYTES), np.uint8),
            sizes=np.zeros((count, 2), np.int32),
            pixels=np.zeros(classes, np.int64),
            images=np.zeros(classes, np.int64),
            present=np.zeros(classes, np.int64),
            colour_sums=np.zeros(3),
            colour_squares=np.zeros(3),
        )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> LabelSet:
        return self.dataset.labels

    def id(self, index: int) -> str:
        return str(self.dataset.ids[index])

    def image(self, index: int) -> str:
        """The image's file, or the sample's id where it has none."""
        path = getattr(self.dataset, "image_path", self.id)
        return str(path(index))

    def mask(self, index: int) -> str:
        path = getattr(self.dataset, "mask_path", self.id)
        return str(path(index))

    def add(self, index: int, facts: PairFacts) -> None:
        """Take in what was found in one pair."""
        for row, found in (
            (self.digests, facts.digest),
            (self.mask_digests, facts.mask_digest),
            (self.looks, facts.look),
        ):
            if found:
                row[index] = np.frombuffer(found, np.uint8)
        if facts.size:
            self.sizes[index] = facts.size
            self.seen += facts.size[0] * facts.size[1]
            self.colour_sums += facts.channel_sums
            self.colour_squares += facts.channel_squares
        if facts.mask_kind:
            self.mask_kinds[facts.mask_kind] += 1
        void_only = self._add_labels(facts)
        if facts.faults or facts.orientation != 1 or void_only:
            self.faulty[index] = facts

    def _add_labels(self, facts: PairFacts) -> bool:
        """Count the pixels of a mask; whether all of them are void."""
        size = sum(pixels for _, pixels in facts.labels)
        self.total += size
        classes = [(label, n) for label, n in facts.labels if label < self.labels.num_classes]
        for label, pixels in classes:
            self.pixels[label] += pixels
            self.images[label] += 1
            self.present[label] += size
        self.void += size - sum(pixels for _, pixels in classes)
        return bool(facts.labels) and not classes


def scan(split: str, dataset: Dataset, workers: int) -> Survey:
    """Decode every pair in ``workers`` processes, with a bar.

    Raises what ``in_order`` raises: faults of the files are no exceptions here.
    """
    survey = Survey.of(split, dataset)

    def work(index: int, note: Note) -> PairFacts:
        note(index)
        return look_at(dataset, index)

    tasks = range(len(dataset))
    results = in_order(tasks, work, workers=workers, name_of=survey.image, prefetch=_PREFETCH)
    for index, facts in enumerate(shown(results, split, len(tasks), "pair")):
        survey.add(index, facts)
    return survey
