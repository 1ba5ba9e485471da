"""DeepLab v2 (arXiv 1606.00915): the first ASPP, whose branches end in scores that are summed."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models.atrous import scale_rates
from segkit.models.contracts import Feature, Head
from segkit.models.fully_connected import FullyConnected
from segkit.models.initial import logits

Branch = Literal["auto", "fc", "conv"]

# §4.1: three scales with shared weights, and what their own scores are called.
MSC = {1.0: "scale_1", 0.75: "scale_075", 0.5: "scale_05"}


class Classifier(nn.Module):
    """One convolution straight from the last map to the scores, with bias: a branch on a ResNet."""

    def __init__(self, in_channels: int, num_classes: int, *, kernel: int, rate: int) -> None:
        super().__init__()
        self.fc8 = logits(in_channels, num_classes, kernel=kernel, rate=rate)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc8(x)
        return scores


class DeepLabV2(Head):
    """One branch per rate, scores summed; ``rates`` as the paper gives them, for output stride 8.

    ``branch``: ``fc`` is fc6-fc7-fc8, each branch its own (VGG, Fig. 7); ``conv`` a single 3×3
    (ResNet); ``auto`` what fits the backbone. Without rates a ``conv`` head is a 1×1 on the last
    map (the first rows of Table 4). ``channels`` and ``dropout`` are those of fc6 and fc7.

    ``msc``: the image at 1, 0.75 and 0.5, the scores resized to those of scale 1, and of them the
    maximum; the scales' own scores are there for their own losses (facts §2.8). Raises
    ``ConfigError`` CFG-RATES, CFG-RANGE and CFG-CHOICE.
    """

    written_for = 8

    def __init__(
        self,
        features: Mapping[str, Feature],
        num_classes: int,
        *,
        output_stride: int,
        rates: Sequence[int] = (6, 12, 18, 24),
        branch: Branch = "auto",
        msc: bool = False,
        channels: int = 1024,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if branch not in get_args(Branch):
            choices = ", ".join(get_args(Branch))
            raise ConfigError("CHOICE", "model.branch", f"{branch!r}", f"choices: {choices}")
        # A network with a fifth pool is a VGG, made to end in fully connected layers.
        fc = branch == "fc" or (branch == "auto" and "pool4" in features)
        if fc and not rates:
            fix = "a rate for each branch, or branch=conv for a linear classifier"
            raise ConfigError("RATES", "model.rates", "is empty", fix)
        scaled = scale_rates(
            rates, written_for=self.written_for, output_stride=output_stride, where="model.rates"
        )
        inside = features["out"].channels
        branches: list[nn.Module]
        if fc:
            branches = [
                FullyConnected(
                    inside, num_classes, kernel=3, rate=rate, channels=channels, dropout=dropout
                )
                for rate in scaled
            ]
        elif scaled:
            branches = [Classifier(inside, num_classes, kernel=3, rate=rate) for rate in scaled]
        else:
            branches = [Classifier(inside, num_classes, kernel=1, rate=1)]
        self.branches = nn.ModuleList(branches)
        self.classifier_prefixes = tuple(f"branches.{n}.fc8." for n in range(len(branches)))
        self.input_scales = tuple(MSC) if msc else (1.0,)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        first, *others = (branch(maps["out"]) for branch in self.branches)
        for scores in others:
            first = first + scores
        return {"out": first}

    def fuse(self, scales: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Maximum of scores, before any softmax, at the size scale 1 has (§4.1, facts §2.8)."""
        if len(scales) == 1:
            return scales[0]
        own = [scores["out"] for scores in scales]
        # bfloat16 would round what the resizing mixes.
        own = [scores.to(torch.promote_types(scores.dtype, torch.float32)) for scores in own]
        out = own[0]
        for scores in own[1:]:
            size = out.shape[2:]
            out = out.maximum(F.interpolate(scores, size, mode="bilinear", align_corners=True))
        return {"out": out, **dict(zip(MSC.values(), own, strict=True))}

    def from_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """The same fc6 and fc7 for every branch; the rates tell them apart."""
        return {
            f"branches.{number}.{key}": tensor
            for number, branch in enumerate(self.branches)
            if isinstance(branch, FullyConnected)
            for key, tensor in branch.from_classifier(tensors).items()
        }
