"""PASCAL VOC 2012 and its augmented training set (facts 5.1)."""

from pathlib import Path

from segkit.data.images import MAX_PIXELS
from segkit.data.labels import VOC
from segkit.data.pairs import FilePairs, Layout

_FOLDER = "VOCdevkit/VOC2012"


class Voc(FilePairs):
    """``split`` is ``train`` (1464), ``val`` (1449), ``trainval`` (2913) or ``test`` (1456 images,
    labels not public).

    ``root`` is the folder ``VOCdevkit/VOC2012``.
    """

    def __init__(
        self, root: str | Path | None = None, split: str = "train", max_pixels: int = MAX_PIXELS
    ) -> None:
        self.split, self.has_labels = split, split != "test"
        super().__init__(
            root, _layout("voc", "SegmentationClass", split), VOC, max_pixels=max_pixels
        )


class VocAug(FilePairs):
    """VOC with the SBD annotations of Hariharan et al.: ``trainaug`` holds 10582 images.

    The splits ``trainaug`` and ``trainval_aug`` take their masks from ``SegmentationClassAug``;
    every other split (``val``) is VOC's own.
    """

    def __init__(
        self, root: str | Path | None = None, split: str = "trainaug", max_pixels: int = MAX_PIXELS
    ) -> None:
        masks = "SegmentationClassAug" if split.endswith("aug") else "SegmentationClass"
        super().__init__(root, _layout("voc_aug", masks, split), VOC, max_pixels=max_pixels)
        self.split = split


def _layout(name: str, masks: str, split: str) -> Layout:
    return Layout(name, _FOLDER, "JPEGImages", masks, f"ImageSets/Segmentation/{split}.txt")
