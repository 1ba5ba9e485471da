"""What a position sees and what a convolution costs, counted without a tensor.

Everything is along one side of a square map, on an image without borders (v1 §3.1 and facts §7.1:
going forward, RF += (k_e − 1)·jump; jump *= stride).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, gcd, lcm

# More phases than this only come from sides that do not fit one another; they are not told apart.
_PHASES = 1024

Span = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Reach:
    """The columns of the image that a map's positions see, between the first and the last one.

    Position p sees ``p·jump + low`` to ``p·jump + high``, with ``(low, high) = spans[p % phases]``.
    There is one phase until a map is resized: behind that, a position that falls on one of the
    coarse map sees less than one between two.
    """

    jump: Fraction = Fraction(1)
    spans: tuple[Span, ...] = ((Fraction(0), Fraction(0)),)

    @property
    def receptive_field(self) -> int:
        """Columns, of the position that sees the most."""
        return ceil(max(high - low for low, high in self.spans)) + 1

    def seen(self, position: int) -> Span:
        """First and last column that ``position`` sees; both may lie beyond the image."""
        low, high = self.spans[position % len(self.spans)]
        return position * self.jump + low, position * self.jump + high

    def window(self, kernel: int, stride: int = 1, padding: int = 0, rate: int = 1) -> "Reach":
        """Behind a convolution or a pool."""
        spans = []
        for position in range(len(self.spans) // gcd(len(self.spans), stride)):
            taps = [position * stride - padding + rate * tap for tap in range(kernel)]
            spans.append(self._hull(taps, position * stride * self.jump))
        return Reach(self.jump * stride, tuple(spans))

    def resized(self, side: int, to: int, *, aligned: bool) -> "Reach":
        """Behind a bilinear resize from ``side`` to ``to`` positions."""
        if aligned:
            step, offset = Fraction(side - 1, max(to - 1, 1)), Fraction(0)
        else:
            step = Fraction(side, to)
            offset = (step - 1) / 2
        if step == 0:  # a single position, read everywhere: no distance that could be scaled
            return Reach(self.jump, (self._hull([0], Fraction(0)),))
        phases = step.denominator * len(self.spans) // gcd(step.numerator, len(self.spans))
        spans = []
        for position in range(min(phases, _PHASES)):
            source = position * step + offset
            spans.append(self._hull([floor(source), ceil(source)], position * step * self.jump))
        return Reach(self.jump * step, tuple(spans))._limited(phases)

    def beside(self, other: "Reach") -> "Reach":
        """Of a sum or a concatenation with another map of the same size.

        Where the two have different jumps (sides that are not multiples of the output stride plus
        one, resized with aligned corners) they drift apart; only what each sees is joined.
        """
        phases = lcm(len(self.spans), len(other.spans))
        pairs = [
            (self.spans[n % len(self.spans)], other.spans[n % len(other.spans)])
            for n in range(min(phases, _PHASES))
        ]
        spans = tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs)
        return Reach(self.jump, spans)._limited(phases)

    def _hull(self, positions: Sequence[int], origin: Fraction) -> Span:
        seen = [self.seen(position) for position in positions]
        return min(low for low, _ in seen) - origin, max(high for _, high in seen) - origin

    def _limited(self, phases: int) -> "Reach":
        if phases <= _PHASES:
            return self
        widest = max(self.spans, key=lambda span: span[1] - span[0])
        return Reach(self.jump, (widest,))


def multiply_adds(weights: int, sides: Sequence[int]) -> int:
    """Of a convolution of ``weights`` numbers whose output has ``sides``, without biases."""
    return weights * sides[0] * sides[1]


def space_to_batch(sides: Sequence[int], rate: int) -> tuple[int, int]:
    """The output sides that TensorFlow computes at a rate, which the papers' column counts.

    It pads the input until side + 2·rate is a multiple of the rate (facts §4.4), so the output
    comes out as the next multiple, and is cropped behind it.
    """
    height, width = (-(-side // rate) * rate for side in sides)
    return height, width


@dataclass(frozen=True)
class Layer:
    """One line of a network written as a list."""

    name: str
    kernel: int
    stride: int = 1
    padding: int = 0
    rate: int = 1


@dataclass(frozen=True)
class LayerReach:
    """What facts §7.1 tabulate of a layer: output size, total stride, receptive field."""

    name: str
    size: int
    stride: int
    receptive_field: int


def layer_reaches(layers: Sequence[Layer], size: int) -> list[LayerReach]:
    """Every layer on an input of ``size``; an output size below 1 ends the list before it."""
    reach, rows = Reach(), []
    for layer in layers:
        extent = layer.rate * (layer.kernel - 1) + 1
        size = (size - extent + 2 * layer.padding) // layer.stride + 1
        if size < 1:
            break
        reach = reach.window(layer.kernel, layer.stride, layer.padding, layer.rate)
        rows.append(LayerReach(layer.name, size, int(reach.jump), reach.receptive_field))
    return rows


def _vgg16() -> tuple[Layer, ...]:
    layers = []
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        layers += [Layer(f"conv{block}_{n}", 3, padding=1) for n in range(1, convs + 1)]
        layers.append(Layer(f"pool{block}", 2, 2))
    return tuple(layers)


def _last_three() -> tuple[Layer, ...]:
    return tuple(Layer(f"conv{number}", 3, padding=1) for number in (3, 4, 5))


# Krizhevsky 2012 without padding at conv1, Simonyan and Zisserman 2015 (D), Zeiler and Fergus 2014.
NETWORKS: dict[str, tuple[Layer, ...]] = {
    "alexnet": (
        Layer("conv1", 11, 4),
        Layer("pool1", 3, 2),
        Layer("conv2", 5, padding=2),
        Layer("pool2", 3, 2),
        *_last_three(),
        Layer("pool5", 3, 2),
    ),
    "vgg16": _vgg16(),
    "zf-5": (
        Layer("conv1", 7, 2, 3),
        Layer("pool1", 3, 2, 1),
        Layer("conv2", 5, 2, 2),
        Layer("pool2", 3, 2, 1),
        *_last_three(),
    ),
}
