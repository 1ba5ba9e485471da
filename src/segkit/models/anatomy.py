"""A network taken apart on the meta device: sizes, rates, multiply-adds and receptive fields.

The network runs once on a tensor without values while every operator is watched, so whatever a
backbone or a head does is counted, and no module has to describe itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from segkit.models.arithmetic import Reach, multiply_adds, space_to_batch
from segkit.models.backbones.mobilenetv2 import InvertedResidual
from segkit.models.backbones.resnet import ResidualUnit
from segkit.models.backbones.xception import SeparableConv
from segkit.models.segmenter import Segmenter
from segkit.models.separable import SeparableConvNormReLU
from segkit.models.watching import Watching, tensors_in

# What is one line of the table; every other convolution or pool has a line of its own.
UNITS = (ResidualUnit, InvertedResidual, SeparableConv, SeparableConvNormReLU)

aten = torch.ops.aten
_MAX_POOLS = (aten.max_pool2d_with_indices.default, aten.max_pool2d.default)
_POOLS = (*_MAX_POOLS, aten.avg_pool2d.default)
_BILINEAR = (aten.upsample_bilinear2d.default, aten.upsample_bilinear2d.vec)
# Counted as bilinear ones, which see at most one position more.
_NEAREST = (aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec)


@dataclass(frozen=True)
class UnitRow:
    """One unit, convolution or pool; ``stride`` and ``rate`` are its own, the rest its output's.

    ``rate`` is the largest in it. ``total_stride`` and ``receptive_field`` are None behind a mean
    over the whole map, where a position has no place any more.
    """

    name: str
    stride: int
    rate: int
    channels: int
    size: int
    total_stride: float | None
    receptive_field: int | None


@dataclass(frozen=True)
class Anatomy:
    """What a network is made of; ``macs`` are the multiply-adds of its convolutions.

    ``macs_space_to_batch`` counts the padding of TensorFlow's atrous convolutions, too, as the
    papers do. ``receptive_field`` is that of the scores; what reaches them through a mean over the
    whole map is left out of it, and ``sees_all`` says that there is such a way.
    """

    params: int
    macs: int
    macs_space_to_batch: int
    receptive_field: int | None
    sees_all: bool
    units: list[UnitRow]


def anatomy_of(net: Segmenter, crop: int) -> Anatomy:
    """``net`` on one image of ``crop``×``crop``, as it evaluates; it must be on the meta device."""
    net.eval()
    image = torch.empty(1, 3, crop, crop, device="meta")
    with torch.no_grad(), Watch(net, image) as watch:
        out = net.scores(image)["out"]
    reach = watch.reaches[out]
    return Anatomy(
        params=sum(parameter.numel() for parameter in net.parameters()),
        macs=sum(step.macs for step in watch.steps),
        macs_space_to_batch=sum(step.macs_space_to_batch for step in watch.steps),
        receptive_field=reach.receptive_field if reach else None,
        sees_all=watch.sees_all,
        units=list(_unit_rows(watch.steps)),
    )


@dataclass(frozen=True)
class Step:
    """A convolution or a pool as it ran, and the unit it belongs to."""

    owner: str
    before: Reach | None
    after: Reach | None
    rate: int
    channels: int
    size: int
    macs: int = 0
    macs_space_to_batch: int = 0


@dataclass
class Watch(Watching):
    """Follows the reach of every map from ``image`` on, and writes down each step.

    A map's reach is None where it holds nothing but means over whole maps.
    """

    net: nn.Module
    image: Tensor
    steps: list[Step] = field(default_factory=list)
    sees_all: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.reaches: Any = WeakTensorKeyDictionary()
        self.reaches[self.image] = Reach()
        self._names: list[str] = [""]
        self._units = [n for n, part in self.net.named_modules() if isinstance(part, UNITS)]

    def __enter__(self) -> "Watch":
        self._naming = _names_of(self.net, self._names)
        self._naming.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._naming.__exit__(*error)

    def ran(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        maps = [part for part in tensors_in(args) if part in self.reaches]
        out = next(tensors_in([result]), None)
        if maps and out is not None:
            self.reaches[out] = self._follow(func, args, maps, out)
        return result

    def _follow(self, func: Any, args: Sequence[Any], maps: list[Tensor], out: Tensor) -> Any:
        before: Reach | None = self.reaches[maps[0]]
        if func is aten.convolution.default:
            window = _Window.of_convolution(args)
        elif func in _POOLS:
            window = _Window.of_pool(args, has_rate=func in _MAX_POOLS)
        else:
            return self._pass(func, args, maps, out)
        after = before and before.window(*window.arguments)
        self.steps.append(self._step(args, before, after, out, window.rate, func not in _POOLS))
        return after

    def _pass(self, func: Any, args: Sequence[Any], maps: list[Tensor], out: Tensor) -> Any:
        """What is behind an operator that is neither a convolution nor a pool."""
        known = [reach for part in maps if (reach := self.reaches[part]) is not None]
        if not known:
            return None
        first = known[0]
        side = maps[0].shape[-1]
        if func is aten.constant_pad_nd.default:
            return first.window(1, padding=args[1][0])
        if func is aten.slice.Tensor:
            dim, start, step = (args[n] if len(args) > n else None for n in (1, 2, 4))
            along = (dim or 0) % out.dim() == out.dim() - 1
            return first.window(1, step or 1, -(start or 0)) if along else first
        if func in (*_BILINEAR, *_NEAREST):
            aligned = func in _BILINEAR and bool(args[2])
            return first.resized(side, out.shape[-1], aligned=aligned)
        if out.dim() == 4 and out.shape[2:] == maps[0].shape[2:]:
            for other in known[1:]:
                first = first.beside(other)
            return first
        self.sees_all = True
        return None

    def _step(
        self,
        args: Sequence[Any],
        before: Reach | None,
        after: Reach | None,
        out: Tensor,
        rate: int,
        counted: bool,
    ) -> Step:
        sides = (out.shape[2], out.shape[3])
        weights = args[1].numel() if counted else 0
        return Step(
            owner=self._owner(),
            before=before,
            after=after,
            rate=rate,
            channels=out.shape[1],
            size=out.shape[3],
            macs=multiply_adds(weights, sides),
            macs_space_to_batch=multiply_adds(weights, space_to_batch(sides, rate)),
        )

    def _owner(self) -> str:
        """The unit around the module that runs, which is found by name: forward may be bypassed."""
        name = self._names[-1]
        around = (unit for unit in self._units if name == unit or name.startswith(f"{unit}."))
        return next(around, name)


@dataclass(frozen=True)
class _Window:
    """A kernel along a row."""

    kernel: int
    stride: int
    padding: int
    rate: int

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        return self.kernel, self.stride, self.padding, self.rate

    @staticmethod
    def of_convolution(args: Sequence[Any]) -> "_Window":
        _, weight, _, stride, padding, rate, *_ = args
        # A 1×1 has no rate, whatever it was given.
        kernel = weight.shape[-1]
        return _Window(kernel, stride[-1], padding[-1], rate[-1] if kernel > 1 else 1)

    @staticmethod
    def of_pool(args: Sequence[Any], *, has_rate: bool) -> "_Window":
        kernel = args[1]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        padding = args[3] if len(args) > 3 else [0]
        rate = args[4] if has_rate and len(args) > 4 else [1]
        return _Window(kernel[-1], stride[-1], padding[-1], rate[-1])


@contextmanager
def _names_of(net: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keeps the name of the module that is running on top of ``stack``."""
    handles: list[Any] = []
    for name, part in net.named_modules():
        enter = part.register_forward_pre_hook(lambda *_, name=name: stack.append(name))
        leave = part.register_forward_hook(lambda *_: stack.pop() and None, always_call=True)
        handles += [enter, leave]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unit_rows(steps: Sequence[Step]) -> Iterator[UnitRow]:
    """Consecutive steps of one unit are a row; a unit that runs again (v2's scales) says so."""
    times: dict[str, int] = {}
    for owner, group in _runs(steps):
        times[owner] = times.get(owner, 0) + 1
        first, last = group[0], group[-1]
        fields = [step.after.receptive_field for step in group if step.after]
        stride = last.after.jump / first.before.jump if last.after and first.before else 1
        yield UnitRow(
            name=owner if times[owner] == 1 else f"{owner}#{times[owner]}",
            stride=int(stride),
            rate=max(step.rate for step in group),
            channels=last.channels,
            size=last.size,
            total_stride=float(last.after.jump) if last.after else None,
            receptive_field=max(fields) if fields else None,
        )


def _runs(steps: Sequence[Step]) -> Iterator[tuple[str, list[Step]]]:
    group: list[Step] = []
    for step in steps:
        if group and group[0].owner != step.owner:
            yield group[0].owner, group
            group = []
        group.append(step)
    if group:
        yield group[0].owner, group
