"""Batch norm folded into the convolutions: the same scores with fewer passes over large maps.

In eval mode a batch norm is an affine map of every channel, γ(x − μ)/√(σ² + ε) + β, which the
convolution before it can do with its weights and bias. Which one that is, is no matter of names: it
is seen in one pass over a small image.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from segkit.models.segmenter import Segmenter
from segkit.models.watching import Watching, tensors_in

aten = torch.ops.aten

# Of the image that is looked at: any position will do. The meta device needs no values, but there
# some operators are Python that loads torch's compiler, for a second and more.
_SIDE = 33


# Whose modules do the same with a picture of any size: what one look sees of them is all there is.
_KNOWN = ("segkit.", "torch.", "timm.")


class CannotFold(Exception):
    """The network cannot be looked at or copied; the message says why, in one line."""


def folded(net: Segmenter) -> Segmenter:
    """A copy in eval mode whose ``scores`` are those of ``net``; ``net`` where nothing folds.

    The copy shares every tensor with ``net`` but those of its folded convolutions, which are of the
    present values: it is good until ``net`` is trained on. A batch norm stays where the map it
    reads is read by somebody else, too, or is not a convolution's. Raises ``CannotFold``.
    """
    try:
        pairs = foldable(net)
        if not pairs:
            return net
        made = copy.deepcopy(net, {id(part): part for part in _tensors(net)}).eval()
        with torch.no_grad():
            for conv, norm in pairs.items():
                _fold(made, conv, norm)
    except Exception as fault:  # a network of the user's own may raise anything
        words = (str(fault).splitlines() or [""])[0]
        raise CannotFold(f"{type(fault).__name__}: {words}"[:200]) from fault
    return made


def strangers(net: nn.Module) -> set[str]:
    """The classes in ``net`` that may do one thing with a small picture and another with a large.

    One look does not tell: what they read of a batch norm's input may be read by others, later.
    """
    kinds = {type(part) for part in net.modules()}
    return {kind.__qualname__ for kind in kinds if not kind.__module__.startswith(_KNOWN)}


def foldable(net: Segmenter) -> dict[str, str]:
    """The names of all convolutions that one batch norm alone reads, and that norm's.

    Raises ValueError for a convolution that would not use a bias, and whatever ``net`` raises when
    it is copied and asked on the CPU.
    """
    twin = copy.deepcopy(net, {id(part): _on_cpu(part) for part in _tensors(net)}).eval()
    convs = {id(part.weight): name for name, part in _named(twin, nn.Conv2d)}
    norms = {id(part.running_mean): name for name, part in _named(twin, *_NORMS)}
    pairs = {
        convs[weight]: norms[mean]
        for weight, mean in _passed(twin).pairs()
        if weight in convs and mean in norms and _folds(twin.get_submodule(norms[mean]))
    }
    # What is seen of a convolution is not how its module gets to its bias: look again.
    for conv, norm in pairs.items():
        part = cast(nn.Conv2d, twin.get_submodule(conv))
        part.bias = nn.Parameter(part.weight.new_zeros(part.out_channels), requires_grad=False)
        twin.set_submodule(norm, _behind(twin.get_submodule(norm)))
    used = _passed(twin).used
    for conv in pairs:
        if aten.convolution.default not in used[id(twin.get_submodule(conv).bias)]:
            raise ValueError(f"{conv} would make no use of a bias")
    return pairs


def _fold(net: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = cast(nn.Conv2d, net.get_submodule(conv_name))
    norm = cast(nn.BatchNorm2d, net.get_submodule(norm_name))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In float64, and rounded once.
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    bias = -norm.running_mean.double()
    if norm.weight is not None:
        factor = factor * norm.weight
    if conv.bias is not None:
        bias = bias + conv.bias
    bias = bias * factor
    if norm.bias is not None:
        bias = bias + norm.bias
    weight = conv.weight * factor[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    net.set_submodule(norm_name, _behind(norm))


# -- which batch norm --------------------------------------------------------------------------

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def _folds(norm: nn.Module) -> bool:
    """Whether the module is a batch norm of running averages and nothing that is not known here."""
    plain = type(norm) in _NORMS or type(norm).__module__.startswith("timm.")
    return plain and not (norm._forward_hooks or norm._forward_pre_hooks)


def _behind(norm: nn.Module) -> nn.Module:
    """What is left of a batch norm: of timm's ``BatchNormAct2d`` the activation."""
    if type(norm) in _NORMS:
        return nn.Identity()
    return nn.Sequential(norm.drop, norm.act)  # type: ignore[arg-type]


class _Readers(Watching):
    """Who reads which convolution's output, by the ids of weights and running means."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[Tensor, int]] = {}  # held, so that no other gets its id
        self._readers: dict[int, set[int | None]] = defaultdict(set)
        self._sources: dict[int, set[int | None]] = defaultdict(set)
        self.used: dict[int, set[Any]] = defaultdict(set)  # a tensor, and by which operators

    def ran(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        is_norm = func is aten.native_batch_norm.default
        reader = id(args[3]) if is_norm else None
        for part in tensors_in([*args, *kwargs.values()]):
            self.used[id(part)].add(func)
            self._read(part, reader)
        if is_norm:
            _, source = self._made.get(id(args[0]), (None, None))
            self._sources[id(args[3])].add(source)
        if func is not aten.convolution.default or args[6]:  # transposed, no channel is a row
            return func(*args, **kwargs)
        result = _of_its_shape(args)
        self._made[id(result)] = (result, id(args[1]))
        return result

    def ended(self, results: object) -> None:
        """``results`` are somebody's, too."""
        for part in tensors_in([results]):
            self._read(part, None)

    def _read(self, part: Tensor, reader: int | None) -> None:
        if id(part) in self._made:
            self._readers[self._made[id(part)][1]].add(reader)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Weight and running mean of a convolution and a norm that have nobody else."""
        for mean, sources in self._sources.items():
            for weight in sources if len(sources) == 1 else ():
                alone = weight is not None and self._readers[weight] == {mean}
                plain = self.used.get(weight or 0) == {aten.convolution.default}
                if alone and plain and self.used[mean] == {aten.native_batch_norm.default}:
                    assert weight is not None
                    yield weight, mean


def _of_its_shape(args: Sequence[Any]) -> Tensor:
    """Zeros for what a convolution would take nearly all of a pass to make."""
    x, weight, _, *along = args[:6]
    sides = [
        (side + 2 * padding - rate * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, rate in zip(
            x.shape[2:], weight.shape[2:], *along, strict=True
        )
    ]
    return cast(Tensor, x.new_zeros(len(x), len(weight), *sides))


def _passed(twin: Segmenter) -> _Readers:
    # In inference mode a convolution would go by another name.
    with torch.inference_mode(False), torch.no_grad(), _Readers() as readers:
        scores = twin.scores(torch.zeros(1, 3, _SIDE, _SIDE))
        readers.ended(list(scores.values()))
    return readers


def _on_cpu(part: Tensor) -> Tensor:
    """The tensor, or nothing but its shape where another device would have to give its values."""
    return part if part.device.type == "cpu" else torch.zeros_like(part, device="cpu")


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    return chain(net.parameters(), net.buffers())


def _named(net: nn.Module, *kinds: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """The modules of some kinds that have one name and no tensor in common with another."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, part in net.named_modules(remove_duplicate=False):
        if isinstance(part, kinds):
            names[id(next(_tensors(part), None))].append(name)
    for name, part in net.named_modules():
        if isinstance(part, kinds) and len(names[id(next(_tensors(part), None))]) == 1:
            yield name, part
