"""Losses take (scores, labels) and do their own resizing."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.errors import ConfigError


class CrossEntropy:
    """Full-size cross entropy (v3 §4.1: the logits are upsampled, the labels stay untouched).

    ``ignore_label`` pixels count nowhere. ``class_weights`` [C] weigh each pixel by its true
    class, in the sum and in the divisor. ``aux_weight`` adds that share of the loss of an
    ``aux`` score. Sum and divisor are apart, so that micro-batches add up to the whole batch.
    """

    def __init__(
        self,
        ignore_label: int,
        class_weights: Sequence[float] | None = None,
        aux_weight: float = 0.0,
    ) -> None:
        self.ignore_label = ignore_label
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
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
        # fp32 from here on: 70 000 in half precision is already infinite.
        full = F.interpolate(
            scores.float(), size=labels.shape[-2:], mode="bilinear", align_corners=True
        )
        return F.cross_entropy(
            full,
            labels.long(),
            weight=None if self.class_weights is None else self._weights_on(full.device),
            ignore_index=self.ignore_label,
            reduction="sum",
        )

    def _weights_on(self, device: torch.device) -> Tensor:
        assert self.class_weights is not None
        if self.class_weights.device != device:  # once: a copy per step would wait for the device
            self.class_weights = self.class_weights.to(device)
        return self.class_weights
