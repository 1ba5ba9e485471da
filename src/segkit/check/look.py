"""One pair, decoded once: the few plain facts that everything else is made of."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from segkit.data.dataset import Dataset
from segkit.data.images import check_same_size, decode, peek, read_image
from segkit.data.masks import check_labels, strange_values
from segkit.data.pairs import FilePairs
from segkit.errors import DataError, RefusedError, SegkitError

DIGEST_BYTES = 16
LOOK_SIDE = 16
LOOK_BYTES = LOOK_SIDE * LOOK_SIDE // 8
_FLATTEST = 2.0  # grey levels of spread; below it the look is noise
_MOST_STRANGE = 32

T = TypeVar("T")


@dataclass
class PairFacts:
    """What is known of a pair; what could not be read keeps its default.

    ``size`` is (width, height) of the upright image. ``digest`` is one of the decoded pixels, so
    that another container of the same pixels, or other metadata, is the same image. ``look`` is a
    hash of the coarse structure (difference hash), which a smaller or re-encoded copy nearly keeps;
    empty for a flat image. ``strange`` is what a refused mask holds that is no label, the most
    frequent first and at most 32 of ``strange_kinds``. ``labels`` are (label, pixels).
    """

    faults: list[SegkitError] = field(default_factory=list)
    size: tuple[int, int] | None = None
    orientation: int = 1
    mask_kind: str = ""
    digest: bytes = b""
    mask_digest: bytes = b""
    look: bytes = b""
    channel_sums: tuple[float, ...] = ()
    channel_squares: tuple[float, ...] = ()
    labels: tuple[tuple[int, int], ...] = ()
    strange: tuple[tuple[int | tuple[int, int, int], int], ...] = ()
    strange_kinds: int = 0


def look_at(dataset: Dataset, index: int) -> PairFacts:
    """Decode sample ``index``. Faults of the files are facts; those of the machine are raised."""
    facts = PairFacts()
    image: np.ndarray | None = None
    label: np.ndarray | None = None
    if isinstance(dataset, FilePairs):
        image, label = _read_files(dataset, index, facts)
    elif (pair := _attempt(facts, lambda: _read(dataset, index))) is not None:
        image, label = pair
    if image is not None:
        _describe_image(image, facts)
    if label is not None:
        facts.mask_digest = _digest(label)
        values, counts = np.unique(label, return_counts=True)
        facts.labels = tuple(zip(values.tolist(), counts.tolist(), strict=True))
    return facts


def _read(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample of somebody's own class, whose labels nobody has looked at yet."""
    image, label = dataset.read(index)
    check_labels(str(dataset.ids[index]), label, dataset.labels)
    return image, label


def _read_files(
    pairs: FilePairs, index: int, facts: PairFacts
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``pairs.read``, but going on to the mask where the image is bad."""
    path, mask_path = pairs.image_path(index), pairs.mask_path(index)
    image = _attempt(facts, lambda: read_image(path, pairs.max_pixels))
    if image is not None:
        _, facts.orientation = peek(path)
    if not getattr(pairs, "has_labels", True):
        return image, None
    label = _attempt(facts, lambda: pairs.read_label(index))
    if label is not None:
        facts.mask_kind, _ = peek(mask_path)
    else:
        _describe_refused(pairs, mask_path, facts)
    if image is not None and label is not None:
        _attempt(facts, lambda: check_same_size(path, image, mask_path, label))
    return image, label


def _describe_refused(pairs: FilePairs, path: Path, facts: PairFacts) -> None:
    """What a mask holds that is no label, where it is a mask at all."""
    with suppress(DataError, RefusedError):
        stored = decode(path, pairs.max_pixels)
        facts.mask_kind = stored.image.mode
        if stored.format == "PNG":  # the values of a JPEG are nobody's
            strange = strange_values(
                stored,
                pairs.labels,
                colour_table=pairs.colour_table,
                value_table=pairs.value_table,
            )
            facts.strange, facts.strange_kinds = tuple(strange[:_MOST_STRANGE]), len(strange)


def _attempt(facts: PairFacts, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (DataError, RefusedError) as error:
        facts.faults.append(error)
        return None


def _describe_image(image: np.ndarray, facts: PairFacts) -> None:
    height, width = image.shape[:2]
    facts.size = (width, height)
    facts.digest = _digest(image)
    facts.look = look_of(image)
    mean, spread = (np.ravel(moment) for moment in cv2.meanStdDev(image))
    pixels = height * width
    facts.channel_sums = tuple((mean * pixels).tolist())
    facts.channel_squares = tuple(((mean**2 + spread**2) * pixels).tolist())


def _digest(array: np.ndarray) -> bytes:
    """Of shape and pixels; BLAKE2 reads about 1 GB/s, far more than a decoder gives."""
    found = blake2b(repr(array.shape).encode(), digest_size=DIGEST_BYTES)
    found.update(np.ascontiguousarray(array).data)
    return found.digest()


def look_of(image: np.ndarray) -> bytes:
    """256 bits: whether each cell of a 17×16 grid is brighter than its left neighbour."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (LOOK_SIDE + 1, LOOK_SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < _FLATTEST:
        return b""
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()
