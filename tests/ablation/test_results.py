"""From finished scores to table.json: every cell exact, or marked, and derivable again."""

import json
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
import yaml

from segkit.ablation import scored
from segkit.ablation.book import Column, Printed, Row, Table
from segkit.ablation.jobs import Evaluation, Job, Place, Plan
from segkit.ablation.order import Placed, order
from segkit.ablation.rederive import check_table, rederive
from segkit.ablation.results import collect, text_of
from segkit.ablation.state import Standing
from segkit.errors import DataError
from segkit.report.decimals import root, rounded, shown, variance
from segkit.report.signature import Signature, score_document

SCALE = {"name": "camvid", "note": "CamVid instead of VOC"}
CLASSES = ("sky", "</script>")
KIND = "hours (NVIDIA H200)"


# -- a folder of runs, as trainings and evaluations leave it ---------------------------------------


def a_run(runs, name, *, steps=4, step=4, state="finished", device="cpu"):
    run = runs / name
    (run / "scores").mkdir(parents=True)
    stages = [{"steps": steps, "os": 16}]
    values = {"pretrained": "none", "seed": 0, "name": name, "schedule": {"stages": stages}}
    values["model"] = {"name": name}  # what makes it another training
    (run / "config.yaml").write_text(yaml.safe_dump({"choices": {}, "values": values}))
    status = {"state": state, "step": step, "code": 0 if state == "finished" else None}
    (run / "status.json").write_text(json.dumps(status))
    known = {"device": device, "card": "NVIDIA H200", "cores": 2, "ranks": 2}
    (run / "environment.json").write_text(json.dumps(known))
    rows = [{"step": s, "seconds": 900.0, "images_per_second": 2.5} for s in (2, 4)]
    (run / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def a_signature(run, **changed):
    known = {
        "dataset": "camvid", "split": "val", "images": 101, "model": "v3", "backbone": "r50",
        "train_os": (16,), "eval_os": 16, "multi_grid": None, "pad": "fit", "scales": (1.0,),
        "fusion": "mean", "flip": False, "crf": None, "weights": "none", "checkpoint": "last",
        "step": 4, "seed": 0, "precision": "fp32", "device": "cpu", "segkit": "0.1.0",
        "torch": "2.11.0", "config": scored.run_digest(run),
    }  # fmt: skip
    return Signature(**known | changed)


def two_classes(one, other):
    """A matrix whose IoUs are ``one`` and ``other`` ten-thousandths (their mean is exact)."""
    return [[one, 0, 10_000 - one], [0, other, 10_000 - other], [0, 0, 0]]


def a_score(run, name="plain", matrix=None, *, trimap=None, **changed):
    matrix = two_classes(5000, 6000) if matrix is None else matrix
    columns = [sum(column) for column in zip(*matrix, strict=True)]
    unions = [sum(row) + columns[i] - row[i] for i, row in enumerate(matrix)]
    shares = [row[i] / u for i, (row, u) in enumerate(zip(matrix, unions, strict=True)) if u]
    document = score_document(
        a_signature(run, **changed),
        miou=sum(shares) / len(shares),
        iou=dict.fromkeys(CLASSES, 0.5),
        images=101,
        pixels=9,
        confusion=matrix,
        seconds={"total": 360.0},
        measures={} if trimap is None else {"trimap": trimap},
    )
    folder = run / "scores" / name
    folder.mkdir(exist_ok=True)
    (folder / "score.json").write_text(json.dumps(document))
    return folder / "score.json"


def a_table(columns, *rows):
    return Table("t.t1", "Title", "arXiv", "setting", ("one",), tuple(columns), tuple(rows))


def a_row(key, paper, **changed):
    known = {"label": (key,), "train": (), "evaluate": (), "paper": paper}
    return Row(key=key, **known | changed)


def a_plan(table, runs, *, seeds=(0,), words=(), blocked=None, name="plain"):
    """Each row is a run of its own, named row-seed; all columns of it are one score."""
    places, jobs = {}, {}
    for row, seed in product(table.rows, seeds):
        if row.key in (blocked or {}):
            continue
        run = runs / f"{row.key}-{seed}"
        evaluation = Evaluation(name, tuple(words), run / "scores" / name)
        jobs[run] = Job(run, (), (evaluation,), (f"{table.id} {row.key}",))
        for column in table.columns:
            if not column.computed:
                places[table.id, row.key, column.name, seed] = Place(run, evaluation)
    reasons = {(table.id, key): reason for key, reason in (blocked or {}).items()}
    return Plan(tuple(jobs.values()), places, reasons)


def nothing(*_):
    return None


def collected(table, plan, *, seeds=(0,), computed=nothing, **more):
    return collect(
        table, plan, SCALE, seeds, command="segkit table t.t1", computed=computed, **more
    )


def cell_of(document, key, column="mIoU"):
    return next(row for row in document["rows"] if row["key"] == key)["numbers"][column]


MIOU = Column("mIoU")


# -- rounding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (Fraction(125, 1000), 2, "0.13"),
        (Fraction(-125, 1000), 2, "-0.13"),
        (Fraction(57125, 1000), 2, "57.13"),
        (Fraction(57_124_999, 10**6), 2, "57.12"),
        (Fraction(5, 2), 0, "3"),
        (Fraction(7, 2), 0, "4"),  # half up, where half to even agrees
        (Fraction(2, 3), 3, "0.667"),
    ],
)
def test_a_tie_is_rounded_up_on_the_exact_value(value, digits, text):
    assert f"{rounded(value, digits):f}" == text
    assert shown(float(rounded(value, digits)), digits) == text


