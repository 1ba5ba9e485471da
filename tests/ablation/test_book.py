"""The papers' tables: every file reads, its numbers are those printed, a wrong one is named."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from segkit.ablation import book, scale
from segkit.config import compose
from segkit.errors import ConfigError
from segkit.identity import run_name

# Rows of each table as the papers have them.
ROWS = {
    **{"v1.t1a": 10, "v1.t2": 4},
    **{"v2.t2": 5, "v2.t3": 3, "v2.t4": 7, "v2.t6": 8, "v2.t7": 6, "v2.t9": 9},
    **{"v3.f4": 19, "v3.t1": 6, "v3.t2": 8, "v3.t3": 20, "v3.t4": 4, "v3.t5": 5, "v3.t6": 5},
    **{"v3.t8": 4, "v3.t9": 4, "v3.t10": 6, "v3.t11": 6, "v3.t12": 4},
    **{"v3plus.f5": 4, "v3plus.t1": 5, "v3plus.t2": 6, "v3plus.t3": 14, "v3plus.t4": 2},
    **{"v3plus.t5": 24, "v3plus.t7": 4},
}
# Of each column of printed numbers: how many, their sum, the smallest and the largest.
PRINTED = {
    ("v1.t1a", "mIoU"): (10, "644.87", "59.80", "68.70"),
    ("v1.t2", "FOV"): (4, "800", "128", "224"),
    ("v1.t2", "Parameters (M)"): (4, "285.0", "20.5", "134.3"),
    ("v1.t2", "mIoU"): (4, "249.84", "59.80", "64.38"),
    ("v1.t2", "mIoU, CRF"): (4, "266.16", "63.74", "67.64"),
    ("v1.t2", "Training images/s"): (4, "12.08", "1.44", "4.84"),
    ("v2.t2", "mIoU"): (5, "321.16", "62.25", "65.88"),
    ("v2.t3", "mIoU"): (3, "201.70", "65.76", "68.96"),
    ("v2.t3", "mIoU, CRF"): (3, "211.14", "69.73", "71.57"),
    ("v2.t4", "mIoU"): (7, "517.72", "68.72", "77.69"),
    ("v2.t6", "mIoU"): (8, "335.0", "37.6", "45.7"),
    ("v2.t7", "mIoU"): (6, "376.28", "58.90", "64.94"),
    ("v2.t9", "mIoU"): (9, "606.58", "62.97", "71.4"),
    ("v3.t1", "mIoU"): (6, "341.74", "20.29", "75.18"),
    ("v3.t2", "mIoU"): (8, "577.82", "64.81", "75.76"),
    ("v3.t3", "mIoU"): (20, "1488.47", "68.39", "76.66"),
    ("v3.t4", "mIoU"): (4, "312.99", "76.66", "79.35"),
    ("v3.t5", "mIoU"): (5, "381.54", "75.36", "77.21"),
    ("v3.t6", "mIoU"): (5, "397.64", "77.21", "82.70"),
    ("v3.t8", "mIoU"): (4, "296.39", "67.22", "77.21"),
    ("v3.t9", "mIoU"): (4, "293.89", "64.43", "77.21"),
    ("v3.t10", "mIoU"): (6, "457.44", "74.45", "78.51"),
    ("v3.t11", "mIoU"): (6, "462.04", "76.69", "77.21"),
    ("v3.t11", "Relative time"): (6, "1.97", "0.03", "1.00"),
    ("v3.t12", "mIoU"): (4, "313.41", "77.23", "79.30"),
    ("v3plus.f5", "Gain at width 1"): (2, "10.2", "4.8", "5.4"),
    ("v3plus.t1", "mIoU"): (5, "389.84", "77.61", "78.21"),
    ("v3plus.t2", "mIoU"): (6, "469.01", "77.25", "78.85"),
    ("v3plus.t3", "mIoU"): (14, "1102.97", "75.43", "80.57"),
    ("v3plus.t3", "Multiply-Adds (B)"): (14, "19154.79", "52.43", "5247.07"),
    ("v3plus.t4", "Top-1 error"): (2, "42.59", "20.19", "22.40"),
    ("v3plus.t4", "Top-5 error"): (2, "11.19", "5.17", "6.02"),
    ("v3plus.t5", "mIoU"): (24, "1958.04", "79.17", "84.56"),
    ("v3plus.t5", "Multiply-Adds (B)"): (24, "30946.69", "54.17", "4676.16"),
    ("v3plus.t7", "mIoU"): (4, "314.81", "77.33", "79.55"),
}
# Single cells, by what their row says of itself: a sum does not see two numbers exchanged.
CELLS = {
    ("v1.t1a", "DeepLab-MSc", "x"): "65.21",
    ("v1.t1a", "DeepLab-7x7", ""): "64.38",
    ("v2.t2", "poly", "30", "10K"): "64.90",
    ("v2.t4", "x", "x", "x", "x", "", ""): "75.54",
    ("v2.t9", "ResNet-101", "x", "x", "", "x", ""): "71.0",
    ("v3.t1", "64"): "59.99",
    ("v3.t2", "ResNet-50", "block6"): "74.29",
    ("v3.t3", "(1,2,1)", "block7"): "76.66",
    ("v3.t3", "(1,2,3)", "block4"): "73.14",
    ("v3.t3", "(2,2,2)", "block6"): "74.70",
    ("v3.t5", "(1,2,4)", "6, 12, 18, 24", ""): "76.46",
    ("v3.t6", "8", "x", "x", ""): "79.77",
    ("v3.t8", "513", "x", ""): "75.95",
    ("v3.t8", "513", "", "x"): "76.01",
    ("v3.t10", "32", "24", "16"): "75.90",
    ("v3.t11", "16"): "77.18",
    ("v3plus.t1", "32"): "78.16",
    ("v3plus.t2", "Conv2", "[1x1, 256]"): "78.07",
    ("v3plus.t3", "16", "8", "x", "x", "x"): "80.57",
    ("v3plus.t3", "32", "16", "x", "", ""): "77.80",
    ("v3plus.t5", "8", "", "x", "x", "", "", ""): "81.34",
    ("v3plus.t5", "16", "x", "x", "x", "x", "x", ""): "83.34",
    ("v3plus.t5", "8", "x", "x", "x", "x", "x", "x"): "84.56",
    ("v3plus.t7", "Xception-65", "x", "x", ""): "79.14",
}
ASYNCHRONOUS = "asynchronous SGD: not reproducible with synchronous updates"


@pytest.fixture(scope="module")
def tables() -> dict[str, book.Table]:
    return {table_id: book.read(table_id) for table_id in book.table_ids()}


def row_of(table: book.Table, key: str) -> book.Row:
    return next(row for row in table.rows if row.key == key)


def numbers(table: book.Table, column: str) -> list[Decimal]:
    """As they are written: 77.1 + 0.11 is 77.21 in decimals alone."""
    return [Decimal(str(row.paper[column])) for row in table.rows if column in row.paper]


def test_the_papers_tables_are_there_in_order_with_all_their_rows(
    tables: dict[str, book.Table],
) -> None:
    assert {table_id: len(table.rows) for table_id, table in tables.items()} == ROWS
    assert list(tables)[:5] == ["v1.t1a", "v1.t2", "v2.t2", "v2.t3", "v2.t4"]
    assert list(tables)[-2:] == ["v3plus.t5", "v3plus.t7"]
    assert book.table_ids().index("v3.t9") < book.table_ids().index("v3.t10")


@pytest.mark.parametrize(("table_id", "column"), PRINTED)
def test_printed_numbers(table_id: str, column: str, tables: dict[str, book.Table]) -> None:
    count, total, least, most = PRINTED[table_id, column]
    found = numbers(tables[table_id], column)
    assert (len(found), sum(found)) == (count, Decimal(total))
    assert (min(found), max(found)) == (Decimal(least), Decimal(most))


def test_no_number_is_printed_that_this_test_does_not_know(tables: dict[str, book.Table]) -> None:
    printed = {
        (table.id, column.name)
        for table in tables.values()
        for column in table.columns
        if any(column.name in row.paper for row in table.rows)
    }
    assert printed == PRINTED.keys()


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_a_number_stands_in_its_own_row(
    cell: tuple[str, ...], tables: dict[str, book.Table]
) -> None:
    table = tables[cell[0]]
    (row,) = (row for row in table.rows if row.label == cell[1:])
    assert Decimal(str(row.paper["mIoU"])) == Decimal(CELLS[cell])


def test_labels_tell_the_rows_apart(tables: dict[str, book.Table]) -> None:
    for table in tables.values():
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels), table.id


def test_what_cannot_be_run_says_why(tables: dict[str, book.Table]) -> None:
    blocked = {
        (table.id, row.key): row.blocked
        for table in tables.values()
        for row in table.rows
        if row.blocked
    }
    of = {name: {k for k in blocked if k[0] == name} for name in tables}
    assert {name: len(keys) for name, keys in of.items() if keys} == {
        **{"v2.t6": 8, "v2.t7": 6, "v3.t11": 5, "v3plus.t4": 2, "v3plus.t5": 4}
    }
    assert blocked["v2.t6", "aspp"] == "PASCAL-Context is not supported as a data set"
    assert blocked["v2.t7", "plain"] == "PASCAL-Person-Part is not supported as a data set"
    assert {blocked[key] for key in of["v3.t11"]} == {ASYNCHRONOUS}
    assert ("v3.t11", "replicas1") not in blocked
    assert {blocked[key] for key in of["v3plus.t5"]} == {"JFT-300M is not public"}
    assert all(key[1].endswith("_jft") for key in of["v3plus.t5"])


def test_ticks_at_coco_are_rows_that_need_its_weights(tables: dict[str, book.Table]) -> None:
    for table in tables.values():
        place = table.labels.index("COCO") if "COCO" in table.labels else None
        for row in table.rows:
            ticked = place is not None and row.label[place] == "x"
            assert (row.needs == "coco") == ticked, (table.id, row.key)
            assert ("pretrained={coco}" in row.train) == ticked


# What a tick in a column of labels means in the row's words.
ASKED: dict[str, Callable[[book.Row], bool]] = {
    "MS": lambda row: "ms=true" in row.evaluate,
    "flip": lambda row: "flip=true" in row.evaluate,
    "CRF": lambda row: "crf=true" in row.evaluate,
    "MSC": lambda row: "model.msc=true" in row.train,
    "LargeFOV": lambda row: "model=v2_largefov" in row.train,
    "full resolution": lambda row: "tta.scales=[0.5]" not in row.evaluate,
    "image pooling": lambda row: "model.image_pooling=false" not in row.train,
    "image-level": lambda row: "model.image_pooling=false" not in row.train,
    "trained batch norm": lambda row: "schedule.stages.0.bn=frozen_stats" not in row.train,
    "upsampled logits": lambda row: "loss=labels16" not in row.train,
    "decoder": lambda row: not {"model.decoder=none", "model=v3"} & set(row.train),
    "SC": lambda row: "model.separable=false" not in row.train,
}


def test_ticks_are_what_the_words_ask_for(tables: dict[str, book.Table]) -> None:
    seen = set()
    for table in tables.values():
        for row in table.rows:
            for name, cell in zip(table.labels, row.label, strict=True):
                if name in ASKED:
                    seen.add(name)
                    assert ASKED[name](row) == (cell == "x"), (table.id, row.key, name)
    assert seen == ASKED.keys()


SHARED = [
    ("v1.t1a largefov", "v1.t1a largefov_crf", "v1.t2 largefov", "v2.t2 step_30_6k"),
    ("v2.t2 poly_10_20k", "v2.t3 largefov"),
    ("v3.t1 os16", "v3.t2 r50_block7"),
    ("v3.t3 mg121_block7", "v3.t4 os16", "v3.t4 os8_ms_flip"),
    (
        *("v3.t5 mg124_pool", "v3.t6 os16", "v3.t6 os8_ms_flip", "v3.t8 crop513", "v3.t9 batch16"),
        *("v3.t10 os16_16", "v3.t10 os16_8", "v3.t11 replicas1"),
        *("v3plus.t3 os16_16", "v3plus.t3 os16_8_ms_flip", "v3plus.f5 r101_bilinear"),
    ),
    ("v3plus.t1 channels48", "v3plus.t2 conv2_1"),
    ("v3plus.t2 conv2_2", "v3plus.t3 os16_8_decoder", "v3plus.f5 r101_decoder"),
    ("v3plus.t5 os16", "v3plus.t5 os8_ms_flip", "v3plus.f5 x65_bilinear"),
    ("v3plus.t5 os8_decoder", "v3plus.f5 x65_decoder"),
]


def test_rows_of_one_training_share_its_run_and_others_do_not(
    tables: dict[str, book.Table],
) -> None:
    runs = []
    for rows in SHARED:
        named = [row.split() for row in rows]
        words = {row_of(tables[table_id], key).train for table_id, key in named}
        names = {run_name(compose("train", once)) for once in words}
        assert len(names) == 1, rows
        runs += names
    assert len(set(runs)) == len(SHARED)


def test_each_of_v1s_multi_scale_rows_begins_with_the_row_without(
    tables: dict[str, book.Table],
) -> None:
    begins = {row.key: row.begins for row in tables["v1.t1a"].rows if row.begins}
    assert begins == {
        **{"msc": "deeplab", "msc_crf": "deeplab"},
        **{"msc_largefov": "largefov", "msc_largefov_crf": "largefov"},
    }
    for key, other in begins.items():
        mine, base = (row_of(tables["v1.t1a"], name).train for name in (key, other))
        assert mine == (f"{base[0]}_msc",)


def test_v1s_crf_is_searched_on_100_images(tables: dict[str, book.Table]) -> None:
    for row in tables["v1.t1a"].rows:
        assert row.tune == (100 if row.key.endswith("_crf") else None)
    assert [column.tune for column in tables["v1.t2"].columns] == [None, None, None, 100, None]


def test_what_is_read_near_borders_is_asked_for(tables: dict[str, book.Table]) -> None:
    """A scale may leave it out."""
    for table in tables.values():
        if any(column.kind.startswith("trimap") for column in table.columns):
            assert all("eval.boundaries=true" in row.evaluate for row in table.rows), table.id
    assert [row.against for row in tables["v3plus.f5"].rows] == [
        *(None, "r101_bilinear", None, "x65_bilinear"),
    ]


def test_words_mean_tables() -> None:
    assert book.asked_for(["v3plus", "v1.t2", "v3plus.t1"]) == [
        *(f"v3plus.{name}" for name in ("f5", "t1", "t2", "t3", "t4", "t5", "t7")),
        "v1.t2",
    ]
    assert book.asked_for(["all"]) == book.table_ids()
    with pytest.raises(ConfigError) as caught:
        book.asked_for(["v3.t55"])
    assert caught.value.line() == (
        "segkit: error[CFG-UNKNOWN-CHOICE]: table: 'v3.t55' is no table; "
        "segkit table --list shows them; did you mean v3.t5?"
    )


# -- files of the user's own -----------------------------------------------------------------------

SOUND = """\
title: Mine
source: nobody
setting: shapes
labels: [width]
columns: {mIoU: {}, Weights: {measure: params, digits: 1}}
train: [model=v3, dataset=shapes, backbone=r_tiny]
rows:
  - {key: narrow, label: [64], train: [model.channels=64], paper: {mIoU: 50.5, Weights: 1}}
  - {key: wide, label: [128], train: [model.channels=128, backbone=r18]}
