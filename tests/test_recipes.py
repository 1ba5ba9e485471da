"""The papers' recipes as experiments: their key numbers, and that the tables train the same run."""

from typing import Any

import pytest

from segkit import parts, recipe, rules
from segkit.ablation import book
from segkit.conf_files import conf_dir
from segkit.config import compose
from segkit.identity import run_name

V3_STAGE = {"steps": 30_000, "lr": 0.007, "os": 16, "split": "trainaug", "batch": 16, "bn": "train"}
CITY_STAGE = V3_STAGE | {"steps": 90_000, "lr": 0.01, "split": "train"}
# What the papers and the released files say of each; stages without their names.
RECIPES: dict[str, dict[str, Any]] = {
    "v1_voc": {
        "stages": [
            {
                **{"steps": 6000, "lr": 0.001, "os": 8},
                **{"split": "trainaug", "batch": 30, "bn": "train"},
            }
        ],
        "policy": ("step", 2000, 0.1),
        "decay": 5e-4,
        "crop": (321, 1.0, 1.0),
        "multi_grid": None,
    },
    "v2_voc": {
        "stages": [
            {
                **{"steps": 20_000, "lr": 2.5e-4, "os": 8},
                **{"split": "trainaug", "batch": 10, "bn": "frozen"},
            }
        ],
        "policy": ("poly", 0.9),
        "decay": 5e-4,
        "crop": (321, 0.5, 1.5),
        "multi_grid": None,
    },
    "v3_voc": {
        "stages": [V3_STAGE],
        "policy": ("poly", 0.9),
        "decay": 1e-4,
        "crop": (513, 0.5, 2.0),
        "multi_grid": [1, 2, 4],
    },
    "v3_voc_test": {
        "stages": [
            V3_STAGE,
            V3_STAGE | {"lr": 0.001, "os": 8, "split": "trainval", "bn": "frozen_stats"},
        ],
        "policy": ("poly", 0.9),
        "decay": 1e-4,
        "crop": (513, 0.5, 2.0),
        "multi_grid": [1, 2, 4],
    },
    "v3plus_voc_xception": {
        "stages": [V3_STAGE],
        "policy": ("poly", 0.9),
        "decay": 4e-5,
        "crop": (513, 0.5, 2.0),
        "multi_grid": "auto",
    },
    "v3_cityscapes": {
        "stages": [CITY_STAGE],
        "policy": ("poly", 0.9),
        "decay": 1e-4,
        "crop": (769, 0.5, 2.0),
        "multi_grid": [1, 2, 4],
    },
    "v3plus_cityscapes": {
        "stages": [CITY_STAGE],
        "policy": ("poly", 0.9),
        "decay": 4e-5,
        "crop": (769, 0.5, 2.0),
        "multi_grid": "auto",
    },
}
# The row that is the same training.
ROWS = {
    "v1_voc": ("v1.t2", "largefov", ()),
    "v2_voc": ("v2.t4", "aspp", ("pretrained={coco}",)),
    "v3_voc": ("v3.t5", "mg124_pool", ()),
    "v3plus_voc_xception": ("v3plus.t5", "os16_decoder_sc", ()),
    "v3_cityscapes": ("v3.t12", "os16", ()),
    "v3plus_cityscapes": ("v3plus.t7", "x65_decoder_aspp", ()),
}


@pytest.mark.parametrize("name", RECIPES)
def test_key_numbers(name: str) -> None:
    values = compose("train", [f"experiment={name}"]).values
    rules.check(values)
    recipe.check(values, parts.check_network(values))
    schedule, augment = values["schedule"], values["augment"]
    drops = (schedule["step_every"], schedule["step_factor"])
    found = {
        "stages": [
            {key: value for key, value in stage.items() if key != "name"}
            for stage in parts.stages_of(values)
        ],
        "policy": (
            schedule["policy"],
            *(drops if schedule["policy"] == "step" else (schedule["power"],)),
        ),
        "decay": schedule["weight_decay"],
        "crop": (augment["crop"], augment["scale_min"], augment["scale_max"]),
        "multi_grid": values["multi_grid"],
    }
    assert found == RECIPES[name]
    assert (schedule["momentum"], augment["flip"]) == (0.9, 0.5)


@pytest.mark.parametrize("name", ROWS)
def test_it_is_the_training_of_a_table(name: str) -> None:
    table_id, key, words = ROWS[name]
    (row,) = (row for row in book.read(table_id).rows if row.key == key)
    mine = run_name(compose("train", [f"experiment={name}", *words]))
    assert mine == run_name(compose("train", row.train))


@pytest.mark.parametrize("name", RECIPES)
def test_its_header_says_what_to_type_what_to_expect_and_what_it_costs(name: str) -> None:
    lines = (conf_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"#   segkit train experiment={name} " in header
    assert "(arXiv " in header
    assert "Table" in header
    assert "# Cost: " in header
    assert "%" in header
