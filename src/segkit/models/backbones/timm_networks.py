"""Any network of timm (PyTorch Image Models) that gives maps, dilated where timm can dilate it.

timm decides the rates: its ResNets are torchvision's style. Nothing is downloaded; a classifier's
file under timm's own names can be given.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError
from segkit.models.contracts import Backbone, Feature
from segkit.models.pixels import IMAGENET_PIXELS, Pixels
from segkit.models.weights import ImageNetWeights, WeightFile

_KEY = "backbone.network"
_STAGES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
_PROBES = ((65, 90), (1, 1))  # an odd and an even side off every stride; the smallest image


@dataclass(frozen=True)
class Tap:
    """One of timm's maps: its index there, its stride before any was traded, what it is here."""

    index: int
    natural_stride: int
    feature: Feature


class TimmNetwork(Backbone):
    """Maps ``out``; ``res2`` to ``res5`` and ``low`` = ``res2`` as far as it has these strides.

    Some networks cut the image into patches, or halve it rounding down: they see it padded to a
    multiple of ``pad_to`` with zeros (the mean pixel) at the right and the bottom, and their maps
    are cut to the contract's sizes. ``pad_to`` is 1 for all others.
    """

    name = "timm"

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[Tap],
        *,
        pad_to: int,
        imagenet: ImageNetWeights,
    ) -> None:
        super().__init__()
        self.network = network
        self.pad_to = pad_to
        self.imagenet = imagenet
        self._strides = [tap.feature.stride for tap in taps]
        # The position, among the maps that are asked for, of each that has a name.
        self._positions = {"out": len(taps) - 1}
        for position, tap in enumerate(taps):
            if name := _STAGES.get(tap.natural_stride):
                self._positions[name] = position
        if "res2" in self._positions:
            self._positions["low"] = self._positions["res2"]
        self.features = {name: taps[p].feature for name, p in self._positions.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.network(padded(x, self.pad_to))
        if self.pad_to > 1:
            h, w = x.shape[2:]
            maps = [
                m[..., : (h - 1) // s + 1, : (w - 1) // s + 1]
                for m, s in zip(maps, self._strides, strict=True)
            ]
        return {name: maps[position] for name, position in self._positions.items()}


def padded(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the right and the bottom, until both sides are multiples."""
    h, w = x.shape[2:]
    return F.pad(x, (0, -w % multiple, 0, -h % multiple)) if multiple > 1 else x


def timm_network(
    network: str, *, output_stride: int, multi_grid: Sequence[int] | None = None
) -> TimmNetwork:
    """timm's ``network`` at the output strides that timm has it at.

    Raises ``ConfigError``: CFG-EXTRA without timm, CFG-BACKBONE for a network it does not know or
    that gives no maps at any image size, CFG-OUTPUT-STRIDE naming the strides it has, and
    CFG-MULTI-GRID for any multi-grid.
    """
    if multi_grid is not None:
        what = f"timm has no multi-grid, found {list(multi_grid)}"
        raise ConfigError("MULTI-GRID", "multi_grid", what, "multi_grid=none")
    timm = _timm()
    if not timm.is_model(network):
        near = get_close_matches(network, timm.list_models(), n=1)
        fix = f"did you mean {near[0]}?" if near else "timm.list_models() names them"
        raise ConfigError("BACKBONE", _KEY, f"timm has no network {network!r}", fix)
    with torch.device("meta"), _said_by_timm(network):
        whole = timm.create_model(network, pretrained=False)
        natural = timm.create_model(network, pretrained=False, features_only=True)
    strides = natural.feature_info.reduction()
    # The last map of each stride; those before stride 4 serve no head.
    last = {s: i for s, i in zip(strides, natural.feature_info.out_indices, strict=True) if s >= 4}
    options: dict[str, Any] = {"out_indices": tuple(last.values())}
    if output_stride != strides[-1]:
        options["output_stride"] = output_stride
    twin = _dilated(timm, network, natural, options, output_stride)
    if twin is None:
        raise _no_such_stride(timm, network, natural, output_stride)
    channels, reached = twin.feature_info.channels(), twin.feature_info.reduction()
    taps = [
        Tap(index, stride, Feature(width, now))
        for (stride, index), width, now in zip(last.items(), channels, reached, strict=True)
    ]
    return TimmNetwork(
        timm.create_model(network, pretrained=False, features_only=True, **options),
        taps,
        pad_to=_patch(network, twin, [tap.feature for tap in taps], strides[-1]),
        imagenet=_names(network, whole, natural),
    )


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as fault:
        raise ConfigError(
            "EXTRA",
            _KEY,
            f"timm cannot be imported ({fault})",
            "pip install 'segkit[timm]', or another backbone",
        ) from fault


@contextmanager
def _said_by_timm(network: str) -> Iterator[None]:
    """What timm says no with: no two of its networks raise the same."""
    try:
        yield
    except Exception as fault:
        reason = (str(fault).splitlines() or [""])[0][:120] or type(fault).__name__
        raise ConfigError(
            "BACKBONE", _KEY, f"timm gives no maps of {network} ({reason})", "another network"
        ) from fault


def _dilated(
    timm: Any, network: str, natural: nn.Module, options: dict[str, Any], output_stride: int
) -> Any:
    """The network without values; None where timm does not have it at this output stride.

    A network that has other parameters then (timm's xception71 at 8) does not count either.
    """
    try:
        with torch.device("meta"):
            made = timm.create_model(network, pretrained=False, features_only=True, **options)
    except Exception:
        return None
    same = made.state_dict().keys() == natural.state_dict().keys()
    return made if same and made.feature_info.reduction()[-1] == output_stride else None


def _no_such_stride(timm: Any, network: str, natural: Any, wanted: int) -> ConfigError:
    total = natural.feature_info.reduction()[-1]
    smaller = [stride for stride in (2, 4, 8, 16) if stride < total]
    choices = [
        stride
        for stride in smaller
        if _dilated(timm, network, natural, {"output_stride": stride}, stride) is not None
    ]
    return ConfigError(
        "OUTPUT-STRIDE",
        "os",
        f"timm's {network} cannot have output stride {wanted}",
        f"one of {', '.join(map(str, [*choices, total]))}",
    )


def _patch(network: str, twin: nn.Module, features: Sequence[Feature], total: int) -> int:
    """What image sides must be multiples of for maps of (side − 1) // stride + 1; 1: any side."""
    twin.eval()
    for multiple in (1, total):
        if all(_follows(twin, features, size, multiple) for size in _PROBES):
            return multiple
    raise ConfigError(
        "BACKBONE",
        _KEY,
        f"timm's {network} does not give maps at any image size",
        "another network",
    )


def _follows(
    twin: nn.Module, features: Sequence[Feature], size: tuple[int, int], multiple: int
) -> bool:
    x = padded(torch.empty(1, 3, *size, device="meta"), multiple)
    try:
        with torch.no_grad():
            found = [tuple(m.shape) for m in twin(x)]
    except Exception:  # an image of no multiple of its patches, or of another size than its own
        return False
    return found == [
        (1, f.channels, *((side - 1) // f.stride + 1 for side in x.shape[2:])) for f in features
    ]


def _names(network: str, whole: Any, maps: nn.Module) -> ImageNetWeights:
    """How the names in a classifier's file become those of ``TimmNetwork``.

    timm's wrappers keep them (``layer1.0``), merge the first two (``blocks_0``), or put ``model``
    before them. Its weights lie under the network's name, at no address that is known here.
    """
    own = maps.state_dict().keys()
    renamed, unused = {}, []
    for key in whole.state_dict():
        merged, wrapped = key.replace(".", "_", 1), f"model.{key}"
        if key in own:
            continue
        if merged in own:
            start = ".".join(key.split(".")[:2])
            renamed[f"{start}."] = f"network.{start.replace('.', '_')}."
        elif wrapped in own:
            renamed[key] = f"network.{wrapped}"
        else:
            unused.append(key)
    about = whole.pretrained_cfg
    mean, std = about.get("mean"), about.get("std")
    file = WeightFile(
        f"{network}.safetensors",
        licence=str(about.get("license") or "not stated"),
        source=f"timm's {network}",
    )
    return ImageNetWeights(
        (file,),
        unused=tuple(unused),
        renamed=(*renamed.items(), ("", "network.")),
        pixels=Pixels(tuple(mean), tuple(std)) if mean and std else IMAGENET_PIXELS,
    )
