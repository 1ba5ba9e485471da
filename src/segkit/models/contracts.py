"""What a backbone and a head promise each other; the segmenter joins any two that keep it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.pixels import IMAGENET_PIXELS, Pixels
from segkit.models.weights import ImageNetWeights

__all__ = [
    "IMAGENET_PIXELS",
    "Backbone",
    "Feature",
    "Head",
    "Pixels",
    "check_kernel",
    "check_sizes",
]


@dataclass(frozen=True)
class Feature:
    """A map a backbone gives: its channels, and its stride at the backbone's output stride."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """Image ``[B, 3, H, W]`` -> dict of maps, with the keys of ``features``.

    A map of stride s has the size ``(H − 1) // s + 1``. Keys: ``out``, the last map, at the
    requested output stride; ``low``, what a decoder sees at stride 4, where the network has such a
    map (the papers' networks do): the released code's tap or another codebase's, as the backbone's
    ``low`` argument says. Where a network has the usual five stages it also names them ``res2`` ...
    ``res5``: the last map of the blocks whose stride was 4, 8, 16, 32 before any stride was traded
    for a rate.

    Made by a function ``make(*, output_stride, multi_grid, **its own arguments)`` that lets
    ``atrous.plan_units`` decide strides and rates. ``name`` is that of the network, and of the YAML
    file that has it without options: mnv2 for mnv2_tf, too.
    """

    name: str
    features: dict[str, Feature]
    accepts_multi_grid: bool = False
    # Whether the last block is made of ResNet's bottleneck units: what v3 wrote its multi-grid for
    # (so what ``auto`` gives one) and what its cascade repeats.
    has_bottlenecks: bool = False
    imagenet: ImageNetWeights | None = None

    @property
    def units(self) -> Sequence[nn.Module]:
        """What it runs by ``recompute.run``, in order: each is given and gives one map."""
        return ()

    @property
    def pixels(self) -> Pixels:
        """The normalisation its weights were made with: what its line in their table says."""
        return IMAGENET_PIXELS if self.imagenet is None else self.imagenet.pixels


class Head(nn.Module):
    """Maps of a backbone -> dict of score maps ``[B, num_classes, h, w]``: ``out``, ``aux`` if any.

    Made as ``Head(features, num_classes, *, output_stride, **its own arguments)``. The scores stay
    at the head's own stride; whoever wants pixels resizes them.
    """

    # Output stride the head's rates are written for; they are scaled by this over the actual one.
    written_for: ClassVar[int]
    # What multi_grid=auto means where the backbone has bottlenecks; None: no multi-grid.
    default_multi_grid: ClassVar[tuple[int, ...] | None] = None
    # Largest output stride the backbone is asked for. A head that goes on striding (v3's cascade,
    # §3.2: OS up to 256) takes the rest itself; None: the backbone takes it all.
    max_backbone_stride: ClassVar[int | None] = None
    # Whether it goes on with copies of the backbone's last block, multi-grid and all (§3.2.1): then
    # it is also given ``multi_grid``, the one in force, and the backbone must accept one.
    repeats_last_block: ClassVar[bool] = False
    # Whether the score dict has ``aux`` in training; a loss must then use it, or parameters would
    # be left without a gradient, which several processes cannot work with.
    gives_aux: bool = False
    # The parameters that turn features into classes: what v1/v2 train with ten times the rate.
    classifier_prefixes: tuple[str, ...] = ("classifier.",)
    # The scales of the image it is asked at, one after the other (v2's MSC); ``fuse`` joins them.
    input_scales: tuple[float, ...] = (1.0,)

    def fuse(self, scales: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One score dict out of those of ``input_scales``."""
        (scores,) = scales
        return scores

    def from_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | None]:  # noqa: ARG002
        """The head's own parameters that a file of pretrained weights can start, by name.

        ``tensors`` is the whole file in its own names. None is what the head would have taken but
        the file does not hold; what is not named here starts from random with every file.
        """
        return {}


def check_sizes(dropout: float, **counts: int) -> None:
    """Raise ``ConfigError`` CFG-RANGE for a dropout outside 0 to below 1, or a count below 1.

    The counts are named as the arguments of ``model.*`` that they are.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError("RANGE", f"model.{name}", f"found {count}", "at least 1")
    if not 0 <= dropout < 1:
        raise ConfigError("RANGE", "model.dropout", f"found {dropout}", "0 to below 1")


def check_kernel(name: str, kernel: int) -> None:
    """Raise ``ConfigError`` CFG-RANGE for a ``model.NAME`` that is neither 1 nor 3."""
    if kernel not in (1, 3):
        raise ConfigError("RANGE", f"model.{name}", f"found {kernel}", "1 or 3")
