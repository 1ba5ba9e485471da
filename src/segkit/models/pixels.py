"""What a set of weights expects of an image; a line of the table of weights (weights.py)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Pixels:
    """(RGB / 255 − mean) / std, channel by channel, the order being RGB everywhere.

    What was trained on BGR (Caffe) has the channels of its first layer turned round before it comes
    here, so a file and the images it meets cannot disagree about it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        if self == SYMMETRIC_PIXELS:
            return "RGB from -1 to 1"
        if self == CAFFE_PIXELS:
            return "RGB to 255 minus " + " ".join(f"{255 * value:.3f}" for value in self.mean)
        mean, std = (" ".join(f"{value:.3g}" for value in v) for v in (self.mean, self.std))
        return f"RGB/255, mean {mean}, std {std}"


# The statistics every torchvision classifier was trained with.
IMAGENET_PIXELS = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# From −1 to 1: Xception and the beta ResNets as released (feature_extractor.py, facts §§3.5, 4.7).
SYMMETRIC_PIXELS = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# 0 to 255 minus the mean of the released files of v1 and v2 (facts §§1.3, 2.8), where borders are
# to be theirs: a first layer can take in another mean, but zero padding then is another colour.
CAFFE_PIXELS = Pixels(mean=(122.675 / 255, 116.669 / 255, 104.008 / 255), std=(1 / 255,) * 3)

# ``backbone.pixels``, where imported weights expect something else than the backbone's own.
PixelRange = Literal["imagenet", "symmetric", "caffe"]
PIXELS: dict[PixelRange, Pixels] = {
    "imagenet": IMAGENET_PIXELS,
    "symmetric": SYMMETRIC_PIXELS,
    "caffe": CAFFE_PIXELS,
}