"""


def written(folder: Path, text: str, name: str = "mine.t1") -> str:
    (folder / "ablation").mkdir(exist_ok=True)
    (folder / "ablation" / f"{name}.yaml").write_text(text)
    return str(folder)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    config_dir = written(tmp_path, SOUND)
    assert set(book.table_ids(config_dir)) - set(book.table_ids()) == {"mine.t1"}
    table = book.read(book.asked_for(["mine"], config_dir)[0], config_dir)
    narrow, wide = table.rows
    assert narrow.paper == {"mIoU": 50.5, "Weights": 1}
    assert wide.train == ("model=v3", "dataset=shapes", "model.channels=128", "backbone=r18")
    assert wide.paper == {}
    words = scale.train_words(wide, table, PAPER, seed=1, config_dir=config_dir)
    assert words == (*wide.train, "seed=1")


def test_a_file_of_the_same_name_replaces_the_papers(tmp_path: Path) -> None:
    config_dir = written(tmp_path, SOUND, "v3.t5")
    assert book.read("v3.t5", config_dir).title == "Mine"
    assert book.read("v3.t5").title.startswith("Atrous spatial pyramid")


PAPER = compose("table", ["scale=paper"]).values["scale"]

MALFORMED = [
    ("- a\n- list\n", "is not a set of keys"),
    ("title: a\n  b: [", "CFG-YAML"),
    ("title: Mine\n", "has no key 'labels'"),
    (SOUND.replace("setting:", "seting:"), "has no key 'setting'"),
    (SOUND + "nots: x\n", "table: no key 'nots'; did you mean note?"),
    (SOUND.replace("[64]", "[64, 3]"), "row narrow: 2 label cells for 1 columns"),
    (SOUND.replace("label: [64]", "label: 64"), "row narrow: label: 64 is no list"),
    (SOUND.replace("key: wide", "key: narrow"), "has the row 'narrow' twice"),
    (SOUND.replace("key: wide", "key: a b"), "row a b: has no key; key: letters"),
    (SOUND.replace("key: wide, ", ""), "has no key; key: letters, digits, _ and -"),
    (SOUND.replace("rows:\n", "rows:\n  - narrow\n"), "row 'narrow' is no mapping"),
    (SOUND.partition("rows:")[0] + "rows: []\n", "has no rows"),
    (SOUND.replace("50.5", "half"), "row narrow: 'half' is no number"),
    (SOUND.replace("50.5", "yes"), "row narrow: True is no number"),
    (SOUND.replace("50.5", ".nan"), "row narrow: nan is not finite"),
    (SOUND.replace("{mIoU: 50.5", "{mIou: 50.5"), "no column 'mIou'; did you mean mIoU?"),
    (SOUND.replace("measure: params", "measure: parms"), "column Weights: 'parms'; did you mean"),
    (SOUND.replace("measure: params", "measure: 'trimap:41'"), "'trimap:41'; trimap:1 to trimap:4"),
    (SOUND.replace("measure: params", "measure: valid"), "'valid'; valid:1 to valid:9"),
    (SOUND.replace("digits: 1", "digits: -1"), "column Weights: digits: -1; a whole number from 0"),
    (SOUND.replace("digits: 1", "tune: true"), "column Weights: tune: True; a whole number from 1"),
    (SOUND + "min_crop: big\n", "table: min_crop: 'big'; a whole number from 1"),
    (SOUND.replace("[model.channels=64]", "model.channels=64"), "row narrow: train: "),
    (SOUND.replace("[model.channels=64]", "[{model: v3}]"), "{'model': 'v3'} is no word"),
    (SOUND.replace("paper: {", "against: wid, paper: {"), "no other row 'wid'; did you mean wide?"),
    (SOUND.replace("paper: {", "begins: narrow, paper: {"), "row narrow: no other row 'narrow'"),
    (SOUND.replace("paper: {", "needs: jft, paper: {"), "row narrow: needs 'jft'; needs: coco"),
    (SOUND.replace("paper: {", "needs: coco, paper: {"), "needs: coco and pretrained={coco} go"),
    (SOUND.replace("channels=64]", "channels=64, 'pretrained={coco}']"), "row narrow: needs: coco"),
]


@pytest.mark.parametrize(("text", "said"), MALFORMED, ids=[said for _, said in MALFORMED])
def test_a_malformed_file_is_one_line_that_names_it(text: str, said: str, tmp_path: Path) -> None:
    config_dir = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        book.read("mine.t1", config_dir)
    line = caught.value.line()
    assert "mine.t1.yaml" in line
    assert said in line
    assert "\n" not in line


def test_the_last_of_two_words_for_a_key_counts() -> None:
    assert book.merged(["a=1", "b=2"], [], ["a=3"]) == ("b=2", "a=3")
