"""Cityscapes: 2048×1024 street scenes with fine or coarse labels (facts 5.2)."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.data.images import MAX_PIXELS
from segkit.data.instances import read_instances
from segkit.data.labels import CITYSCAPES, CITYSCAPES_CLASS_OF
from segkit.data.pairs import FilePairs, Layout
from segkit.data.tree import check_paired, files_in
from segkit.errors import ConfigError, DataError

Annotations = Literal["fine", "coarse"]

# How many images a whole copy has of each split, and which of them have labels of which kind.
IMAGES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
SPLITS = {"fine": ("train", "val", "test"), "coarse": ("train", "val", "train_extra")}


class Cityscapes(FilePairs):
    """``split`` is ``train`` (2975), ``val`` (500) or ``test`` (1525 images, labels not public);
    with ``annotations="coarse"`` it is ``train``, ``val`` or ``train_extra`` (19 998).

    Samples are the files of the official tree, ``leftImg8bit/train/ulm/ulm_000000_000019_...``,
    with ids like ``ulm/ulm_000000_000019``. The masks hold labelIds, and any id that is not in the
    official table is an error. A split with fewer images than the official one is told on stderr.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        annotations: Annotations = "fine",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        _check_split(split, annotations)
        self.split, self.has_labels = split, split != "test"
        self.has_instances = annotations == "fine" and self.has_labels
        kind = f"gt{annotations.capitalize()}"
        layout = Layout(
            "cityscapes",
            "cityscapes",
            f"leftImg8bit/{split}",
            f"{kind}/{split}",
            image_suffix="_leftImg8bit.png",
            mask_suffix=f"_{kind}_labelIds.png",
        )
        super().__init__(
            root, layout, CITYSCAPES, value_table=CITYSCAPES_CLASS_OF, max_pixels=max_pixels
        )
        if shortage := self.shortage:
            print(f"note: {self.root}: {shortage}", file=sys.stderr)

    @property
    def shortage(self) -> str:
        """What a copy that is not whole lacks, in words; empty for the official count."""
        here, whole = len(self), IMAGES[self.split]
        return "" if here == whole else f"{here} of the {whole} images of {self.split} are here"

    def instances(self, index: int) -> np.ndarray | None:
        """Instances [H,W] as ``read_instances`` has them; None where there is no such file."""
        mask = self.mask_path(index)
        path = mask.with_name(mask.name.replace("_labelIds.png", "_instanceIds.png"))
        if not self.has_instances or not path.is_file():
            return None
        return read_instances(path, CITYSCAPES_CLASS_OF, self.max_pixels)

    def _find_ids(self) -> list[str]:
        images, masks = self.root / self.layout.images, self.root / self.layout.masks
        ids = files_in(images, (self.layout.image_suffix,), self._refuse)
        if not ids:
            what = f"no image ends in {self.layout.image_suffix}"
            raise DataError("EMPTY-SPLIT", images, what, f"expected: {self.layout.expected}")
        if self.has_labels:  # gtFine has files for test, but all of their pixels are void
            labelled = files_in(masks, (self.layout.mask_suffix,), self._refuse)
            check_paired(ids, labelled, images, masks, self._refuse)
        return list(ids)


def _check_split(split: str, annotations: str) -> None:
    if split not in SPLITS[annotations]:
        fix = f"{annotations} labels: {', '.join(SPLITS[annotations])}"
        others = [kind for kind in SPLITS if split in SPLITS[kind]]
        if others:
            fix += f"; {split} has dataset.annotations={others[0]}"
        raise ConfigError("SPLITS", "dataset", f"no split {split!r} of {annotations} labels", fix)