def test_the_spread_is_rounded_on_the_exact_root():
    """The sample deviation of 0 and x is x / sqrt(2): 0.25 and 0.35 are ties of the square."""
    assert root(Fraction(625, 10**4), 1).to_eng_string() == "0.3"
    assert root(Fraction(624, 10**4), 1).to_eng_string() == "0.2"
    assert root(variance([Fraction(1), Fraction(3)]), 4).to_eng_string() == "1.4142"


def test_a_tie_of_the_confusion_matrix_is_up_in_the_cell(tmp_path):
    """4018 / 400 is a tie, 10.045 %; as floats it is formatted as 10.04."""
    table = a_table([MIOU], a_row("a", {"mIoU": 57.00}))
    a_score(a_run(tmp_path, "a-0"), matrix=[[4018, 15982], [0, 0]])
    assert f"{100 * 4018 / 20000 / 2:.2f}" == "10.04"
    found = cell_of(collected(table, a_plan(table, tmp_path)), "a")
    assert (found["ours"], found["difference"]) == (10.05, -46.96)  # -46.955, a tie as well


def test_the_difference_is_rounded_once(tmp_path):
    """Seeds 10.004 and 10.005: mean 10.0045 is 10.00, and 10.0045 - 9.9995 is 0.005, so 0.01."""
    table = a_table([MIOU], a_row("a", {"mIoU": 9.9995}))
    for seed, right in enumerate((40_016, 40_020)):
        run = a_run(tmp_path, f"a-{seed}")
        a_score(run, matrix=[[right, 200_000 - right], [0, 0]])
    found = cell_of(collected(table, a_plan(table, tmp_path, seeds=(0, 1)), seeds=(0, 1)), "a")
    assert [seed["exact"] for seed in found["seeds"]] == [10.004, 10.005]
    assert (found["ours"], found["difference"], found["n"]) == (10.0, 0.01, 2)


# -- cells -----------------------------------------------------------------------------------------


