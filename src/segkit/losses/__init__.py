"""Losses take (scores, labels) and do their own resizing.

Where torch is asked for deterministic algorithms (``deterministic=true``), a loss is torch's own
upsampling and cross entropy; otherwise ``banded`` is the same within rounding, in a fraction of the
time and memory.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.errors import ConfigError
from segkit.losses.banded import banded_cross_entropy


class CrossEntropy:
    """Full-size cross entropy (v3 §4.1: the logits are upsampled, the labels stay untouched).

    ``ignore_label`` pixels count nowhere. ``class_weights`` [C] weigh each pixel by its true
    class, in the sum and in the divisor. ``aux_weight`` adds that share of the loss of an
    ``aux`` score. Sum and divisor are apart, so that micro-batches add up to the whole batch.
    Raises ConfigError CFG-RANGE for no weights, negative ones, or ones that are not finite.
    """

    reads_scales = False  # the scores of several input scales, beside ``out``

    def __init__(
        self,
        ignore_label: int,
        class_weights: Sequence[float] | None = None,
        aux_weight: float = 0.0,
    ) -> None:
        self.ignore_label = ignore_label
        self.class_weights = None if class_weights is None else _weights(class_weights)
        self.aux_weight = aux_weight

    def normaliser(self, labels: Tensor) -> dict[str, Tensor]:
        """What the loss of ``labels`` [B, h, w] is divided by: the (weighted) valid pixels."""
        valid = labels != self.ignore_label
        if self.class_weights is None:
            return {"pixels": valid.sum().float()}
        weights = self._weights_on(labels.device)
        index = labels.long().masked_fill(~valid, 0)
        return {"pixels": (weights[index] * valid).sum()}

    def __call__(
        self, scores: Mapping[str, Tensor], labels: Tensor, normaliser: Mapping[str, Tensor]
    ) -> Tensor:
        """Scores [B, C, h', w'] at any stride against labels uint8 or int32 [B, h, w].

        Returns an fp32 scalar, ready for ``backward``. A batch without a valid pixel gives 0
        with zero gradients, not the NaN of 0/0. Raises ConfigError if ``aux_weight`` asks for
        a score that the model does not give.
        """
        loss = self._sum(scores["out"], labels)
        if self.aux_weight:
            if "aux" not in scores:
                raise ConfigError(
                    "AUX", "loss.aux_weight", "the model has no aux score", "set it to 0"
                )
            loss = loss + self.aux_weight * self._sum(scores["aux"], labels)
        pixels = normaliser["pixels"]
        return loss / torch.where(pixels > 0, pixels, 1.0)

    def _sum(self, scores: Tensor, labels: Tensor) -> Tensor:
        weights = None if self.class_weights is None else self._weights_on(scores.device)
        if not torch.are_deterministic_algorithms_enabled():
            return banded_cross_entropy(scores.float(), labels, weights, self.ignore_label)
        return cross_entropy(
            full_size(scores, labels),
            labels.long(),
            weight=weights,
            ignore_index=self.ignore_label,
            reduction="sum",
        )

    def _weights_on(self, device: torch.device) -> Tensor:
        assert self.class_weights is not None
        if self.class_weights.device != device:  # once: a copy per step would wait for the device
            self.class_weights = self.class_weights.to(device)
        return self.class_weights


class HardPixelCrossEntropy(CrossEntropy):
    """Full-size cross entropy of the ``fraction`` of pixels with the largest loss (facts §4.9).

    The released code's ``top_k_percent_pixels`` as it is at ``hard_example_mining_step=0``, the
    default: from the first step on. How it comes in over more steps is not in the facts, and no
    paper uses it. It ranks a replica's whole batch, this ranks each image by itself: so the pixels
    that count are known before the forward, and neither devices nor accumulated parts change which
    ones they are. A fraction of an image's valid pixels that is no whole number takes its last
    pixel in part.
    """

    def __init__(self, ignore_label: int, fraction: float = 0.25, aux_weight: float = 0.0) -> None:
        if not 0 < fraction <= 1:
            raise ConfigError("RANGE", "loss.fraction", f"found {fraction}", "above 0, at most 1")
        super().__init__(ignore_label, aux_weight=aux_weight)
        self.fraction = fraction

    def normaliser(self, labels: Tensor) -> dict[str, Tensor]:
        """``fraction`` of the valid pixels."""
        return {"pixels": self.fraction * (labels != self.ignore_label).sum().float()}

    def _sum(self, scores: Tensor, labels: Tensor) -> Tensor:
        truth = labels.long()
        losses = cross_entropy(
            full_size(scores, labels), truth, ignore_index=self.ignore_label, reduction="none"
        ).flatten(1)
        hardest, _ = losses.topk(math.ceil(self.fraction * losses.shape[1]), dim=1)
        counted = self.fraction * (labels != self.ignore_label).flatten(1).sum(1, keepdim=True)
        ranks = torch.arange(hardest.shape[1], device=losses.device)
        return (hardest * (counted - ranks).clamp(0, 1)).sum()


class SubsampledCrossEntropy:
    """Cross entropy at every ``shrink``-th label; all positions weigh the same (v1 §3.1).

    On crops of shrink·k + 1 that is Caffe's Interp with aligned corners, so no two labels are
    mixed. Scores of that very stride are taken as they are, others are resized to it. Void labels
    count nowhere, and sum and divisor are apart as in ``CrossEntropy``.
    """

    reads_scales = False

    def __init__(self, ignore_label: int, shrink: int = 8) -> None:
        if shrink < 1:
            raise ConfigError("RANGE", "loss.shrink", f"found {shrink}", "1 or more")
        self.ignore_label = ignore_label
        self.shrink = shrink

    def normaliser(self, labels: Tensor) -> dict[str, Tensor]:
        """The valid ones among the subsampled labels."""
        return {"pixels": self._valid(labels, self.shrink)}

    def __call__(
        self, scores: Mapping[str, Tensor], labels: Tensor, normaliser: Mapping[str, Tensor]
    ) -> Tensor:
        """``out`` [B, C, h', w'] against labels uint8 or int32 [B, h, w]; an fp32 scalar."""
        return self._mean(scores["out"], labels, self.shrink, normaliser["pixels"])

    def _valid(self, labels: Tensor, shrink: int) -> Tensor:
        return (labels[:, ::shrink, ::shrink] != self.ignore_label).sum().float()

    def _mean(self, scores: Tensor, labels: Tensor, shrink: int, pixels: Tensor) -> Tensor:
        truth = labels[:, ::shrink, ::shrink].long()
        scores = scores.float()
        if scores.shape[-2:] != truth.shape[-2:]:
            scores = F.interpolate(scores, truth.shape[-2:], mode="bilinear", align_corners=True)
        total = cross_entropy(scores, truth, ignore_index=self.ignore_label, reduction="sum")
        return total / torch.where(pixels > 0, pixels, 1.0)


class MultiScaleCrossEntropy(SubsampledCrossEntropy):
    """v2's sum of four (facts §2.8): fused scores, scale 1, scale 0.75 resized up to it, scale 0.5.

    The last one stays at its own size and meets labels subsampled twice as far. A network without
    ``model.msc`` gives the first alone, and that is then the whole loss (facts §2.9).
    """

    reads_scales = True

    def normaliser(self, labels: Tensor) -> dict[str, Tensor]:
        """The valid labels of both grids."""
        return super().normaliser(labels) | {"half": self._valid(labels, 2 * self.shrink)}

    def __call__(
        self, scores: Mapping[str, Tensor], labels: Tensor, normaliser: Mapping[str, Tensor]
    ) -> Tensor:
        """``out`` and, where given, ``scale_1``, ``scale_075`` and ``scale_05``."""
        loss = super().__call__(scores, labels, normaliser)
        if "scale_1" not in scores:
            return loss
        for name in ("scale_1", "scale_075"):
            loss = loss + self._mean(scores[name], labels, self.shrink, normaliser["pixels"])
        return loss + self._mean(scores["scale_05"], labels, 2 * self.shrink, normaliser["half"])


def _weights(given: Sequence[float]) -> Tensor:
    if not given or any(not 0 <= weight < math.inf for weight in given):
        found = "is empty" if not given else f"found {list(given)}"
        fix = "one weight of 0 or more for each class, as in loss.class_weights=[0.2,1.3,...]"
        raise ConfigError("RANGE", "loss.class_weights", found, fix)
    return torch.tensor(given, dtype=torch.float32)


def cross_entropy(scores: Tensor, truth: Tensor, **options: Any) -> Tensor:
    """torch's, of scores [B, C, h, w]; on CUDA it has a deterministic kernel for lists alone."""
    if not (scores.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.cross_entropy(scores, truth, **options)
    found = F.cross_entropy(scores.movedim(1, -1).flatten(0, -2), truth.flatten(), **options)
    return found.view(truth.shape) if found.ndim else found


def full_size(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores at the labels' size with aligned corners, in fp32.

    70 000 in half precision is already infinite.
    """
    return F.interpolate(
        scores.float(), size=labels.shape[-2:], mode="bilinear", align_corners=True
    )
