"""What one update of a training computes, moves and holds, stage by stage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from segkit.ablation.asked import Size, known

if TYPE_CHECKING:
    from segkit.models.cost import Cost
    from segkit.models.segmenter import Segmenter

# A backward pass computes two convolutions (by weights and by input) for each of the forward one.
PASSES = 3
# Reads and writes of a parameter in one update: the gradient for its norm (1), weight decay (3),
# momentum (3) and the step (3).
UPDATE_PASSES = 10
FLOAT = 4


@dataclass(frozen=True)
class Update:
    """``steps`` updates of ``parts`` forward and backward passes each.

    ``network`` and ``loss`` cost one forward pass of a part. ``weights`` and ``buffers`` are bytes
    in float32; ``copies`` of all weights lie beside them (gradients, momentum, an average). The
    backward pass computes ``again`` of the forward one's multiply-adds anew (config key recompute).
    """

    steps: int
    parts: int
    network: "Cost"
    loss: "Cost"
    weights: int
    buffers: int
    copies: int
    half: bool
    again: float = 0.0

    @property
    def state(self) -> int:
        """Bytes of a checkpoint: of the copies it leaves out the gradients and has the weights."""
        return self.weights * self.copies + self.buffers

    @property
    def macs(self) -> int:
        """Multiply-adds of one update."""
        return int((PASSES + self.again) * self.parts * self.network.macs)

    @property
    def moved(self) -> int:
        """Bytes that the operators of one update read and write."""
        network = self.network.moved // (2 if self.half else 1)
        one = (PASSES + self.again) * network + PASSES * self.loss.moved
        return int(self.parts * one) + UPDATE_PASSES * self.weights


def updates_of(values: Mapping[str, Any], *, half: bool) -> list[Update]:
    """One for each stage of the schedule. Raises ConfigError for a network that cannot be."""
    from segkit.parts import stages_of

    schedule, crop = values["schedule"], int(values["augment"]["crop"])
    parts, share = int(schedule["accumulate"]), float(values["recompute"])
    text = network_text(values)
    found = []
    for stage in stages_of(values):
        images = max(1, stage["batch"] // (parts * values["devices"]))
        stride, bn = int(stage["os"]), stage["bn"]
        network, loss, weights, buffers = _costs(text, stride, bn, crop, images)
        update = Update(
            steps=int(stage["steps"]),
            parts=parts,
            network=network,
            loss=loss,
            weights=weights,
            buffers=buffers,
            copies=2 + (schedule["ema"] is not None),
            half=half,
            again=_again(text, stride, crop, images, share) if share else 0.0,
        )
        found.append(update)
    return found


def network_text(values: Mapping[str, Any]) -> str:
    """What makes a config's network, as a text to remember what it costs by."""
    made = {key: values[key] for key in ("model", "backbone", "multi_grid", "loss")}
    return json.dumps(made | {"classes": known(values["dataset"]).classes}, sort_keys=True)


@cache
def pass_cost(text: str, output_stride: int, size: Size) -> "Cost":
    """Of the scores of one image of ``size`` (height, width)."""
    from segkit.models.cost import inference_cost

    return inference_cost(_network(text, output_stride), size)


def _network(text: str, output_stride: int) -> "Segmenter":
    import torch

    from segkit.parts import network_of

    values = json.loads(text)
    with torch.device("meta"):
        return network_of(values, values["classes"], output_stride)


@cache
def _costs(
    text: str, output_stride: int, bn: Any, crop: int, images: int
) -> tuple["Cost", "Cost", int, int]:
    import torch

    from segkit import instantiate
    from segkit.models.cost import counted

    net = _network(text, output_stride)
    net.train()
    net.set_batch_norm(bn)
    loss = instantiate.partial(json.loads(text)["loss"], "loss")(ignore_label=255)
    image = torch.empty(images, 3, crop, crop, device="meta")
    labels = torch.empty(images, crop, crop, dtype=torch.uint8, device="meta")
    scores: dict[str, Any] = {}
    network = counted(lambda: scores.update(net.scores(image)), net)
    after = counted(lambda: loss(scores, labels, loss.normaliser(labels)), net)
    weights = sum(part.numel() for part in net.parameters()) * FLOAT
    return network, after, weights, sum(part.nbytes for part in net.buffers())


@cache
def _again(text: str, output_stride: int, crop: int, images: int, share: float) -> float:
    """Multiply-adds of the forward pass that the backward pass computes once more, over all."""
    import torch

    from segkit.models.cost import Tally

    net = _network(text, output_stride)
    net.train()
    net.recompute(share)
    with Tally() as forward:
        scores = net.scores(torch.empty(images, 3, crop, crop, device="meta"))
    with Tally() as backward:  # its own convolutions are other operators
        sum(one.sum() for one in scores.values()).backward()  # type: ignore[union-attr]
    return backward.macs / forward.macs
