"""A data set as it is read: substitutes and duplicates follow from the config and the files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.labels import label_set
from segkit.data.loader import sample_at
from segkit.errors import ConfigError, DataError, RefusedError
from segkit.inputs import Input, scored_input, training_input

CLASSES = ("ground", "ring", "dining table", "star")


class Marked:
    """Twelve samples whose pixels say which one it is; sample i shows ground and class i mod 4."""

    labels = label_set("marked", CLASSES)
    ids = np.array([f"{number:02d}" for number in range(12)])

    def __init__(self, bad: dict[int, Exception] | None = None) -> None:
        self.bad, self.read_count = bad or {}, 0

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.read_count += 1
        if index in self.bad:
            raise self.bad[index]
        label = np.zeros((4, 5), np.uint8)
        label[1], label[2] = index % 4, 255
        return np.full((4, 5, 3), index, np.uint8), label


def broken(index: int) -> DataError:
    return DataError("UNREADABLE", f"{index:02d}.png", "damaged picture")


def values(tmp_path: Path, **dataset: Any) -> dict[str, Any]:
    node = {"name": "marked", "cache": "none", "cache_dir": str(tmp_path / "c"), "max_skipped": 3}
    duplicate = {"classes": dataset.pop("classes", []), "times": dataset.pop("times", 2)}
    return {"seed": 5, "workers": 0, "dataset": {**node, "duplicate": duplicate, **dataset}}


def made(values: dict[str, Any], dataset: Marked, said: list[str] | None = None) -> Input:
    say = (said if said is not None else []).append
    return training_input(values, "train", dataset, say, lambda: False)


def read(found: Input) -> list[int]:
    return [int(found.dataset.read(index)[0][0, 0, 0]) for index in range(len(found.dataset))]


def test_as_it_is_it_is_itself(tmp_path: Path) -> None:
    dataset = Marked()
    assert made(values(tmp_path), dataset).dataset is dataset
    assert dataset.read_count == 0, "nothing is looked through unless it has to be"


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_an_unreadable_sample_has_a_substitute(tmp_path: Path, cache: str) -> None:
    asked, said = values(tmp_path, on_error="skip", cache=cache), []
    bad = {3: broken(3), 9: broken(9)}
    found = made(asked, Marked(bad), said)
    assert str(found) == (
        "2 of 12 skipped (train): 03.png: damaged picture; 09.png: damaged picture"
    )
    assert str(found) in said
    assert found.words() == {"03.png": "damaged picture", "09.png": "damaged picture"}
    order = read(found)
    assert [o for i, o in enumerate(order) if i not in bad] == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    assert not {order[3], order[9]} & set(bad)
    assert [int(name) for name in found.dataset.ids] == order
    assert read(made(asked, Marked(bad))) == order, "again"
    assert any(read(made({**asked, "seed": s}, Marked(bad))) != order for s in range(4))


def test_the_looking_through_is_done_once(tmp_path: Path) -> None:
    asked, dataset = values(tmp_path, on_error="skip"), Marked({3: broken(3)})
    said: list[str] = []
    first = made(asked, dataset, said)
    assert "looking through 12 samples" in said[0]
    [kept], count = list((tmp_path / "c").iterdir()), dataset.read_count
    again = made(asked, dataset)
    assert (read(again), str(again)) == (read(first), str(first))
    assert dataset.read_count - count < 24 + 12, "the probes of the key, and what was read here"
    document = json.loads(kept.read_text())
    document["census"] = document["census"].replace("damaged", "daMaged")
    kept.write_text(json.dumps(document))
    assert str(made(asked, dataset)) == str(first), "damaged, and made again"


@pytest.mark.parametrize(("most", "error"), [(1, "DATA-SKIPPED"), (0, "DATA-SKIPPED"), (2, None)])
def test_no_more_than_may_be(tmp_path: Path, most: int, error: str | None) -> None:
    asked = values(tmp_path, on_error="skip", max_skipped=most)
    bad = {3: broken(3), 9: broken(9)}
    for ask in (
        lambda: made(asked, Marked(bad)),
        lambda: scored_input(asked, "val", Marked(bad), lambda _: None, lambda: False),
    ):
        if error is None:
            assert len(ask().skipped) == 2
            continue
        with pytest.raises(DataError, match=r"03\.png: .*; 2 of the 12 .*max_skipped is") as e:
            ask()
        assert e.value.id == error


def test_of_nothing_readable_nothing_can_be_made(tmp_path: Path) -> None:
    asked = values(tmp_path, on_error="skip", max_skipped=50)
    with pytest.raises(DataError, match="12 of the 12"):
        made(asked, Marked({index: broken(index) for index in range(12)}))


def test_what_is_refused_for_safety_is_not_skipped(tmp_path: Path) -> None:
    bomb = RefusedError("PIXELS", "04.png", "9000x9000 pixels")
    with pytest.raises(RefusedError, match=r"04\.png"):
        made(values(tmp_path, on_error="skip"), Marked({4: bomb}))


def test_what_is_scored_has_no_substitutes(tmp_path: Path) -> None:
    asked = values(tmp_path, on_error="skip")
    found = scored_input(asked, "val", Marked({3: broken(3)}), lambda _: None, lambda: False)
    assert read(found) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert str(found).startswith("1 of 12 skipped (val)")


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("times", [1, 2, 4])
def test_samples_of_rare_classes_come_several_times(tmp_path: Path, times: int, cache: str) -> None:
    """Each epoch shows each of them so often, in an order that a seed decides."""
    asked = values(tmp_path, classes=["ring", "dining table"], times=times, cache=cache)
    found = made(asked, Marked())
    rare = {index for index in range(12) if index % 4 in (1, 2)}
    order = read(found)
    assert order[:12] == list(range(12))
    assert {index: order.count(index) for index in range(12)} == {
        index: times if index in rare else 1 for index in range(12)
    }
    count = len(found.dataset)
    epoch = [order[sample_at(5, 0, count, place)[1]] for place in range(count)]
    assert sorted(epoch) == sorted(order)
    assert read(made(asked, Marked())) == order


def test_duplicates_and_substitutes_together(tmp_path: Path) -> None:
    asked = values(tmp_path, classes=["star"], on_error="skip")
    order = read(made(asked, Marked({3: broken(3)})))
    assert len(order) == 14
    assert order[12:] == [7, 11], "nobody knows what the unreadable one shows"
    assert 3 not in order


def test_duplicating_finds_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"03\.png: damaged picture"):
        made(values(tmp_path, classes=["star"]), Marked({3: broken(3)}))


def test_a_class_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.duplicate\.classes: no class 'stars'; did"):
        made(values(tmp_path, classes=["stars"]), Marked())


def test_the_looking_through_of_a_folder_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file")
    said: list[str] = []
    assert read(made(values(tmp_path, classes=["ring"]), Marked(), said))
    assert any("not kept" in line for line in said)
