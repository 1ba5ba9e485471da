"""From tables to jobs: each training once, each score once, and the words that anybody can type."""

from pathlib import Path

import pytest
from tiny import config_dir, planned

from segkit.ablation import book
from segkit.ablation.jobs import Evaluation, Job, start_of
from segkit.ablation.looks import unpublished
from segkit.ablation.plan import check_coco, check_varied, name_of, only
from segkit.ablation.work import scoring
from segkit.config import compose
from segkit.errors import CheckpointError, ConfigError
from segkit.inference.crf_presets import PARAMETERS

RICH = """\
  - {key: plain, label: [a], paper: 70.00}
  - {key: flipped, label: [b], eval: [flip=true], paper: 71.00}
  - {key: bare, label: [c], train: [model.image_pooling=false], against: plain}
  - {key: after, label: [d], train: [schedule.stages.0.lr=0.001], begins: bare}
  - {key: coco, label: [e], train: [model.channels=4, "pretrained={coco}"], needs: coco}
  - {key: never, label: [f], blocked: nobody has the data}
"""
COLUMNS = """\
columns:
  mIoU: {}
  tuned: {eval: [crf=true], tune: 7}
  printed alone: {measure: none}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    conf = tmp_path_factory.mktemp("plan") / "conf"
    config_dir(conf, RICH, columns=COLUMNS)
    config_dir(conf, "  - {key: again, label: [a], eval: [os=8]}\n", name="tiny.t2")
    return conf


def test_rows_of_all_tables_that_mean_one_training_share_it(folder: Path, tmp_path: Path) -> None:
    _, plan = planned(folder, tmp_path, names=("tiny.t1", "tiny.t2"))
    shared, bare, after = plan.jobs
    assert shared.rows == ("tiny.t1 plain", "tiny.t1 flipped", "tiny.t2 again")
    assert (bare.rows, after.rows) == (("tiny.t1 bare",), ("tiny.t1 after",))
    # plain and flipped have two columns each; what is printed alone asks for nothing.
    names = [evaluation.name.rsplit("-", 1)[0] for evaluation in shared.evaluations]
    plain = ["ablation", "ablation-crf-tuned"]
    flipped = ["ablation-flip", "ablation-flip-crf-tuned"]
    assert names == [*plain, *flipped, "ablation-os8"]
    assert ("tiny.t1", "plain", "printed alone", 0) not in plan.places
    place = plan.places["tiny.t1", "flipped", "tuned", 0]
    assert place.run == shared.run
    assert place.evaluation.tune == 7
    assert place.evaluation.folder.parent == shared.run / "scores"


def test_what_cannot_be_run_says_why_and_coco_can_be_typed(folder: Path, tmp_path: Path) -> None:
    _, plan = planned(folder, tmp_path)
    assert plan.blocked == {
        ("tiny.t1", "coco"): "begins with weights pretrained on MS-COCO: coco=/path",
        ("tiny.t1", "never"): "nobody has the data",
    }
    scaled = ("coco=/my/coco", "scale.train=['pretrained=none']")
    _, plan = planned(folder, tmp_path, *scaled)
    assert list(plan.blocked) == [("tiny.t1", "never")]
    run = plan.places["tiny.t1", "coco", "mIoU", 0].run
    words = next(job.words for job in plan.jobs if job.run == run)
    assert "pretrained=/my/coco" in words, "a scale does not change what a row is about"


def test_a_row_that_begins_with_another_comes_after_it(folder: Path, tmp_path: Path) -> None:
    tables, plan = planned(folder, tmp_path, "seeds=[0,3]")
    jobs = {job.run: job for job in plan.jobs}
    for seed in (0, 3):
        bare = plan.places["tiny.t1", "bare", "mIoU", seed].run
        after = jobs[plan.places["tiny.t1", "after", "mIoU", seed].run]
        assert after.begins == bare
        assert f"pretrained={bare}" in after.words
        assert list(jobs).index(bare) < list(jobs).index(after.run)
        assert ("seed=3" in after.words) == (seed == 3)
    some = only(plan, tables, ["after"])
    assert [job.rows for job in some.jobs] == [("tiny.t1 bare",)] * 2 + [("tiny.t1 after",)] * 2
    assert [len(job.evaluations) for job in some.jobs] == [0, 0, 2, 2]
    assert some.places == plan.places, "the table shows all that earlier calls have scored"


def test_only_brings_the_row_that_is_compared_with(folder: Path, tmp_path: Path) -> None:
    tables, plan = planned(folder, tmp_path)
    plain, bare = only(plan, tables, ["bare"]).jobs
    assert (plain.rows, bare.rows) == (("tiny.t1 plain",), ("tiny.t1 bare",))
    assert len(plain.evaluations) == 2, "and none of the flipped row's"
    with pytest.raises(ConfigError, match=r"'bear' is no row.*did you mean bare\?"):
        only(plan, tables, ["bear"])


def test_words_after_the_dashes_go_to_all_trainings(folder: Path, tmp_path: Path) -> None:
    extra = ("schedule.batch=4", "tta.fusion=max", "os=8")
    _, plan = planned(folder, tmp_path, "device=cpu", "scale.tune=0", extra=extra)
    for job in plan.jobs:
        assert {*extra, "device=cpu"} <= set(job.words)
        for evaluation in job.evaluations:
            assert {"tta.fusion=max", "device=cpu"} <= set(evaluation.words)
            assert not {"schedule.batch=4", "os=8"} & set(evaluation.words)
            assert evaluation.tune is None, "this scale does not search"


def test_a_start_typed_for_all_leaves_a_row_its_own(folder: Path, tmp_path: Path) -> None:
    _, plan = planned(folder, tmp_path, "coco=/my/coco", extra=("pretrained=/my/imagenet",))
    starts = {job.rows[0].split()[1]: start_of(job.words) for job in plan.jobs}
    bare = plan.places["tiny.t1", "bare", "mIoU", 0].run
    mine = "/my/imagenet"
    assert starts == {"plain": mine, "bare": mine, "after": str(bare), "coco": "/my/coco"}


def test_one_file_is_no_start_for_several_backbones(tmp_path: Path) -> None:
    rows = """\
  - {key: tiny, label: [a], train: ["pretrained={coco}"], needs: coco}
  - {key: mobile, label: [b], train: [backbone=mnv2, "pretrained={coco}"], needs: coco}
  - {key: other, label: [c], train: [backbone=mnv2]}
