"""CamVid in the SegNet split: 367 train and 101 val frames of 480×360."""

from dataclasses import replace
from pathlib import Path

from segkit.data.images import MAX_PIXELS
from segkit.data.labels import CAMVID
from segkit.data.pairs import FilePairs, Layout


class CamVid(FilePairs):
    """``split`` is ``train`` or ``val``: the list ``<split>.txt`` beside ``images`` and ``labels``.

    Every val frame comes from a sequence that also gives train frames: val scores are optimistic.
    """

    def __init__(
        self, root: str | Path | None = None, split: str = "train", max_pixels: int = MAX_PIXELS
    ) -> None:
        layout = Layout("camvid", "camvid", "images", "labels", f"{split}.txt")
        super().__init__(root, layout, CAMVID, max_pixels=max_pixels)
        self.split = split

    def _find_ids(self) -> list[str]:
        # SegNet's own frames are PNG; another copy has them as JPEG.
        if next((self.root / "images").glob("*.png"), None) is not None:
            self.layout = replace(self.layout, image_suffix=".png")
        return super()._find_ids()