def test_a_cell_names_its_seeds_and_a_paper_number_keeps_its_zero(tmp_path):
    table = a_table([MIOU], a_row("a", {"mIoU": Printed("82.70")}))
    for seed, right in enumerate((5000, 5200, 5400)):
        a_score(a_run(tmp_path, f"a-{seed}"), matrix=two_classes(right, right), seed=seed)
    seeds = (0, 1, 2)
    document = collected(table, a_plan(table, tmp_path, seeds=seeds), seeds=seeds)
    found = cell_of(document, "a")
    # The third class has nothing but false positives: two of three IoUs count 0.5 ...
    assert found["printed"] == "82.70"
    assert (found["ours"], found["spread"]) == (34.67, 1.33)
    assert found["difference"] == -48.03
    assert [seed["value"] for seed in found["seeds"]] == [33.33, 34.67, 36.0]
    second = found["seeds"][1]
    assert second["score"] == "a-1/scores/plain/score.json"
    assert second["signature"] == str(a_signature(tmp_path / "a-1", seed=1))
    assert document["rows"][0]["images"] == [101]


def test_missing_cells_are_marked_and_never_filled(tmp_path):
    keys = ("waiting", "running", "stopped", "failed", "trained", "blocked")
    table = a_table([MIOU], *(a_row(key, {"mIoU": 70.0}) for key in keys))
    plan = a_plan(table, tmp_path, blocked={"blocked": "JFT is not public"})
    stand = {
        "waiting": Standing("waiting"),
        "running": Standing("running", step=2, steps=5),
        "stopped": Standing("stopped", step=2, steps=5),
        "failed": Standing("failed", code=4, line="error[CKPT-DAMAGED]: x"),
        "trained": Standing("stopped", step=5, steps=5),
    }
    document = collected(table, plan, stands=lambda job: stand[job.name.partition("-")[0]])
    states = {row["key"]: row["numbers"]["mIoU"]["state"] for row in document["rows"]}
    assert states == {
        "waiting": "not run",
        "running": "running 40 %",
        "stopped": "interrupted at step 2 of 5",
        "failed": "failed 4: error[CKPT-DAMAGED]: x",
        "trained": "trained, not scored",
        "blocked": "blocked: JFT is not public",
    }
    for row in document["rows"]:
        cell = row["numbers"]["mIoU"]
        assert (cell["ours"], cell["spread"], cell["difference"], cell["n"]) == (None,) * 3 + (0,)
        assert row["hours"] is None
        assert cell["paper"] == 70.0
    assert document["order"] is None


def test_a_missing_seed_is_said_beside_the_mean_of_the_others(tmp_path):
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}))
    for seed in (0, 1):
        a_run(tmp_path, f"a-{seed}")
    a_score(tmp_path / "a-0")
    found = cell_of(collected(table, a_plan(table, tmp_path, seeds=(0, 1)), seeds=(0, 1)), "a")
    assert (found["n"], found["spread"]) == (1, None)
    assert found["state"] == "1 of 2 seeds: seed 1 trained, not scored"


@pytest.mark.parametrize(
    ("changed", "words", "why"),
    [
        ({"config": "ffffffff"}, (), "made from config ffffffff, the run is "),
        ({"step": 3}, (), "made at step 3, the run is at 4"),
        ({"flip": True}, (), "asked with flip=null, scored with True"),
        ({}, ("flip=true",), "asked with flip=true, scored with False"),
        ({}, ("os=8",), "asked with os=8, scored with 16"),
        ({"eval_os": 8}, (), "asked with os=null, scored with 8"),
        ({"eval_os": 8}, ("os=null",), "asked with os=null, scored with 8"),
        ({}, ("ms=true",), "asked with ms=true, scored with False"),
        ({"scales": (0.5, 1.0)}, (), "asked with ms=null, scored with True"),
        (
            {"scales": (0.5, 1.0)},
            ("ms=true", "tta.scales=[0.75,1]"),
            "asked with tta.scales=[0.75,1], scored with [0.5, 1.0]",
        ),
        ({}, ("crf=true",), "asked with crf=true, scored with False"),
        ({}, ("eval.window.size=513",), "asked with eval.window.size=513, scored with None"),
        ({}, ("eval.split=trainval",), "asked with eval.split=trainval, scored with val"),
        ({}, ("eval.pad=513",), "asked with eval.pad=513, scored with fit"),
    ],
)
def test_a_score_of_another_network_or_protocol_is_stale(tmp_path, changed, words, why):
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}))
    run = a_run(tmp_path, "a-0")
    a_score(run, **changed)
    found = cell_of(collected(table, a_plan(table, tmp_path, words=words)), "a")
    assert found["ours"] is None
    assert found["state"].startswith(f"stale: {why}")


