"""What is known of another project's files, and the two things all of them need."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

Tensors = Mapping[str, Tensor]
# (prefix in the file, prefix here): the first that fits is taken, so the longer ones stand first.
Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """One kind of file.

    ``recognises`` goes by the keys. ``overrides`` is the config that the file's keys and shapes
    tell, ``rename`` gives its tensors in segkit's names; a key it does not know keeps its name and
    so fits nothing. ``unused``: prefixes, in the file's names, of what no network here has.
    ``optional``: (prefix in the file, prefix here) of what a config may leave out.
    ``backbone_only``: the head has to start from random. ``assumed``: what the file does not tell.
    ``refuses``: why a file of this project cannot be taken, if so. ``classifier``: whose length is
    the number of classes, in segkit's names.
    """

    name: str
    recognises: Callable[[Tensors], bool]
    overrides: Callable[[Tensors], list[str]]
    rename: Callable[[Tensors], dict[str, Tensor]]
    unused: tuple[str, ...] = ()
    optional: Names = ()
    backbone_only: bool = False
    assumed: str = ""
    refuses: Callable[[Tensors], str] = lambda _: ""
    classifier: str = "head.classifier.weight"


def renamed(tensors: Tensors, names: Names) -> dict[str, Tensor]:
    """``tensors`` with the prefixes of ``names`` replaced."""
    ours = {}
    for key, tensor in tensors.items():
        theirs, here = next(((t, h) for t, h in names if key.startswith(t)), ("", ""))
        ours[here + key.removeprefix(theirs)] = tensor
    return ours


def pooling_first(project: Tensor) -> Tensor:
    """The kernel behind an ASPP whose pooling branch comes last, for one where it comes first."""
    return project.roll(len(project), 1) if project.ndim == 4 else project


def has_prefix(tensors: Tensors, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in tensors)


def resnet_override(tensors: Tensors, prefix: str) -> list[str]:
    """``backbone=`` of the plain ResNet below ``prefix``, by its depth; none if it is no such."""
    depth = tuple(units(tensors, f"{prefix}layer{block}.") for block in (1, 2, 3, 4))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "r18",
        ((3, 4, 6, 3), False): "r34",
        ((3, 4, 6, 3), True): "r50",
        ((3, 4, 23, 3), True): "r101",
    }
    name = known.get((depth, bottleneck))
    # ResNeXt and wide ResNets have as many units.
    kernel = tensors.get(f"{prefix}layer1.0.conv2.weight")
    plain = kernel is not None and kernel.shape == (64, 64, 3, 3)
    return [f"backbone={name}"] if name and plain else []


def units(tensors: Iterable[str], prefix: str) -> int:
    """How many different numbers follow ``prefix``."""
    return len({k.removeprefix(prefix).split(".")[0] for k in tensors if k.startswith(prefix)})