"""
    config_dir(tmp_path / "conf", rows)
    coco = tmp_path / "coco.safetensors"
    tables, plan = planned(tmp_path / "conf", tmp_path / "runs", f"coco={coco}")
    with pytest.raises(CheckpointError, match="does not exist"):
        check_coco(plan, str(coco))
    coco.touch()
    with pytest.raises(ConfigError, match=r"r_tiny for tiny\.t1 tiny; mnv2 for tiny\.t1 mobile"):
        check_coco(plan, str(coco))
    check_coco(only(plan, tables, ["mobile", "other"]), str(coco))


def test_a_word_for_all_may_not_be_what_the_rows_differ_in(folder: Path) -> None:
    tables = [book.read("tiny.t1", str(folder))]
    with pytest.raises(ConfigError, match=r"-- model\.image_pooling=true: the rows of tiny\.t1"):
        check_varied(tables, ["model.image_pooling=true"], [])
    check_varied(tables, ["model.image_pooling=true"], ["bare"])
    check_varied(tables, ["model.rates=[3]"], [])


def test_the_plan_says_which_weights_are_no_public_file(tmp_path: Path) -> None:
    rows = """\
  - {key: beta, label: [a], train: [backbone=r50_beta, pretrained=imagenet]}
  - {key: rate, label: [b], train: [backbone=r50_beta, pretrained=imagenet, "model.rates=[1]"]}
  - {key: mobile, label: [c], train: [backbone=mnv2, pretrained=imagenet]}
  - {key: none, label: [d], train: [backbone=r50_beta]}
"""
    config_dir(tmp_path / "conf", rows)
    _, plan = planned(tmp_path / "conf", tmp_path / "runs")
    (line,) = unpublished(plan)
    assert line.startswith("r50_beta (tiny.t1 beta): no torch file; ")
    assert line.endswith("; type -- pretrained=FILE")
    _, plan = planned(tmp_path / "conf", tmp_path / "runs", extra=("pretrained=/my/file",))
    assert unpublished(plan) == []


def test_v1s_crf_without_a_search_is_v1s(tmp_path: Path) -> None:
    """What a search finds stands above it."""
    for name in ("v1.t1a", "v1.t2"):
        table = book.read(name)
        asked = [(r.evaluate, r.tune) for r in table.rows] + [
            (c.evaluate, c.tune) for c in table.columns
        ]
        searched = [words for words, tune in asked if tune]
        assert searched
        assert all("densecrf.preset=v1_largefov" in words for words in searched)
    mine = "densecrf.preset=v1_largefov"
    found = tuple(f"densecrf.{key}={i}" for i, key in enumerate(PARAMETERS) if key[0] in "gbi")
    words = ("crf=true", mine, *found)
    evaluation = Evaluation("e", ("crf=true", mine), tmp_path / "e", 100)
    job = Job(tmp_path, (), (evaluation,), ())
    assert scoring(job, evaluation, found)[2:-1] == words
    node = compose("eval", ["ckpt=x", *words]).values["densecrf"]
    for word in found:
        key, _, value = word.removeprefix("densecrf.").partition("=")
        assert node[key] == float(value), "the preset does not stand above it"


@pytest.mark.parametrize("word", ["name=mine", "seed=3", "runs=there", "resume=false", "smoke"])
def test_words_that_would_make_one_run_of_many_are_refused(folder: Path, word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        planned(folder, folder, extra=(word,))
    assert refused.value.id == "CFG-USAGE"


def test_a_score_is_named_by_what_counts() -> None:
    name = name_of(["os=8", "ms=true", "eval.pad=513"], None)
    assert name.startswith("ablation-os8-ms-")
    same = ["eval.pad=513", "device=cuda", "workers=0", "ms=true", "os=8", "eval.boundaries=true"]
    assert name_of(same, None) == name
    for other in (["os=8", "ms=true", "eval.pad=fit"], ["os=8", "ms=true"]):
        assert name_of(other, None) != name
    assert name_of(["os=8", "ms=true", "eval.pad=513"], 100) != name


def test_two_starts_are_never_one_run(tmp_path: Path) -> None:
    """A run's name says that it begins with a path, and not with which."""
    rows = """\
  - {key: a, label: [a]}
  - {key: b, label: [b], train: [model.image_pooling=false]}
  - {key: c, label: [c], begins: a}
  - {key: d, label: [d], begins: b}
"""
    config_dir(tmp_path / "conf", rows.replace("begins: b", "begins: b, train: []"))
    with pytest.raises(ConfigError, match=r"begin with different weights; .*of their own"):
        planned(tmp_path / "conf", tmp_path / "runs")


def test_a_row_that_does_not_compose_is_named(tmp_path: Path) -> None:
    config_dir(tmp_path / "conf", "  - {key: odd, label: [a], train: [backbone=r_tinny]}\n")
    with pytest.raises(ConfigError, match=r"tiny\.t1 odd: backbone: .*did you mean r_tiny\?"):
        planned(tmp_path / "conf", tmp_path / "runs")