def test_a_score_as_it_was_asked_for_is_shown(tmp_path):
    crf = {"backend": "pydensecrf", "iterations": 10, "bilateral_weight": 4.0, "bilateral_xy": 67.0}
    crf |= {"bilateral_rgb": 3.0, "gaussian_weight": 3.0, "gaussian_xy": 1.0}
    asked = {
        "eval_os": 8,
        "flip": True,
        "scales": (0.5, 1.0),
        "crf": crf | {"normalization": "after"},
        "window": {"size": 513, "overlap": 0.33, "weighting": "uniform"},
    }
    words = ("os=8", "flip=true", "ms=true", "tta.scales=[0.5,1]", "crf=true", "eval.report=false")
    words += ("densecrf.bilateral_xy=67", "densecrf.preset=v2_resnet", "eval.window.size=513")
    words += ("device=cpu", "dataset=camvid", "eval.boundaries=false", "precision=fp32")
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}))
    a_score(a_run(tmp_path, "a-0"), **asked)
    assert cell_of(collected(table, a_plan(table, tmp_path, words=words)), "a")["state"] == "scored"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"signature": 3}', '{"signature": {}, "miou": NaN}', "\x00"]
)
def test_a_broken_score_is_stale(tmp_path, text):
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}))
    a_score(a_run(tmp_path, "a-0")).write_text(text)
    found = cell_of(collected(table, a_plan(table, tmp_path)), "a")
    assert found["state"].startswith("stale: score.json ")
    assert found["ours"] is None


def test_a_score_that_is_not_its_matrix_is_stale(tmp_path):
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}))
    path = a_score(a_run(tmp_path, "a-0"))
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"miou": document["miou"] + 0.01}))
    found = cell_of(collected(table, a_plan(table, tmp_path)), "a")
    assert found["state"] == "stale: score.json has another mIoU than its confusion matrix"


# -- other measures --------------------------------------------------------------------------------


def a_trimap(*miou):
    widths = list(range(1, len(miou) + 1))
    return {"around": "void", "widths": widths, "miou": list(miou), "pixel_accuracy": list(miou)}


def test_gains_are_those_of_a_seed_over_the_same_seed(tmp_path):
    columns = [
        Column("gain", measure="gain"),
        Column("at 2", measure="trimap:2", digits=1),
        Column("gain at 2", measure="trimap_gain:2", digits=1),
        Column("at 9", measure="trimap:9"),
    ]
    base, row = a_row("base", {}), a_row("a", {"gain at 2": 4.8}, against="base")
    table = a_table(columns, base, row)
    curves = {"base-0": (0.1, 0.2), "base-1": (0.1, 0.3), "a-0": (0.1, 0.25), "a-1": (0.1, 0.345)}
    for name, curve in curves.items():
        right = 5000 if name.startswith("base") else 5300
        matrix = [[right, 10_000 - right], [0, 0]]
        a_score(a_run(tmp_path, name), matrix=matrix, trimap=a_trimap(*curve))
    document = collected(table, a_plan(table, tmp_path, seeds=(0, 1)), seeds=(0, 1))
    found = document["rows"][1]["numbers"]
    assert (found["gain"]["ours"], found["gain"]["spread"]) == (1.5, 0.0)
    assert found["at 2"]["ours"] == 29.8  # (25 + 34.5) / 2 = 29.75, a tie
    assert found["gain at 2"]["ours"] == 4.8  # 5 and 4.5: 4.75, a tie
    assert found["gain at 2"]["difference"] == -0.1  # 4.75 - 4.8 = -0.05
    assert found["gain at 2"]["seeds"][0]["base"]["run"] == "base-0"
    assert found["at 9"]["state"] == "scored without trimap:9"
    assert document["rows"][0]["numbers"]["gain"]["state"] == "", "what it is compared with"
    assert "trimap around void" in document["rows"][0]["protocol"]
    assert rederive(document, tmp_path, table, nothing) == []
    (tmp_path / "base-1/scores/plain/score.json").unlink()
    after = collected(table, a_plan(table, tmp_path, seeds=(0, 1)), seeds=(0, 1))
    state = after["rows"][1]["numbers"]["gain"]["state"]
    assert state == "1 of 2 seeds: seed 1 trained, not scored (row base)"


