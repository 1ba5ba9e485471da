"""What other projects' own code builds: ``name shape`` of every tensor, one to a line.

Written by instantiating their networks (the commits stand in ``segkit/models/foreign``) with 21
classes, mmsegmentation's with its configs' 19; Keras arrays as its layers get them.
"""

import gzip
from math import prod
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "foreign_keys"


def listed(name: str) -> dict[str, Tensor]:
    """The tensors without values."""
    text = gzip.decompress((FOLDER / f"{name}.txt.gz").read_bytes()).decode()
    shapes = (line.split(" ") for line in text.splitlines())
    return {
        key: torch.empty([int(n) for n in shape.split(",") if n], device="meta")
        for key, shape in shapes
    }


def filled(name: str) -> dict[str, Tensor]:
    """The tensors with random values that a batch norm can have, too."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(tensor.shape, generator=generator) / max(prod(tensor.shape[1:]), 1)
        for key, tensor in listed(name).items()
    }
