"""Instance maps as files hold them."""

from pathlib import Path

import numpy as np
import pytest
from pictures import png, write

from segkit.data.dataset import instances_of
from segkit.data.instances import read_instances
from segkit.data.labels import CITYSCAPES_CLASS_OF
from segkit.data.views import Chosen
from segkit.errors import DataError, RefusedError
from segkit.parts import Head

IDS = np.array([[7, 26, 26_000, 26_123], [24_999, 29_003, 0, 33_001]], np.uint16)
EXPECTED = [[-1, -1, 13_000, 13_123], [11_999, -1, -1, 18_001]]  # 29: caravans do not count


def test_ids_become_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", png(IDS))
    assert read_instances(path, CITYSCAPES_CLASS_OF).tolist() == EXPECTED
    bytes_alone = write(tmp_path / "b.png", png(np.full((2, 2), 7, np.uint8)))
    assert read_instances(bytes_alone, CITYSCAPES_CLASS_OF).tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("value", [34_000, 65_535])
def test_an_id_of_no_label_has_its_place(tmp_path: Path, value: int) -> None:
    ids = IDS.copy()
    ids[1, 2] = value
    path = write(tmp_path / "a.png", png(ids))
    with pytest.raises(DataError) as caught:
        read_instances(path, CITYSCAPES_CLASS_OF)
    assert str(caught.value).startswith(f"{path}: instance {value} at x=2 y=1")


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", png(np.zeros((2, 2, 3), np.uint8)))
    with pytest.raises(DataError, match="instance ids of mode RGB"):
        read_instances(path, CITYSCAPES_CLASS_OF)
    with pytest.raises(RefusedError):
        read_instances(write(tmp_path / "b.png", png(IDS)), CITYSCAPES_CLASS_OF, max_pixels=7)


class Maps:
    labels, ids = None, ("a", "b", "c")

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> None:
        raise AssertionError(index)

    def instances(self, index: int) -> np.ndarray:
        return np.full((1, 1), index)


def test_a_part_of_a_data_set_has_its_maps() -> None:
    assert instances_of(Chosen(Maps(), [2, 0]), 0).item() == 2
    assert instances_of(Head(Maps(), 2), 1).item() == 1
    without = type("Plain", (), {"labels": None, "ids": ("a",), "read": None})()
    assert instances_of(without, 0) is instances_of(Chosen(without, [0]), 0) is None
    assert instances_of(Head(without, 1), 0) is None
