"""How fast a network trains and answers on this device, by smaller updates and smaller pictures.

Never a step of the size that is asked about: the largest that runs has half of its work, and on a
CPU takes seconds. What was measured is kept (``remembered``) for the same size.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segkit.ablation.asked import Asked
from segkit.ablation.update import network_text, pass_cost
from segkit.engine import loop
from segkit.engine.loop import Update
from segkit.inference.memory import Memory
from segkit.inference.predictor import resolve_pad, scaled_size
from segkit.planning.clock import seconds_of, seconds_of_each
from segkit.planning.line import Line, through
from segkit.planning.remembered import Remembered
from segkit.planning.update import Size, batch_of, network_of, update_of
from segkit.protocol import asking, scales_of

# Shares of the asked work: the least is measured first and says which of the others is affordable.
# What a pass costs whatever its size (weights read, put in order, their gradients) is a third of
# many steps: the two points that are kept must lie far apart.
SHARES, LEAST = (1 / 2, 1 / 3, 1 / 5, 1 / 8, 1 / 12, 1 / 20, 1 / 40, 1 / 80), 1 / 8
# On a CPU no point takes longer than this, by what was measured before it.
AT_MOST = 2.0
# Sides are multiples of this and one; the least point's is this at most.
GRID, LEAST_SIDE = 16, 65

# Its multiply-adds, and it.
Work = tuple[float, Callable[[], object]]


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
        about = (stage["os"], stage["bn"], values["recompute"], size.images, size.crop)
        return self._key("training", values, *about)

    def evaluation(self, values: Mapping[str, Any], how: Asked, classes: int) -> Line:
        """Seconds of one image over the multiply-adds of all its views; measured where it is not
        remembered."""
        known = self.remembered_evaluation(values, how)
        if known is not None:
            return known
        line = self._answered(values, how, classes)
        self._memory.put(self._answered_key(values, how), {"fixed": line.fixed, "each": line.each})
        return line

    def remembered_evaluation(self, values: Mapping[str, Any], how: Asked) -> Line | None:
        """As ``evaluation``; None where it was not measured yet."""
        kept = self._memory.get(self._answered_key(values, how))
        return None if kept is None else Line(kept["fixed"], kept["each"])

    def _answered_key(self, values: Mapping[str, Any], how: Asked) -> str:
        about = (how.output_stride, how.sizes, how.flip)
        return self._key("evaluation", values, *about)

    def _key(self, *about: Any) -> str:
        kind, values, *others = about
        return json.dumps([kind, network_text(values), str(self.precision), *others])

    # -- an update ---------------------------------------------------------------------------------

    def _trained(
        self, values: Mapping[str, Any], stage: Mapping[str, Any], size: Size, classes: int
    ) -> dict[str, float]:
        loop._tune(self.device)
        net = network_of(values, stage, classes, self.device)
        few = max(1, net.min_train_batch, min(2, size.images))
        updates = []

        def work(share: float, side: int) -> Work:
            point = smaller(size, share, few, side)
            update = update_of(Update, net, values, stage, point, self.device, self.precision)
            updates.append(update)
            batch = batch_of(point, self.device)
            return training_macs(values, stage["os"], point), lambda: update(batch, 0, 0)

        cost = lambda share: training_macs(  # noqa: E731
            values, stage["os"], smaller(size, share, few, size.crop)
        )
        points = self._points(work, cost)
        left = seconds_of(lambda: apply(updates[-1]), self.device)
        line = through([(macs, max(whole - left, 0.1 * whole)) for macs, whole in points])
        return {"fixed": line.fixed, "each": line.each, "update": left}

    # -- a picture ---------------------------------------------------------------------------------

    def _answered(self, values: Mapping[str, Any], how: Asked, classes: int) -> Line:
        loop._tune(self.device)
        stage = {"os": how.output_stride, "bn": "train"}
        net = network_of(values, stage, classes, self.device).eval()
        protocol = dict(how.values)
        protocol["eval"] = how.values["eval"] | {"pad": "fit"}
        protocol["precision"] = self.precision
        protocol["eval"]["window"] = how.values["eval"]["window"] | {"size": None}
        views = {"scales": scales_of(how.values), "flip": how.flip}
        views["fusion"] = how.values["tta"]["fusion"]
        asks = asking(net, protocol, self.device, Memory(self.device), **views)

        def work(share: float, side: int) -> Work:
            seen = shrunk(how.padded, share, side)
            picture = torch.randint(256, (3, *seen), dtype=torch.uint8)
            macs = view_macs(values, how, resolve_pad("fit", seen, how.output_stride))
            return macs, lambda: asks.labels([picture])

        def cost(share: float) -> float:
            seen = shrunk(how.padded, share, max(how.padded))
            return view_macs(values, how, resolve_pad("fit", seen, how.output_stride))

        return through(self._points(work, cost))

    # -- both --------------------------------------------------------------------------------------

    def _points(
        self, work: Callable[[float, int], Work], cost: Callable[[float], float]
    ) -> list[tuple[float, float]]:
        """Multiply-adds and seconds of the least work and of the largest that is affordable.

        ``work(share, side)`` has about ``share`` of what is asked, and sides no longer than
        ``side``; ``cost(share)`` are its multiply-adds.
        """
        least, small = work(LEAST, LEAST_SIDE)
        points = [(least, seconds_of(small, self.device))]
        large = least
        for _ in range(2):  # the least point says too much of a multiply-add: look again from there
            share = self._affordable(through(points), cost)
            if cost(share) <= large:
                break
            large, big = work(share, 2**31)
            both = seconds_of_each([small, big], self.device)
            points = [(least, min(points[0][1], both[0])), (large, both[1])]
            if share == SHARES[0]:
                break
        return points

    def _affordable(self, line: Line, cost: Callable[[float], float]) -> float:
        if self.device.type == "cuda":
            return SHARES[0]
        within = (share for share in SHARES if line.at(cost(share)) <= AT_MOST)
        return next(within, SHARES[-1])


def _pace(kept: Mapping[str, float]) -> Pace:
    return Pace(Line(kept["fixed"], kept["each"]), kept["update"])


def apply(update: Update) -> None:
    """What an update does after its last backward pass."""
    gradients = [
        p.grad for g in update.optimizer.param_groups for p in g["params"] if p.grad is not None
    ]
    torch.nn.utils.get_total_norm(gradients)
    update.optimizer.step()


def smaller(size: Size, share: float, few: int, side: int) -> Size:
    """A part with at most about ``share`` of the work of one of ``size``.

    Images become fewer first, down to ``few``: maps of the asked size lie as deep in the caches as
    they will. Then the crop shrinks, down to 16 k + 1 pixels and at most ``side``.
    """
    images = max(few, min(size.images, int(size.images * share)))
    longest = min(side, size.crop)
    wanted = size.crop * (share * size.images / images) ** 0.5
    crop = longest if wanted >= longest else int((wanted - 1) // GRID) * GRID + 1
    return Size(images, 1, min(size.crop, max(2 * GRID + 1, crop)))


def shrunk(size: tuple[int, int], share: float, side: int) -> tuple[int, int]:
    """(height, width) of about ``share`` of the area, at most ``side``."""
    height, width = (max(LEAST_SIDE, min(side, round(one * share**0.5))) for one in size)
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
