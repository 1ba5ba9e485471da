"""The joint of a backbone and a head, and how their batch norms behave."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.errors import ConfigError
from segkit.models import recompute
from segkit.models.aspp import ImagePooling
from segkit.models.contracts import Backbone, Feature, Head, Pixels

__all__ = ["BatchNormMode", "Feature", "Segmenter", "build_segmenter"]

# train: batch statistics, running averages updated. frozen_stats: running averages used and left
# alone, γ and β still learn (what "frozen" means in the TF code, v3 §4.1). frozen: a fixed affine
# map, γ and β too (v2's Caffe files).
BatchNormMode = Literal["train", "frozen_stats", "frozen"]


class Segmenter(nn.Module):
    """Normalised images ``[B, 3, H, W]`` -> logits ``[B, num_classes, H, W]``.

    ``output_stride`` and ``multi_grid`` are the ones in force (``auto`` resolved). The state dict
    has the same keys and shapes at every output stride.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        *,
        num_classes: int,
        output_stride: int,
        multi_grid: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.output_stride = output_stride
        self.multi_grid = multi_grid
        self.batch_norm_mode: BatchNormMode = "train"

    @property
    def pixels(self) -> Pixels:
        """The normalisation the backbone expects."""
        return self.backbone.pixels

    @property
    def classifier_prefixes(self) -> tuple[str, ...]:
        """How the classifier's parameter names begin, for learning-rate multipliers."""
        return tuple(f"head.{prefix}" for prefix in self.head.classifier_prefixes)

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """The head's score maps at their own strides: ``out``, and ``aux`` where there is one."""
        scales = [resized(images, scale) for scale in self.head.input_scales]
        return self.head.fuse([self.head(self.backbone(scaled)) for scaled in scales])

    def forward(self, images: Tensor) -> Tensor:
        """``out`` at the images' size, with aligned corners as Caffe and TF resized it.

        At least float32: bfloat16 would leave 8 bits to tell two classes apart at a boundary.
        """
        out = self.scores(images)["out"]
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        return F.interpolate(out, images.shape[2:], mode="bilinear", align_corners=True)

    def set_batch_norm(self, mode: BatchNormMode, momentum: float | None = None) -> None:
        """How every batch norm behaves from now on, whatever ``train()`` is called.

        ``momentum`` is PyTorch's, the weight of the new batch; None leaves it. Raises
        ``ConfigError`` CFG-BN for another mode.
        """
        if mode not in get_args(BatchNormMode):
            choices = ", ".join(get_args(BatchNormMode))
            raise ConfigError("BN", "bn", f"there is no mode {mode!r}", f"one of {choices}")
        self.batch_norm_mode = mode
        for norm in self._batch_norms():
            norm.requires_grad_(mode != "frozen")
            if momentum is not None:
                norm.momentum = momentum
        self.train(self.training)

    def recompute(self, share: float) -> None:
        """Keep no inner maps of the first ``share`` (0..1) of the backbone's units in training.

        They are computed again in the backward pass: less memory, more time, the same gradients.
        Raises ``ConfigError`` CFG-RECOMPUTE for a share of a backbone without such units.
        """
        recompute.mark(self.backbone.units, share, self.backbone.name)

    def train(self, mode: bool = True) -> "Segmenter":
        """As any module's, except that frozen batch norms stay frozen."""
        super().train(mode)
        if self.batch_norm_mode != "train":
            for norm in self._batch_norms():
                norm.eval()
        return self

    @property
    def min_train_batch(self) -> int:
        """The fewest images one training forward can take in the current batch-norm mode.

        Two where image pooling leaves a trained batch norm one value per image: torch has no
        variance of a single value and raises.
        """
        if self.batch_norm_mode != "train":
            return 1
        pools = (part for part in self.modules() if isinstance(part, ImagePooling))
        return max((pool.min_train_batch for pool in pools), default=1)

    def _batch_norms(self) -> Iterator[_BatchNorm]:
        return (part for part in self.modules() if isinstance(part, _BatchNorm))


def resized(images: Tensor, scale: float) -> Tensor:
    """Aligned corners and (side − 1)·scale + 1: 513 becomes 385 and 257 (facts §2.8)."""
    if scale == 1:
        return images
    # torch's own truncation: int() would make a constant of it in an exported network.
    size = [torch.sym_int((side - 1) * scale + 1) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=True)


def build_segmenter(
    make_backbone: Callable[..., Backbone],
    make_head: Callable[..., Head],
    *,
    num_classes: int,
    output_stride: int,
    multi_grid: Sequence[int] | Literal["auto"] | None = "auto",
) -> Segmenter:
    """Join what the two make; channels go from one to the other and are said nowhere else.

    ``make_head`` is a ``Head`` class or a ``functools.partial`` of one. ``multi_grid="auto"`` is
    the head's default where the backbone has bottleneck units and none elsewhere; an explicit one
    that the backbone cannot have raises ``ConfigError`` CFG-MULTI-GRID, an output stride that it
    cannot have CFG-OUTPUT-STRIDE, and a head that repeats a last block which is none of bottleneck
    units CFG-BACKBONE.
    """
    head_class = _head_class(make_head)
    limit = head_class.max_backbone_stride
    backbone_stride = output_stride if limit is None else min(output_stride, limit)
    if multi_grid == "auto":
        grid = head_class.default_multi_grid
        if grid and not _has_bottlenecks(make_backbone, backbone_stride):
            grid = None
    else:
        grid = None if multi_grid is None else tuple(multi_grid)
    backbone = make_backbone(output_stride=backbone_stride, multi_grid=grid)
    extra = {}
    if head_class.repeats_last_block:
        if not backbone.has_bottlenecks:
            raise ConfigError(
                "BACKBONE",
                "backbone",
                f"{backbone.name} has no last block of bottleneck units for the model to repeat",
                "a ResNet of bottleneck units (r50, r101)",
            )
        extra = {"multi_grid": grid}
    head = make_head(backbone.features, num_classes, output_stride=output_stride, **extra)
    return Segmenter(
        backbone, head, num_classes=num_classes, output_stride=output_stride, multi_grid=grid
    )


def _head_class(make_head: Callable[..., Head]) -> type[Head]:
    while isinstance(make_head, functools.partial):
        make_head = make_head.func
    if not (isinstance(make_head, type) and issubclass(make_head, Head)):
        raise TypeError(f"make_head must be a Head class or a partial of one, found {make_head!r}")
    return make_head


def _has_bottlenecks(make_backbone: Callable[..., Backbone], output_stride: int) -> bool:
    # Only the network knows; asked on the meta device it takes neither memory nor random state.
    with torch.device("meta"):
        return make_backbone(output_stride=output_stride, multi_grid=None).has_bottlenecks
