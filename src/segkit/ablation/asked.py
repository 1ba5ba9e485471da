"""What an evaluation asks of a network: at which stride, on which sizes, how often."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from segkit.config import Composed, compose

Size = tuple[int, int]


@dataclass(frozen=True)
class Known:
    """A data set, for a machine that does not have it: ``picture`` is (height, width)."""

    picture: Size
    classes: int
    images: Mapping[str, int]


# VOC's pictures differ; their longer side is 500.
_VOC = Known((375, 500), 21, {"val": 1449})
_CITYSCAPES = Known((1024, 2048), 19, {"val": 500})
KNOWN = {
    "voc": _VOC,
    "voc_aug": _VOC,
    "cityscapes": _CITYSCAPES,
    "cityscapes_coarse": _CITYSCAPES,
    "camvid": Known((360, 480), 11, {"val": 101, "test": 233}),
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
    model: str

    @property
    def views(self) -> int:
        return len(self.sizes) * (1 + self.flip)


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
    picture = known(values["dataset"]).picture
    window, windows, seen = window_of(values), 1, picture
    if window:
        windows = len(window.starts(picture[0])) * len(window.starts(picture[1]))
        seen = (window.size, window.size)
    padded = resolve_pad(values["eval"]["pad"], seen, stride)
    sizes = tuple(scaled_size(padded, scale) for scale in scales_of(values))
    return Asked(
        values,
        stride,
        picture,
        padded,
        sizes,
        bool(values["flip"]),
        windows,
        training.choices["model"],
    )


def known(dataset: Mapping[str, Any]) -> Known:
    """What is known of the data set of a config; another one than the papers' is asked, and must
    be on the disk unless it is drawn."""
    if dataset["name"] in KNOWN:
        return KNOWN[dataset["name"]]
    from segkit.parts import dataset_of

    found = dataset_of({"dataset": dataset}, dataset["val_split"])
    picture = found.read(0)[1].shape
    return Known(picture, found.labels.num_classes, {dataset["val_split"]: len(found)})


def images_of(values: Mapping[str, Any]) -> int:
    """How many images an evaluation scores."""
    from segkit.parts import dataset_of, split_of

    split = split_of(values)
    count = known(values["dataset"]).images.get(split)
    if count is None:
        count = len(dataset_of(values, split))
    return min(count, values["eval"]["limit"] or count)