def test_the_rate_of_training_is_images_by_seconds(tmp_path):
    table = a_table([Column("images/s", measure="train_rate", digits=1)], a_row("a", {}))
    run = a_run(tmp_path, "a-0")
    rows = [(1.0, 4.0), (3.0, 2.0)]  # seconds, images a second: 10 images in 4 s
    text = "".join(json.dumps({"seconds": s, "images_per_second": r}) + "\n" for s, r in rows)
    (run / "timing.jsonl").write_text(text)
    a_score(run)
    assert cell_of(collected(table, a_plan(table, tmp_path)), "a", "images/s")["ours"] == 2.5


def test_computed_numbers_need_no_run(tmp_path):
    columns = [Column("params", measure="params", digits=1), Column("error", measure="none")]
    table = a_table(columns, a_row("a", {"params": 134.3, "error": 22.40}), a_row("b", {}))
    plan = a_plan(table, tmp_path, blocked={"a": "JFT is not public"})
    document = collected(table, plan, computed=lambda *_: 134.347)
    found = cell_of(document, "a", "params")
    assert (found["ours"], found["difference"], found["n"]) == (134.3, 0.0, 0)
    assert found["state"] == "computed"
    assert cell_of(document, "a", "error")["state"] == "nothing of ours answers to it"
    assert cell_of(document, "b", "error")["state"] == ""
    assert document["trainings"] == []


# -- rows of a whole table -------------------------------------------------------------------------


def test_rows_that_share_a_training_say_so_and_hours_are_whose(tmp_path):
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}), a_row("b", {"mIoU": 71.0}))
    run = a_run(tmp_path, "a-0", device="cuda")
    a_score(run)
    a_score(run, "flipped", flip=True, device="cuda")
    plan = a_plan(table, tmp_path)
    flipped = Evaluation("flipped", ("flip=true",), run / "scores/flipped")
    plan.places["t.t1", "b", "mIoU", 0] = Place(run, flipped)
    document = collected(table, plan)
    assert document["trainings"] == [
        {"run": "a-0", "rows": ["a", "b"], "hours": 1.0, "kind": KIND, "card": "NVIDIA H200"}
    ]
    hours = document["rows"][1]["hours"]
    assert (hours["training"], hours["evaluation"]) == (1.0, 0.1), "2 GPUs, half an hour"
    assert hours["kind"] == KIND
    first = document["rows"][0]["hours"]
    assert first["kind"] == f"hours (CPU) and {KIND}", "trained on one, scored on the other"
    assert document["rows"][0]["protocol"] == ["no flip", "fp32 cpu"]
    assert document["rows"][1]["protocol"] == ["flip", "fp32 cuda"]
    assert "whole fit" in document["protocol"]


def test_hours_on_a_cpu_are_called_so(tmp_path):
    table = a_table([MIOU], a_row("a", {"mIoU": 70.0}))
    a_score(a_run(tmp_path, "a-0"))
    hours = collected(table, a_plan(table, tmp_path))["rows"][0]["hours"]
    assert hours == {"training": 0.5, "evaluation": 0.1, "kind": "hours (CPU)", "card": "2 cores"}


