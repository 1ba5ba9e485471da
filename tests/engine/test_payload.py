"""What is written without the library is, byte for byte, what the library would have written."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from segkit.engine import payload
from segkit.errors import NumericsError

KINDS = (
    *(torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16),
    *(torch.int16, torch.int8, torch.uint8, torch.bool),
)


def of_every_kind() -> dict[str, Tensor]:
    """Names in no order, every layout that training makes, and none at all."""
    draw = torch.Generator().manual_seed(1)
    tensors = {
        f"{number * 7 % 10}.{kind}": torch.randint(0, 2, (5, 3), generator=draw).to(kind)
        for number, kind in enumerate(KINDS)
    }
    weight = torch.randn(6, 4, 3, 3, generator=draw)
    tensors["weight"] = weight.to(memory_format=torch.channels_last)
    tensors["transposed"] = torch.randn(4, 7, generator=draw).T
    tensors["every second"] = torch.randn(8, generator=draw)[::2]
    tensors["expanded"] = torch.ones(1).expand(3)
    tensors["scalar"], tensors["nothing"] = torch.tensor(2.5), torch.zeros(0, 3)
    tensors['é "quoted" \\ 字'] = torch.nn.Parameter(torch.ones(2))
    return tensors


@pytest.mark.parametrize("tensors", [of_every_kind(), {}], ids=["every kind", "none"])
def test_the_bytes_are_the_librarys(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    found = payload.write(tmp_path / "file", tensors)
    copies = {name: t.detach().clone().contiguous() for name, t in tensors.items()}
    expected = safetensors.torch.save(copies)
    assert (tmp_path / "file").read_bytes() == expected
    assert payload.size(tensors) == len(expected)
    assert found == payload.hash_of(tmp_path / "file") == hashlib.sha256(expected).hexdigest()


def test_large_tensors_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"w": torch.randn(33, 5, 3, 3).to(memory_format=torch.channels_last)}
    whole = payload.write(tmp_path / "whole", tensors)
    monkeypatch.setattr(payload, "PART", 256)
    assert payload.write(tmp_path / "parts", tensors) == whole
    assert payload.hash_of(tmp_path / "parts") == whole


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_found_in_any_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: torch.dtype, value: str
) -> None:
    """The largest numbers are finite, and their sum is not."""
    monkeypatch.setattr(payload, "PART", 16)
    most = torch.finfo(kind).max
    fine = torch.tensor([most, most, -most, torch.finfo(kind).tiny, 0.0] * 4, dtype=kind)
    payload.write(tmp_path / "fine", {"w": fine})
    for place in range(len(fine)):
        broken = fine.clone()
        broken[place] = float(value)
        with pytest.raises(NumericsError, match="w: holds NaN"):
            payload.write(tmp_path / f"broken {place}", {"w": broken})
