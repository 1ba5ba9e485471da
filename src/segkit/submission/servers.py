"""The two servers: names, folders, values and pictures of the label maps that they take."""

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from segkit.data.cityscapes import Cityscapes
from segkit.data.images import size_of
from segkit.data.labels import (
    CITYSCAPES,
    CITYSCAPES_IDS,
    CITYSCAPES_TABLE,
    VOC,
    LabelSet,
    interleaved_colour,
)
from segkit.data.pairs import FilePairs
from segkit.data.voc import Voc

_VOC_IMAGES = 1456  # of test (facts 5.1)
COMPS = (5, 6)
Size = tuple[int, int]  # height, width


class Server(ABC):
    """A benchmark's server and one split of its images.

    ``allowed`` are the values that a label map may hold, ``archive`` is the name of what is
    uploaded, ``packing`` its kind in words. ``passes_over``: whether files that are no label maps
    are left alone.
    """

    name: ClassVar[str]
    labels: ClassVar[LabelSet]
    archive: ClassVar[str]
    packing: ClassVar[str]
    passes_over: ClassVar[bool]
    allowed: ClassVar[range]
    address: ClassVar[str]

    def __init__(self, images: FilePairs, split: str) -> None:
        self.images, self.split = images, split

    @abstractmethod
    def member(self, sample: str) -> str:
        """Where the label map of the image ``sample`` stands in the archive."""

    @abstractmethod
    def sample_of(self, member: str) -> str | None:
        """The image whose label map the server takes the file ``member`` for."""

    @abstractmethod
    def encoded(self, found: np.ndarray) -> bytes:
        """A label map [H, W] of classes as the PNG that the server reads."""

    @abstractmethod
    def classes(self, values: np.ndarray) -> np.ndarray:
        """The inverse of ``encoded``: values of a PNG -> classes."""

    def sizes(self) -> dict[str, Size]:
        """Every image and its size, from the files' headers."""
        paths = map(self.images.image_path, range(len(self.images)))
        return {str(i): size_of(path) for i, path in zip(self.images.ids, paths, strict=True)}

    @property
    def task(self) -> str:
        """The server and the one of its competitions that is meant, as part of a folder's name."""
        return self.name

    def advice(self, members: Iterable[str]) -> str:  # noqa: ARG002
        """What to type instead, where these files, none of them wanted, answer another question."""
        return ""

    @property
    def shortage(self) -> str:
        """What this copy of the test split lacks, where its reader does not say so itself."""
        return ""

    def doubt(self, seen: Set[int]) -> str:  # noqa: ARG002
        """What is odd about the values that occur in a whole archive; empty where nothing is."""
        return ""


class VocServer(Server):
    """PASCAL VOC 2012 (devkit; facts 5.1): palette PNGs of the classes 0..20, without void.

    ``comp`` is 6 where anything but VOC's own trainval was trained on, such as ImageNet weights,
    SBD masks or COCO, and 5 otherwise.
    """

    name = "voc"
    labels = VOC
    archive = "results.tgz"
    packing = "a tar packed with gzip"
    passes_over = False
    allowed = range(VOC.num_classes)
    address = "host.robots.ox.ac.uk:8080"

    def __init__(self, root: str | Path | None, split: str, comp: int = 6) -> None:
        super().__init__(Voc(root, split), split)
        self.comp = comp
        self._samples = {str(i) for i in self.images.ids}

    def member(self, sample: str) -> str:
        return f"{self._folder(self.comp)}/{sample}.png"

    def _folder(self, comp: int) -> str:
        return f"results/VOC2012/Segmentation/comp{comp}_{self.split}_cls"

    @property
    def task(self) -> str:
        return f"{self.name}-comp{self.comp}"

    def advice(self, members: Iterable[str]) -> str:
        folders = {str(PurePosixPath(member).parent) for member in members}
        other = next((comp for comp in COMPS if self._folder(comp) in folders), self.comp)
        return f"this is comp{other}: type comp={other}" if other != self.comp else ""

    def sample_of(self, member: str) -> str | None:
        sample = Path(member).stem
        return sample if sample in self._samples and member == self.member(sample) else None

    @property
    def shortage(self) -> str:
        here = len(self.images)
        if self.split != "test" or here == _VOC_IMAGES:
            return ""
        return f"{here} of the {_VOC_IMAGES} images of test are here"

    def encoded(self, found: np.ndarray) -> bytes:
        image = Image.fromarray(np.ascontiguousarray(found, np.uint8), "P")
        image.putpalette([part for label in range(256) for part in interleaved_colour(label)])
        return _png(image)

    def classes(self, values: np.ndarray) -> np.ndarray:
        return values


class CityscapesServer(Server):
    """Cityscapes (cityscapesScripts' evalPixelLevelSemanticLabeling): grey PNGs of labelIds.

    A label map is the one file, in any folder, whose name begins with the image's city, sequence
    and frame.
    """

    name = "cityscapes"
    labels = CITYSCAPES
    archive = "results.zip"
    packing = "a zip"
    passes_over = True  # getPrediction looks for the file of each image, and for no others
    allowed = range(max(label_id for label_id, *_ in CITYSCAPES_TABLE) + 1)
    address = "www.cityscapes-dataset.com"

    def __init__(self, root: str | Path | None, split: str) -> None:
        super().__init__(Cityscapes(root, split), split)
        self._ids = np.array(CITYSCAPES_IDS, np.uint8)
        self._classes = np.full(256, CITYSCAPES.ignore_label, np.uint8)
        self._classes[self._ids] = np.arange(CITYSCAPES.num_classes)
        self._samples = {Path(str(i)).name: str(i) for i in self.images.ids}

    def member(self, sample: str) -> str:
        return f"results/{Path(sample).name}{self.images.layout.image_suffix}"

    def sample_of(self, member: str) -> str | None:
        found = re.fullmatch(r"([^_]+_\d{6}_\d{6}).*\.png", Path(member).name)
        return self._samples.get(found[1]) if found else None

    def encoded(self, found: np.ndarray) -> bytes:
        return _png(Image.fromarray(self._ids[found], "L"))

    def classes(self, values: np.ndarray) -> np.ndarray:
        return self._classes[values]

    def doubt(self, seen: Set[int]) -> str:
        small = all(value < CITYSCAPES.num_classes for value in seen)
        if small and seen - set(CITYSCAPES_IDS):
            return "no value above 18: these seem to be trainIds; the server wants labelIds (7..33)"
        return ""


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()
