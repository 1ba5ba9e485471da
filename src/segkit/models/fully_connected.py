"""VGG's fc6, fc7 and fc8 as convolutions, and how a classifier's file starts them (v1 §3.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.contracts import check_sizes
from segkit.models.initial import logits, normal

# fc6 sees the 7×7 map that pool5 is at 224×224; fewer taps are picked out of these.
_TAPS = {7: (0, 1, 2, 3, 4, 5, 6), 4: (0, 2, 4, 6), 3: (0, 3, 6)}


class FullyConnected(nn.Module):
    """fc6 k×k at a rate, fc7 and fc8 1×1; a ReLU and dropout behind the first two.

    ``[B, in_channels, h, w]`` -> ``[B, num_classes, h, w]``. Raises ``ConfigError`` CFG-RANGE for
    sizes that there are none of, CFG-RATES where an even kernel cannot be centred.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        kernel: int,
        rate: int,
        channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        _check(kernel, channels, dropout)
        padding, odd = divmod(rate * (kernel - 1), 2)
        if odd:
            raise ConfigError(
                "RATES",
                "model.rate",
                f"a {kernel}x{kernel} kernel has no middle at rate {rate}",
                "an even rate at this os, or an odd kernel",
            )
        # VGG has no batch norm, and pool5 of the published weights is large (RMS 10): from He's
        # start v1 diverges at its own rate within ten steps (docs/log.md), so both start as fc8.
        fc6 = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=rate)
        self.fc6 = normal(fc6, 0.01)
        self.fc7 = normal(nn.Conv2d(channels, channels, 1), 0.01)
        self.dropout = nn.Dropout(dropout)
        self.fc8 = logits(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.fc6(x).relu_())
        x = self.dropout(self.fc7(x).relu_())
        scores: Tensor = self.fc8(x)
        return scores

    def from_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """fc6 and fc7 out of torchvision's VGG-16 ``classifier.0`` and ``.3``; None without them.

        Of the 7×7 taps 0, 2, 4, 6 stay in a 4×4 kernel and 0, 3, 6 in a 3×3 one ("simple
        decimation", v1 §3.2). Where fc6 and fc7 are narrower, evenly spaced filters stay (of 4096,
        every 4th for 1024); v2 §4.1.1 draws 1024 at random, which differs only by luck.
        """
        names = ("fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias")
        nothing: dict[str, Tensor | None] = dict.fromkeys(names)
        given = [
            tensors.get(f"classifier.{key}") for key in ("0.weight", "0.bias", "3.weight", "3.bias")
        ]
        if any(tensor is None for tensor in given):
            return nothing
        weight6, bias6, weight7, bias7 = (tensor for tensor in given if tensor is not None)
        channels, in_channels, kernel, _ = self.fc6.weight.shape
        width = len(bias6)
        whole = weight6.shape == (width, in_channels * 49) and weight7.shape == (len(bias7), width)
        if not whole or min(width, len(bias7)) < channels:
            return nothing
        taps = torch.tensor(_TAPS[kernel])
        kept6, kept7 = (torch.arange(channels) * n // channels for n in (width, len(bias7)))
        kernels = weight6.view(width, in_channels, 7, 7)[kept6]
        found = (
            kernels[:, :, taps][:, :, :, taps],
            bias6[kept6],
            weight7[kept7][:, kept6, None, None],
            bias7[kept7],
        )
        return dict(zip(names, found, strict=True))


def _check(kernel: int, channels: int, dropout: float) -> None:
    if kernel not in _TAPS:
        raise ConfigError("RANGE", "model.kernel", f"found {kernel}", "one of 7, 4, 3")
    check_sizes(dropout, channels=channels)
