"""Filling a network with weights: which keys fit, in one line if they do not."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from segkit.errors import CheckpointError, without_secrets
from segkit.models.known_weights import compare
from segkit.models.pixels import IMAGENET_PIXELS, Pixels
from segkit.models.weight_files import WeightFile, find, read

if TYPE_CHECKING:  # the contracts name the table below
    from segkit.models.contracts import Head

__all__ = [
    "ImageNetWeights",
    "Origin",
    "WeightFile",
    "load_backbone",
    "load_segmenter",
    "torchvision_file",
]


@dataclass(frozen=True)
class ImageNetWeights:
    """A backbone's line in the table of public weights.

    ``files``: any of them will do, the first that is found is taken. ``renamed``: (prefix in the
    file, prefix here). ``unused``: prefixes of what a backbone leaves out, in the file's names.
    ``pixels``: what all of the files expect of an image, and so what the network is given.
    ``elsewhere``: where nobody has them as a torch file, who has them, and how they come in.
    """

    files: tuple[WeightFile, ...]
    unused: tuple[str, ...] = ("fc.", "classifier.")
    renamed: tuple[tuple[str, str], ...] = ()
    pixels: Pixels = IMAGENET_PIXELS
    elsewhere: str = ""

    def seeing(self, pixels: Pixels) -> "ImageNetWeights":
        """The line of a network that is given ``pixels``: no files, if they expect others."""
        if pixels == self.pixels:
            return self
        return replace(self, files=(), pixels=pixels, elsewhere="those there are see other pixels")


def torchvision_file(name: str) -> WeightFile:
    """A file of torchvision's; its name ends in the first eight digits of its SHA-256."""
    return WeightFile(
        name,
        f"https://download.pytorch.org/models/{name}",
        licence="BSD-3-Clause, and ImageNet's terms",
        source="torchvision",
    )


# For backbones without a table of their own: what classifiers call their last layer.
_ANY_FILE = ImageNetWeights(files=())


@dataclass(frozen=True)
class Origin:
    """Where a backbone's start came from; part of every score's signature.

    ``not_loaded`` names the parameters and buffers that kept their random start; ``before`` is what
    a run, from which this one starts, began from itself.
    """

    kind: Literal["imagenet", "file", "run", "none"]
    file: str | None = None
    sha256: str | None = None
    keys_loaded: int = 0
    not_loaded: tuple[str, ...] = ()
    before: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the file's name without its folder."""
        plain = {**asdict(self), "not_loaded": list(self.not_loaded)}
        return {k: v for k, v in plain.items() if k != "before" or v}


def load_backbone(
    backbone: nn.Module,
    pretrained: str,
    *,
    source: ImageNetWeights | None,
    head: "Head | None" = None,
    strict: bool = True,
    download: bool = False,
) -> Origin:
    """Fill ``backbone`` in place, what ``head`` can take beside it, and say from what.

    ``pretrained`` is ``imagenet`` (the files of ``source``, which is the backbone's own
    ``imagenet``), ``none``, or the path of a backbone's, a classifier's or a run's whole file
    (``backbone.`` and ``head.``). Half-precision tensors become float32 on the way. With
    ``strict`` every key of the backbone must fit; without it the rest is listed in the origin, but
    nothing fitting at all is still an error. On any error the backbone is as it was.

    A file of the table that no source has a checksum for is compared with what it was at first use
    (known_weights.py); a change is told on stderr.

    Raises ``CheckpointError`` (CKPT-WEIGHTS-NONE, -MISSING, -UNREADABLE, -HASH, -MISMATCH,
    -NONFINITE) and ``RefusedError`` SAFE-PICKLE.
    """
    if pretrained == "none":
        return Origin("none")
    kind: Literal["imagenet", "file"] = "file"
    path, file = _typed_path(pretrained), WeightFile("")
    if pretrained == "imagenet":
        if source is None or not source.files:
            name = getattr(backbone, "name", "this")
            where = f" as a torch file ({source.elsewhere})" if source else ""
            raise CheckpointError(
                "WEIGHTS-NONE",
                "pretrained",
                f"imagenet: there are no public weights for {name}{where}",
                "type pretrained=none to start from random, or pretrained=/path/to/file",
            )
        kind, (path, file) = "imagenet", find(source.files, download=download)
    tensors, digest = read(path)
    if not digest.startswith(file.hash_prefix):
        raise CheckpointError(
            "WEIGHTS-HASH",
            path,
            f"sha256 begins with {digest[:8]}, not {file.hash_prefix}",
            "the file is damaged or not what its name says; delete it",
        )
    if kind == "imagenet" and not file.hash_prefix and (told := compare(file.name, digest)):
        print(f"segkit: {told}", file=sys.stderr, flush=True)
    if any(key.startswith("backbone.") for key in tensors):
        loaded, left = load_whole(backbone, head, tensors, where=str(path), strict=strict)
    else:
        fitting = _in_our_names(tensors, source or _ANY_FILE)
        offered = head.from_classifier(tensors) if head is not None else {}
        loaded, left = _take(backbone, head, fitting, offered, where=str(path), strict=strict)
    return Origin(kind, without_secrets(path.name), digest, loaded, tuple(left))


