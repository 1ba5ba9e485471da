"""How fast a network trains and answers on this device, by smaller updates and smaller pictures.

Never a step of the size that is asked about: the largest that runs has a third of its work, and on
a CPU takes seconds. What was measured is kept (``remembered``) and serves every other size.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segkit.ablation.asked import Asked
from segkit.ablation.update import network_text, pass_cost
from segkit.engine.loop import Update
from segkit.inference.memory import Memory
from segkit.inference.predictor import resolve_pad, scaled_size
from segkit.planning.clock import seconds_of
from segkit.planning.line import Line, through
from segkit.planning.remembered import Remembered
from segkit.planning.update import Size, batch_of, network_of, update_of
from segkit.protocol import asking, scales_of

# The largest measured point has this share of the asked one's work; the smaller that of the larger.
SHARE, SMALLER = 1 / 3, 1 / 3
# On a CPU no point takes longer than this, by what the one before it took.
AT_MOST = 5.0
LEAST_SIDE = 65


@dataclass(frozen=True)
class Pace:
    """``part`` is the line of one forward and backward pass, ``update`` seconds after the last."""

    part: Line
    update: float

    def seconds(self, macs: float, parts: int) -> float:
        """Of an update of ``parts`` passes of ``macs`` forward multiply-adds each."""
        return parts * self.part.at(macs) + self.update


class Speed:
    """``device`` and ``precision`` with what is remembered of them."""

    def __init__(self, device: torch.device, precision: Any, memory: Remembered) -> None:
        self.device, self.precision, self._memory = device, precision, memory

    def training(
        self, values: Mapping[str, Any], stage: Mapping[str, Any], size: Size, classes: int
    ) -> Pace:
        """Of a stage whose parts are ``size``; measured where it is not remembered."""
        known = self.remembered(values, stage, size)
        if known is not None:
            return known
        kept = self._trained(values, stage, size, classes)
        self._memory.put(self._trained_key(values, stage, size), kept)
        return _pace(kept)

    def remembered(
        self, values: Mapping[str, Any], stage: Mapping[str, Any], size: Size
    ) -> Pace | None:
        """As ``training``; None where it was not measured yet."""
        kept = self._memory.get(self._trained_key(values, stage, size))
        return None if kept is None else _pace(kept)

    def _trained_key(self, values: Mapping[str, Any], stage: Mapping[str, Any], size: Size) -> str:
        return self._key("training", values, stage["os"], stage["bn"], *self._exact(size.crop))

    def evaluation(self, values: Mapping[str, Any], how: Asked, classes: int) -> Line:
        """Seconds of one image over the multiply-adds of all its views."""
        words = ("evaluation", values, how.output_stride, len(how.sizes), how.flip)
        key = self._key(*words, *self._exact(how.padded))
        kept = self._memory.get(key)
        if kept is None:
            kept = self._answered(values, how, classes)
            self._memory.put(key, kept)
        return Line(kept["fixed"], kept["each"])

    def _exact(self, size: Any) -> tuple[Any, ...]:
        """A card is not filled by small work: there a line holds for the size it was made for."""
        return (size,) if self.device.type == "cuda" else ()

    def _key(self, *about: Any) -> str:
        kind, values, *others = about
        return json.dumps([kind, network_text(values), str(self.precision), *others])

    # -- an update ---------------------------------------------------------------------------------

    def _trained(
        self, values: Mapping[str, Any], stage: Mapping[str, Any], size: Size, classes: int
    ) -> dict[str, float]:
        net = network_of(values, stage, classes, self.device)
        least = max(1, net.min_train_batch)
        work = training_macs(values, stage["os"], size)
        points: list[tuple[float, float]] = []
        left = 0.0
        for share in (SHARE * SMALLER, SHARE):
            point = smaller(size, share, least, whole=self.device.type == "cuda")
            macs = training_macs(values, stage["os"], point)
            if points and (macs <= points[-1][0] or self._too_long(points[-1], macs)):
                break
            update = update_of(Update, net, values, stage, point, self.device, self.precision)
            batch = batch_of(point, self.device)
            whole = seconds_of(lambda: update(batch, 0, 0), self.device)  # noqa: B023
            left = seconds_of(lambda: apply(update), self.device)  # noqa: B023
            points.append((macs, max(whole - left, 0.1 * whole)))
        line = through(points)
        return {"fixed": line.fixed, "each": line.each, "update": left, "asked": work}

    def _too_long(self, last: tuple[float, float], macs: float) -> bool:
        return self.device.type == "cpu" and last[1] * macs / last[0] > AT_MOST

    # -- a picture ---------------------------------------------------------------------------------

    def _answered(self, values: Mapping[str, Any], how: Asked, classes: int) -> dict[str, float]:
        stage = {"os": how.output_stride, "bn": "train"}
        net = network_of(values, stage, classes, self.device).eval()
        protocol = dict(how.values)
        protocol["eval"] = how.values["eval"] | {"pad": "fit"}
        protocol["precision"] = self.precision
        protocol["eval"]["window"] = how.values["eval"]["window"] | {"size": None}
        views = {"scales": scales_of(how.values), "flip": how.flip}
        views["fusion"] = how.values["tta"]["fusion"]
        asks = asking(net, protocol, self.device, Memory(self.device), **views)
        points: list[tuple[float, float]] = []
        for share in (SHARE * SMALLER, SHARE):
            seen = how.padded if share == 1 else shrunk(how.padded, share)
            macs = view_macs(values, how, resolve_pad("fit", seen, how.output_stride))
            if points and (macs <= points[-1][0] or self._too_long(points[-1], macs)):
                break
            picture = torch.randint(256, (3, *seen), dtype=torch.uint8)
            points.append((macs, seconds_of(lambda: asks.labels([picture]), self.device)))  # noqa: B023
        line = through(points)
        return {"fixed": line.fixed, "each": line.each}


def _pace(kept: Mapping[str, float]) -> Pace:
    return Pace(Line(kept["fixed"], kept["each"]), kept["update"])


def apply(update: Update) -> None:
    """What an update does after its last backward pass."""
    gradients = [
        p.grad for g in update.optimizer.param_groups for p in g["params"] if p.grad is not None
    ]
    torch.nn.utils.get_total_norm(gradients)
    update.optimizer.step()


def smaller(size: Size, share: float, least: int, *, whole: bool) -> Size:
    """A part with about ``share`` of the work of one of ``size``, and at least ``least`` images.

    The crop shrinks first, down to 33 k + 1 pixels; ``whole``: the number of images does, and the
    crop only where that is not enough.
    """
    images = max(least, min(size.images, round(size.images * share))) if whole else least
    wanted = size.crop * (share * size.images / images) ** 0.5
    side = int((wanted - 1) // 32) * 32 + 1
    return Size(images, 1, max(min(LEAST_SIDE, size.crop), min(side, size.crop)))


def shrunk(size: tuple[int, int], share: float) -> tuple[int, int]:
    """(height, width) of about ``share`` of the area."""
    height, width = (max(LEAST_SIDE, round(side * share**0.5)) for side in size)
    return min(height, size[0]), min(width, size[1])


def training_macs(values: Mapping[str, Any], output_stride: int, size: Size) -> float:
    """Forward multiply-adds of one part."""
    one = pass_cost(network_text(values), int(output_stride), (size.crop, size.crop))
    return float(size.images * one.macs)


def view_macs(values: Mapping[str, Any], how: Asked, padded: tuple[int, int]) -> float:
    """Multiply-adds of all views of one image (or window) that is padded to ``padded``."""
    scales: Sequence[float] = scales_of(how.values)
    text = network_text(values)
    cost: Callable[[float], Any] = lambda scale: pass_cost(  # noqa: E731
        text, how.output_stride, scaled_size(padded, scale)
    )
    return float((1 + how.flip) * sum(cost(scale).macs for scale in scales))
