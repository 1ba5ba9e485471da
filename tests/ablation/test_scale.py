"""A row at a scale: the papers' words, and what makes the training smaller."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from segkit import parts, recipe, rules
from segkit.ablation import book, scale
from segkit.config import compose
from segkit.errors import ConfigError
from segkit.identity import run_name
from segkit.schema import Scale

TENTH = {"steps": 0.1, "batch": 0.5, "crop": 0.5, "crop_step": 16, "crop_at_least": 65}


def node(**keys: Any) -> dict[str, Any]:
    return asdict(Scale(**keys))


def shipped(name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = compose("table", [f"scale={name}"]).values["scale"]
    return found


def taken(table_id: str, key: str) -> tuple[book.Row, book.Table]:
    table = book.read(table_id)
    return next(row for row in table.rows if row.key == key), table


def changed(table_id: str, key: str, made: Mapping[str, Any]) -> dict[str, str]:
    """The words of a row at a scale beyond the row's own, by key."""
    row, table = taken(table_id, key)
    words = scale.train_words(row, table, made, seed=0)
    return dict(word.split("=", 1) for word in words if word not in row.train)


def test_at_the_papers_scale_a_row_is_what_its_file_says() -> None:
    assert changed("v3plus.t3", "os32_32", shipped("paper")) == {}


def test_crop_batch_steps_and_rate_of_v3() -> None:
    # (513 - 1) / 2 + 1, 16 / 2, 30000 / 10, 0.007 * 1.5
    assert changed("v3.t5", "mg124", node(**TENTH, lr=1.5)) == {
        "augment.crop": "257",
        "schedule.batch": "8",
        "schedule.stages.0.steps": "3000",
        "schedule.stages.0.lr": "0.0105",
    }


def test_v1_drops_its_rate_after_the_same_share_of_the_steps() -> None:
    # 160 is 10 * 16; of 6000 steps a drop every 2000, of 600 every 200.
    assert changed("v1.t2", "largefov", node(**TENTH)) == {
        "augment.crop": "161",
        "schedule.batch": "15",
        "schedule.step_every": "200",
        "schedule.stages.0.steps": "600",
    }


def test_every_stage_is_shrunk() -> None:
    row, table = taken("v3.t5", "mg124_pool")
    own = "schedule.stages.1.batch=8"
    row = replace(row, train=(*row.train, "schedule=v3_test", own))
    words = scale.train_words(row, table, node(**TENTH, lr=2), seed=0)
    assert words[len(row.train) - 1 :] == (
        *("augment.crop=257", "schedule.batch=8"),
        *("schedule.stages.0.steps=3000", "schedule.stages.0.lr=0.014"),
        *("schedule.stages.1.steps=3000", "schedule.stages.1.lr=0.002"),
        "schedule.stages.1.batch=4",
    )


@pytest.mark.parametrize(
    ("key", "batch"), [("batch4", "2"), ("batch8", "2"), ("batch12", "3"), ("batch16", "4")]
)
def test_a_batch_is_no_smaller_than_batch_norm_needs(key: str, batch: str) -> None:
    made = node(batch=0.25, batch_at_least=2, batch_at_most=4)
    row, table = taken("v3.t9", key)
    assert f"schedule.batch={batch}" in scale.train_words(row, table, made, seed=0)


@pytest.mark.parametrize("name", ["camvid", "smoke"])
@pytest.mark.parametrize("key", ["os8", "os256"])
def test_all_strides_of_a_table_see_a_crop_that_fits_the_largest(name: str, key: str) -> None:
    assert changed("v3.t1", key, shipped(name))["augment.crop"] == "257"


def test_a_crop_does_not_grow() -> None:
    row, table = taken("v3.t8", "crop321")
    words = scale.train_words(row, table, node(crop=0.9, crop_at_least=400), seed=0)
    assert "augment.crop=321" in words


def test_data_set_and_backbone_are_taken_instead() -> None:
    found = changed("v3.t12", "os16", shipped("camvid"))
    assert (found["dataset"], found["backbone"]) == ("camvid", "r101")
    # (769 - 1) * 0.625 = 480 = 30 * 16; 90000 / 20; 0.01 * 1.5
    assert found["augment.crop"] == "481"
    assert found["schedule.stages.0.steps"] == "4500"
    assert found["schedule.stages.0.lr"] == "0.015"


def test_smoke_is_two_steps() -> None:
    found = changed("v3plus.t2", "conv2_2", shipped("smoke"))
    assert found["schedule.stages.0.steps"] == "2"
    assert (found["augment.crop"], found["schedule.batch"]) == ("65", "4")
    assert (found["dataset"], found["pretrained"]) == ("shapes", "none")


def test_what_is_typed_for_this_call_wins() -> None:
    row, table = taken("v3.t5", "mg124")
    words = scale.train_words(
        row, table, node(**TENTH), seed=3, extra=("backbone=r18", "augment.crop=65")
    )
    assert {"backbone=r18", "augment.crop=65", "seed=3"} <= set(words)
    assert len({word.partition("=")[0] for word in words}) == len(words)


def test_an_evaluation_has_the_rows_words_over_the_scales() -> None:
    row, _ = taken("v3.t12", "os8_ms")
    made = node(eval=["tta.scales=[1]", "eval.report=false"])
    assert scale.eval_words(row, ("crf=true",), made) == (
        *("eval.report=false", "os=8", "ms=true", "tta.scales=[0.75,1,1.25]", "crf=true"),
    )


# -- every row -------------------------------------------------------------------------------------

SCALES = ["paper", "camvid", "camvid_cpu", "smoke"]
SAMPLE = [
    ("paper", "v1.t1a", "msc"),
    ("paper", "v3.t10", "os32_8"),
    ("smoke", "v2.t4", "aspp"),
    ("smoke", "v2.t9", "vgg_half"),
    ("smoke", "v3plus.t5", "os16_ms"),
]


def possible(row: book.Row, table: book.Table, made: Mapping[str, Any]) -> None:
    """Compose, check, and build ``row`` without memory; its evaluations, too."""
    words = scale.train_words(row, table, made, seed=0)
    composed = compose("train", words)
    rules.check(composed.values)
    if (key := run_name(composed)) not in BUILT:
        nets = parts.check_network(composed.values)
        pretrained = "path" if row.begins else composed.values["pretrained"]
        recipe.check({**composed.values, "pretrained": pretrained}, nets)
        BUILT.add(key)
    for column in table.columns:
        asked = scale.eval_words(row, column.evaluate, made)
        if asked not in ASKED:
            rules.check(compose("eval", asked).values)
            ASKED.add(asked)


BUILT: set[str] = set()
ASKED: set[tuple[str, ...]] = set()


@pytest.mark.parametrize(("name", "table_id", "key"), SAMPLE)
def test_a_row_of_each_kind_can_be_trained(name: str, table_id: str, key: str) -> None:
    possible(*taken(table_id, key), shipped(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALES)
def test_every_row_can_be_trained(name: str) -> None:
    made, wrong = shipped(name), []
    for table in map(book.read, book.table_ids()):
        for row in table.rows:
            try:
                possible(row, table, made)
            except ConfigError as error:
                wrong.append(f"{table.id} {row.key}: {error.line()}")
    assert wrong == []