def load_whole(
    backbone: nn.Module,
    head: "Head | None",
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    strict: bool,
    new_classifier: bool = False,
) -> tuple[int, list[str]]:
    """Fill backbone and head out of a whole network's ``backbone.`` and ``head.`` tensors.

    The head takes what has the same name and shape, without the classifier where that is to be
    a ``new_classifier``. Returns how many were loaded, and what was not. Raises as
    ``load_backbone``.
    """
    offered: dict[str, Tensor | None] = {}
    if head is not None:
        theirs, own = _below(tensors, "head."), head.state_dict()
        if new_classifier:
            theirs = {k: t for k, t in theirs.items() if not k.startswith(head.classifier_prefixes)}
        offered = {
            key: theirs[key] if key in theirs and _same_shape(own, theirs, key) else None
            for key in own
            if not key.endswith("num_batches_tracked")
        }
    return _take(backbone, head, _below(tensors, "backbone."), offered, where=where, strict=strict)


def _take(
    backbone: nn.Module,
    head: "Head | None",
    fitting: Mapping[str, Tensor],
    offered: Mapping[str, Tensor | None],
    *,
    where: str,
    strict: bool,
) -> tuple[int, list[str]]:
    for_head = {key: tensor for key, tensor in offered.items() if tensor is not None}
    _check_finite(for_head, where)
    loaded, left = _fill(backbone, fitting, where=where, strict=strict)
    if head is not None:
        head.load_state_dict(for_head, strict=False)
    left += [f"head.{key}" for key in offered if key not in for_head]
    return loaded + len(for_head), left


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): tensors[k] for k in tensors if k.startswith(prefix)}


def load_segmenter(
    net: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str = "checkpoint",
    strict: bool = True,
) -> list[str]:
    """Fill a whole network from a state dict; the names of what was not loaded (none if strict).

    Raises ``CheckpointError`` CKPT-WEIGHTS-MISMATCH or -NONFINITE in the name of ``where``.
    """
    return _fill(net, tensors, where=where, strict=strict)[1]


def _typed_path(text: str) -> Path:
    try:
        return Path(text).expanduser()  # a shell leaves the ~ of pretrained=~/file alone
    except RuntimeError:  # ~ of nobody known here
        return Path(text)


def _in_our_names(tensors: Mapping[str, Tensor], source: ImageNetWeights) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in tensors.items():
        if key.startswith(source.unused):
            continue
        for theirs, ours in source.renamed:
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
                break
        renamed[key] = tensor
    return renamed


def _fill(
    module: nn.Module, tensors: Mapping[str, Tensor], *, where: str, strict: bool
) -> tuple[int, list[str]]:
    """Load what fits; (keys loaded, keys of ``module`` that were not)."""
    own = module.state_dict()
    fits = {key: tensors[key] for key in own if key in tensors and _same_shape(own, tensors, key)}
    # The count of seen batches is only there for momentum=None, and old files do not have it.
    missing = [k for k in own if k not in tensors and not k.endswith("num_batches_tracked")]
    misshaped = [k for k in own if k in tensors and k not in fits]
    extra = sorted(k for k in tensors if k not in own)  # a file's order is anybody's
    if not fits or (strict and (missing or misshaped or extra)):
        raise _mismatch(own, tensors, missing, misshaped, extra, where, nothing=not fits)
    _check_finite(fits, where)
    module.load_state_dict(fits, strict=False)
    return len(fits), missing + misshaped


def _same_shape(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], key: str) -> bool:
    return own[key].shape == tensors[key].shape


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            "WEIGHTS-NONFINITE",
            where,
            f"{len(bad)} tensors hold NaN or infinity ({_first(bad)})",
            "give a file from before the training diverged",
        )


def _mismatch(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    missing: list[str],
    misshaped: list[str],
    extra: list[str],
    where: str,
    *,
    nothing: bool,
) -> CheckpointError:
    shapes = [f"{k} {list(tensors[k].shape)} for {list(own[k].shape)}" for k in misshaped[:3]]
    counts = [
        f"{len(keys)} {kind} ({_first(names)}{', ...' if len(keys) > 3 else ''})"
        for kind, keys, names in (
            ("missing", missing, missing),
            ("misshaped", misshaped, shapes),
            ("extra", extra, extra),
        )
        if keys
    ]
    head = "no key fits the network" if nothing else "does not fit the network"
    return CheckpointError(
        "WEIGHTS-MISMATCH",
        where,
        f"{head}: {'; '.join(counts) or 'it is empty'}",
        "give the weights of this architecture"
        + ("" if nothing else ", or load what fits with pretrained_strict=false"),
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3])