def placed(*rows):
    return [
        Placed(key, Fraction(p), Fraction(o), None if v is None else Fraction(v))
        for key, p, o, v in rows
    ]


def test_the_order_of_rows():
    found = order(placed(("a", 1, 10, 0), ("b", 2, 30, 0), ("c", 3, 20, 0)), "mIoU")
    assert (found["same"], found["pairs"], found["tau"]) == (2, 3, 0.33)
    assert (found["best_of_paper"], found["best_of_ours"]) == (["c"], ["b"])
    assert found["neighbours"] == [
        {"better": "c", "worse": "b", "holds": False},
        {"better": "b", "worse": "a", "holds": True},
    ]


def test_pairs_closer_than_the_spread_are_undecided():
    found = order(placed(("a", 1, 10, 4), ("b", 2, 11, 0), ("c", 3, 12, 0)), "mIoU")
    assert found["undecided"] == [["b", "a"]], "1 apart, spread 2; c and a are 2 apart"
    assert (found["same"], found["pairs"], found["tau"]) == (2, 3, 0.67)


def test_equal_numbers_are_a_tie_and_one_seed_has_no_spread():
    equal = order(placed(("a", 1, 10, 4), ("b", 2, 10, 4)), "mIoU")
    assert (equal["same"], equal["undecided"], equal["equal"]) == (0, [], [["b", "a"]])
    assert (equal["one_seed"], equal["rows"], equal["of"]) == ([], 2, 2)
    one = order(placed(("a", 1, 10, None), ("b", 2, 10 + Fraction(1, 100), None)), "mIoU", of=3)
    assert (one["same"], one["undecided"]) == (1, [])
    assert (one["one_seed"], one["rows"], one["of"]) == (["a", "b"], 2, 3)


def test_rows_that_the_paper_does_not_tell_apart_are_no_pair():
    assert order(placed(("a", 1, 10, 0), ("b", 1, 20, 0)), "mIoU") is None
    assert order(placed(("a", 1, 10, 0)), "mIoU") is None


# -- the document ----------------------------------------------------------------------------------


@dataclass
class Finished:
    runs: Path
    table: Table
    plan: Plan

    def made(self, **more):
        return json.loads(text_of(collected(self.table, self.plan, seeds=(0, 1), **more)))

    def wrong(self, document, runs=None, computed=nothing):
        return rederive(document, runs or self.runs, self.table, computed)


@pytest.fixture
def finished(tmp_path):
    """Two rows of two seeds each, one row that is not run, and one that is computed alone."""
    rows = (
        a_row("a", {"mIoU": 70.0, "params": 134.3}),
        a_row("b", {"mIoU": Printed("60.10")}),
        a_row("c", {"mIoU": 50.0}),
    )
    table = a_table([MIOU, Column("params", measure="params", digits=1)], *rows)
    for name, right in (("a-0", 5000), ("a-1", 5200), ("b-0", 4000), ("b-1", 4100)):
        a_score(a_run(tmp_path, name), matrix=two_classes(right, right))
    return Finished(tmp_path, table, a_plan(table, tmp_path, seeds=(0, 1)))


def test_the_same_scores_give_the_same_bytes_of_strict_json(finished):
    one, other = (text_of(collected(finished.table, finished.plan, seeds=(0, 1))) for _ in range(2))
    assert one == other
    document = finished.made()
    assert document["order"]["same"] == 1
    assert (document["order"]["rows"], document["order"]["of"]) == (2, 3)


def test_every_cell_is_derived_again_from_the_files_it_names(finished):
    document = finished.made()
    assert finished.wrong(document) == []
    assert finished.wrong(document, finished.runs / "elsewhere")[0].endswith("is not there")


