"""The projects whose files can be read, and which of them a file is from."""

from segkit.models.foreign.mnv2_voc import MNV2_VOC
from segkit.models.foreign.smp import SMP
from segkit.models.foreign.source import Source, Tensors
from segkit.models.foreign.timm import TIMM
from segkit.models.foreign.torchvision import TORCHVISION

SOURCES = {source.name: source for source in (TORCHVISION, SMP, TIMM, MNV2_VOC)}


def guess(tensors: Tensors) -> Source | None:
    """The source whose keys these are; no two claim the same file."""
    return next((source for source in SOURCES.values() if source.recognises(tensors)), None)
