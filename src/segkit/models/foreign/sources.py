"""The projects whose files can be read, and which of them a file is from."""

from torch import Tensor

from segkit.models.foreign.jfzhang95 import JFZHANG95
from segkit.models.foreign.kazuto1011 import KAZUTO1011
from segkit.models.foreign.keras import KERAS
from segkit.models.foreign.mmsegmentation import MMSEGMENTATION
from segkit.models.foreign.mnv2_voc import MNV2_VOC
from segkit.models.foreign.smp import SMP
from segkit.models.foreign.source import Source, Tensors
from segkit.models.foreign.timm import TIMM
from segkit.models.foreign.torchvision import TORCHVISION
from segkit.models.foreign.vainf import VAINF

SOURCES = {
    source.name: source
    for source in (
        TORCHVISION,
        SMP,
        TIMM,
        MMSEGMENTATION,
        VAINF,
        JFZHANG95,
        KAZUTO1011,
        KERAS,
        MNV2_VOC,
    )
}


def guess(tensors: Tensors) -> Source | None:
    """The source whose keys these are; no two claim the same file."""
    return next((source for source in SOURCES.values() if source.recognises(tensors)), None)


def unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what a Lightning module calls its network, where all names begin with it.

    Classifiers stay as they are: they are not read here in the end, but by a training.
    """
    for prefix in ("model.", "net."):
        if tensors and all(key.startswith(prefix) for key in tensors):
            bare = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
            source = guess(bare)
            return bare if source and not source.backbone_only else tensors
    return tensors