@pytest.mark.parametrize(
    ("row", "where", "value"),
    [
        *(("b", "ours", 99.0), ("b", "spread", 0.0), ("b", "difference", 1.0), ("b", "n", 1)),
        *(("b", "paper", 60.2), ("b", "printed", "60.1"), ("a", "paper", None)),
        # A cell that was not run has no number.
        *(("c", "ours", 71.0), ("c", "spread", 0.5), ("c", "difference", 21.0), ("c", "n", 2)),
    ],
)
def test_a_changed_cell_is_noticed(finished, row, where, value):
    document = finished.made()
    cell_of(document, row)[where] = value
    (line,) = finished.wrong(document)
    assert line.startswith(f"t.t1 {row}, mIoU: {where} is {value}, not ")


@pytest.mark.parametrize("state", ["scored", "computed"])
def test_a_number_with_another_state_is_noticed(finished, state):
    document = finished.made()
    cell_of(document, "c")["state"] = state
    assert finished.wrong(document) == [f"t.t1 c, mIoU: state is {state!r} of 0 numbers"]


def test_what_stands_beside_the_cells_is_derived_again(finished):
    for change, said in (
        (lambda d: d["order"].update(same=0), "t.t1: order is {"),
        (lambda d: d["rows"][0]["hours"].update(training=9.0), "t.t1 a: hours is {"),
        (lambda d: d["trainings"][0].update(hours=9.0), "t.t1: training a-0: hours is 9.0, not 0."),
        (lambda d: d["rows"].pop(), "t.t1: its rows are not those of t.t1"),
        (lambda d: d["columns"][0].update(digits=0), "t.t1: its columns are not those"),
    ):
        document = finished.made()
        change(document)
        assert finished.wrong(document)[0].startswith(said)


def test_computed_cells_are_computed_again(finished):
    document = finished.made(computed=lambda *_: 134.347)
    assert finished.wrong(document, computed=lambda *_: 134.347) == []
    (line,) = finished.wrong(document, computed=lambda *_: 134.247)[:1]
    assert line == "t.t1 a, params: ours is 134.3, not 134.2"


def test_at_a_scale_that_is_not_compared_there_is_no_difference_and_no_order(finished):
    scale = SCALE | {"compare": False}
    document = json.loads(
        text_of(
            collect(
                finished.table,
                finished.plan,
                scale,
                (0, 1),
                command="segkit table t.t1",
                computed=lambda *_: 134.347,
            )
        )
    )
    assert document["order"] is None
    found = document["rows"][0]["numbers"]
    assert (found["mIoU"]["n"], found["mIoU"]["difference"]) == (2, None)
    assert found["params"]["difference"] == 0.0, "of the network alone, at every scale"
    assert finished.wrong(document, computed=lambda *_: 134.347) == []


def test_a_changed_seed_or_score_is_noticed(finished):
    document = finished.made()
    cell_of(document, "a")["seeds"][0]["value"] += 0.01
    assert finished.wrong(document)[0].startswith("t.t1 a, mIoU: seed 0 value is ")
    a_score(finished.runs / "a-0", matrix=two_classes(4000, 4000))
    assert finished.wrong(finished.made()) == []
    assert any("ours" in line for line in finished.wrong(document))
    a_score(finished.runs / "a-0", flip=True)
    assert "is signed camvid:val:101" in finished.wrong(document)[0]


def test_a_written_table_is_checked(finished):
    runs = finished.runs
    path = runs / "table.json"

    def check():
        return check_table(path, runs, finished.table, nothing)

    with pytest.raises(DataError, match="is not there; the same command without --check"):
        check()
    path.write_text(json.dumps(finished.made()))
    assert check() == 2
    path.write_text(path.read_text().replace('"n": 2', '"n": 3'))
    with pytest.raises(DataError, match=r"t\.t1 a, mIoU: n is 3, not 2 \(and 1 more\)"):
        check()
    path.write_text("[]")
    with pytest.raises(DataError, match="is no table"):
        check()
