"""A file without a proven checksum: recorded at first use, a change is told, never silent."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from network_zoo import BACKBONES

from segkit.errors import EnvironmentFault
from segkit.models import known_weights
from segkit.models.known_weights import compare, known, record, remember
from segkit.models.weights import ImageNetWeights, WeightFile, load_backbone

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of a user who has none yet."""
    monkeypatch.setattr(known_weights, "record", record_of(tmp_path))
    return tmp_path / "cache/segkit/known-weights.json"


def record_of(folder: Path) -> Callable[[], Path]:
    return lambda: folder / "cache/segkit/known-weights.json"


def test_where_it_is(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert REAL() == Path("/c/segkit/known-weights.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert REAL() == Path("/h/.cache/segkit/known-weights.json")


REAL = record  # tests/conftest.py puts another one in its place


def test_first_use_again_and_changed(place):
    assert compare("a.pth", ONE) == ""
    assert json.loads(place.read_text()) == {"a.pth": ONE}
    assert compare("b.pth", TWO) == compare("a.pth", ONE) == ""
    told = compare("a.pth", TWO)
    assert "a.pth has changed: sha256 2222222222222222..." in told
    assert "at first use it was 1111111111111111..." in told
    assert "segkit model weights accept=a.pth" in told
    assert known() == {"a.pth": ONE, "b.pth": TWO}, "a change is not recorded by itself"
    remember("a.pth", TWO)
    assert compare("a.pth", TWO) == ""
    assert [p.name for p in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a.pth": 1}', b"\xff", None])
def test_a_record_that_is_none_is_told_and_left_alone(place, content):
    if content is None:
        place.mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    assert "stays unverified" in compare("a.pth", ONE)
    assert str(place) in compare("a.pth", ONE)
    assert content is None or place.read_bytes() == content
    with pytest.raises(EnvironmentFault):
        remember("a.pth", ONE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(place):
    place.parents[1].mkdir()
    place.parents[1].chmod(0o500)
    assert "stays unverified" in compare("a.pth", ONE)


def test_a_file_where_the_folder_belongs(place):
    place.parents[1].write_text("")
    assert "stays unverified" in compare("a.pth", ONE)


@pytest.mark.usefixtures("place")
def test_loading_tells_a_change_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    source = ImageNetWeights((WeightFile("net.pth"),))
    seen = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        net = BACKBONES["r_tiny"](output_stride=16)
        torch.save(net.state_dict(), tmp_path / "net.pth")
        seen.append(load_backbone(net, "imagenet", source=source).sha256)
        said = capsys.readouterr().err
        assert ("net.pth has changed" in said) == (seed == 1)
        assert said.count("\n") == (seed == 1)
    assert seen[0] == seen[1] != seen[2]
    assert known() == {"net.pth": seen[0]}


def test_what_a_name_proves_or_a_user_typed_is_not_recorded(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_WEIGHTS", str(tmp_path))
    net = BACKBONES["r_tiny"](output_stride=16)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    load_backbone(net, str(tmp_path / "net.pth"), source=None)
    assert not place.exists()
