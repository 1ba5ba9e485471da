"""What an evaluation asks of a network: at which stride, on which sizes, how often."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from segkit.config import Composed, compose

Size = tuple[int, int]

# Height and width of a data set's images (VOC's differ; its longer side is 500), and how many there
# are, for a machine that does not have them.
PICTURES: dict[str, Size] = {
    "voc": (375, 500),
    "voc_aug": (375, 500),
    "cityscapes": (1024, 2048),
    "cityscapes_coarse": (1024, 2048),
    "camvid": (360, 480),
}
IMAGES = {
    **{(name, "val"): 1449 for name in ("voc", "voc_aug")},
    **{(name, "val"): 500 for name in ("cityscapes", "cityscapes_coarse")},
    ("camvid", "val"): 101,
    ("camvid", "test"): 233,
}


@dataclass(frozen=True)
class Asked:
    """``values`` are those of the evaluation, ``padded`` what one image of ``picture`` becomes.

    ``sizes`` are those at which the network sees it, one for each scale (v3 §4.2, by the original
    code's (side - 1)·scale + 1); with ``flip`` each is seen twice, and each of ``windows`` windows
    is asked so. Sizes are (height, width).
    """

    values: Mapping[str, Any]
    output_stride: int
    picture: Size
    padded: Size
    sizes: tuple[Size, ...]
    flip: bool
    windows: int

    @property
    def views(self) -> int:
        return len(self.sizes) * (1 + self.flip)


@cache
def trained(words: tuple[str, ...], config_dir: str | None = None) -> Composed:
    """The config of ``segkit train WORDS``, composed once; not to be changed."""
    return compose("train", words, config_dir)


@cache
def _typed(words: tuple[str, ...], config_dir: str | None) -> Composed:
    return compose("eval", words, config_dir)


def asked(training: Composed, words: Sequence[str], config_dir: str | None = None) -> Asked:
    """What ``segkit eval WORDS`` asks of the network of ``training``, which need not be trained."""
    from segkit.inference.predictor import resolve_pad, scaled_size
    from segkit.parts import stages_of
    from segkit.protocol import scales_of, window_of
    from segkit.restored import inherit

    values = inherit(_typed(tuple(words), config_dir), training)
    stride = int(values["os"] or stages_of(training.values)[-1]["os"])
    picture = picture_of(values["dataset"])
    window, windows, seen = window_of(values), 1, picture
    if window:
        windows = len(window.starts(picture[0])) * len(window.starts(picture[1]))
        seen = (window.size, window.size)
    padded = resolve_pad(values["eval"]["pad"], seen, stride)
    sizes = tuple(scaled_size(padded, scale) for scale in scales_of(values))
    return Asked(values, stride, picture, padded, sizes, bool(values["flip"]), windows)


def picture_of(dataset: Mapping[str, Any]) -> Size:
    """Height and width of one image of a data set; VOC's where nothing is known of it."""
    if dataset["name"] == "shapes":
        size = dataset["size"]
        return (size, size) if isinstance(size, int) else (size[0], size[1])
    return PICTURES.get(dataset["name"], PICTURES["voc"])


def images_of(values: Mapping[str, Any]) -> int:
    """How many images an evaluation scores; a data set that is not known must be on the disk."""
    from segkit.parts import dataset_node, dataset_of, split_of

    split = split_of(values)
    count = IMAGES.get((values["dataset"]["name"], split))
    if count is None:
        count = dataset_node(values, split).get("count") or len(dataset_of(values, split))
    return min(count, values["eval"]["limit"] or count)
