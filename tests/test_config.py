"""Composing, one-line errors, run identity and configs read back from checkpoints."""

import copy
from pathlib import Path

import pytest

from segkit.conf_files import GROUPS, choices_of, conf_dir
from segkit.config import compose, quote_numeric_choice
from segkit.errors import CheckpointError, ConfigError, ExitCode, RefusedError
from segkit.identity import LATER, differences, digest, identity, run_name
from segkit.rules import check
from segkit.stored import restore

EVERY_CHOICE = [(g, c) for g in GROUPS for c in choices_of(g)]


@pytest.mark.parametrize(("group", "choice"), EVERY_CHOICE, ids="-".join)
def test_every_choice_composes_and_satisfies_the_rules(group: str, choice: str) -> None:
    # Output strides other than 16 and 8 do not fit every crop by themselves; 513 fits all three.
    extra = ["augment.crop=513"] if group in ("os", "experiment") else []
    values = compose("train", [f"{group}={choice}", *extra]).values
    check(values)


def test_no_two_config_files_share_ten_lines() -> None:
    """Compose, never copy: shared lines mean that a group is missing. The papers' tables are no
    configs: rows of two of them ask for the same evaluations."""
    found = (p for p in conf_dir().rglob("*.yaml") if p.parent.name not in ("conf", "ablation"))
    files = {p: set(lines(p)) for p in found}
    for first, a in files.items():
        for second, b in files.items():
            assert first == second or len(a & b) < 10, (first, second)


def lines(path: Path) -> list[str]:
    return [s for s in map(str.strip, path.read_text().splitlines()) if s and s[0] != "#"]


def test_the_command_as_typed_is_the_papers_recipe() -> None:
    values = compose("train", ["model=v3", "backbone=r101"]).values
    stage = values["schedule"]["stages"][0]
    assert (values["os"], values["multi_grid"]) == (16, "auto")
    assert (stage["steps"], stage["lr"], stage["bn"]) == (30000, 0.007, "train")
    assert (values["schedule"]["batch"], values["schedule"]["policy"]) == (16, "poly")
    assert values["schedule"]["power"] == 0.9
    assert (values["augment"]["crop"], values["pretrained"]) == (513, "imagenet")
    assert values["dataset"]["name"] == "voc_aug"


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("[Straße,Baum]", ["Straße", "Baum"]),
        ("['a,ß', Grüne Wiese, b c]", ["a,ß", "Grüne Wiese", "b c"]),
        ("[leaf,no one]", ["leaf", "no one"]),
    ],
)
def test_names_of_classes_in_any_script(typed: str, names: list[str]) -> None:
    words = ["dataset=folder", "dataset.root=x", f"dataset.classes={typed}"]
    assert compose("train", words).values["dataset"]["classes"] == names


@pytest.mark.parametrize(
    ("typed", "hydra"),
    [
        ("os=8", "os='8'"),
        ("os=8,16", "os='8','16'"),
        ("os='8'", "os='8'"),
        ("+os=8", "+os='8'"),
        ("multi_grid=[1,2,4]", "multi_grid='1-2-4'"),
        ("multi_grid=null", "multi_grid='none'"),
        ("os=null", "os=null"),
        ("seed=1,2", "seed=1,2"),
    ],
)
def test_numeric_choices_are_quoted(typed: str, hydra: str) -> None:
    assert quote_numeric_choice(typed) == hydra


def test_command_line_wins_over_the_models_own_defaults() -> None:
    values = compose("train", ["multi_grid=1-2-1", "os=8", "model=v3", "seed=3"]).values
    assert (values["multi_grid"], values["os"], values["seed"]) == ([1, 2, 1], 8, 3)


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
@pytest.mark.parametrize("stride", [4, 8, 128])
def test_output_strides_are_chosen_by_number(command: str, stride: int) -> None:
    """v3's Table 13 evaluates at 4."""
    assert compose(command, [f"os={stride}"]).values["os"] == stride


@pytest.mark.parametrize(
    ("override", "error_id", "where", "said"),
    [
        ("model.nam=x", "CFG-UNKNOWN-KEY", "model.nam", "did you mean model.name?"),
        ("modle=v3", "CFG-UNKNOWN-KEY", "modle", "did you mean model?"),
        ("shcedule.batch=3", "CFG-UNKNOWN-KEY", "shcedule.batch", "did you mean schedule.batch?"),
        ("schedule.stages=[{nme: x}]", "CFG-UNKNOWN-KEY", "schedule.stages.nme", ""),
        ("+foo=3", "CFG-UNKNOWN-KEY", "foo", ""),
        ("model=v9", "CFG-UNKNOWN-CHOICE", "model", "v3"),
        ("os=7", "CFG-UNKNOWN-CHOICE", "os", "choices: 4, 8, 16, 32"),
        ("experiment=nope", "CFG-UNKNOWN-CHOICE", "experiment", ""),
        ("seed=abc", "CFG-TYPE", "seed", "'abc' is not an int"),
        ("schedule.stages.0.lr=abc", "CFG-TYPE", "schedule.stages.0.lr", "'abc' is not a float"),
        ("resume=perhaps", "CFG-TYPE", "resume", "'perhaps' is not a bool"),
        ("a b", "CFG-SYNTAX", "a b", "key=value"),
        ("model.rates.x=3", "CFG-INVALID", "train", ""),
    ],
)
def test_bad_overrides_name_the_key_and_the_way_out(
    override: str, error_id: str, where: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", [override])
    assert (caught.value.id, caught.value.where) == (error_id, where)
    assert said in caught.value.line()
    assert "\n" not in caught.value.line()


def test_a_misspelt_key_in_an_experiment_file_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nshcedule:\n  batch: 3\n")
    with pytest.raises(ConfigError, match="shcedule"):
        compose("train", ["experiment=mine"], str(tmp_path))


def test_yaml_errors_name_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("a: 1\nb: [1\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:\d+:\d+"):
        compose("train", ["experiment=mine"], str(tmp_path))


def test_a_users_config_dir_adds_choices(tmp_path: Path) -> None:
    folder = tmp_path / "schedule"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults: [v3]\naugment: {crop: 257}\n")
    values = compose("train", ["schedule=mine"], str(tmp_path)).values
    assert (values["augment"]["crop"], values["schedule"]["batch"]) == (257, 16)
    assert choices_of("schedule", str(tmp_path)).count("mine") == 1


BROKEN = [
    ("schedule.stages.0.steps=0", "schedule.stages.0.steps"),
    ("schedule.stages.0.lr=-1", "schedule.stages.0.lr"),
    ("schedule.stages.0.lr=nan", "schedule.stages.0.lr"),
    ("schedule.stages.0.lr=inf", "schedule.stages.0.lr"),
    ("schedule.stages.0.os=7", "schedule.stages.0.os"),
    ("schedule.stages.0.bn=off", "schedule.stages.0.bn"),
    ("schedule.momentum=1.5", "schedule.momentum"),
    ("schedule.weight_decay=-1", "schedule.weight_decay"),
    ("schedule.batch=0", "schedule.batch"),
    ("schedule.power=0", "schedule.power"),
    ("schedule.policy=cosine", "schedule.policy"),
    ("schedule.bn_momentum=0", "schedule.bn_momentum"),
    ("schedule.ema=0", "schedule.ema"),
    ("schedule.ema=1", "schedule.ema"),
    ("schedule.ema=nan", "schedule.ema"),
    ("eval.weights=best", "eval.weights"),
    ("eval.weights=average", "eval.weights, schedule.ema"),
    ("schedule.rules.0.kind=odd", "schedule.rules.0.kind"),
    ("schedule.stages=[]", "schedule.stages"),
    ("schedule.accumulate=5", "schedule.accumulate, schedule.stages.0.batch"),
    ("augment.crop=0", "augment.crop"),
    ("augment.crop=512", "augment.crop"),
    ("augment.flip=2", "augment.flip"),
    ("augment.scale_min=3", "augment.scale_min, augment.scale_max"),
    ("seed=-1", "seed"),
    ("workers=-1", "workers"),
    ("devices=0", "devices"),
    ("rank_timeout=0", "rank_timeout"),
    ("device=cuda:x", "device"),
    ("precision=fp8", "precision"),
    ("eval.pad=yes", "eval.pad"),
    ("eval.every=0", "eval.every"),
    ("checkpoint.keep=0", "checkpoint.keep"),
    ("tta.scales=[]", "tta.scales"),
    ("densecrf.gaussian_xy=0", "densecrf.gaussian_xy"),
    ("densecrf.normalization=odd", "densecrf.normalization"),
    ("dataset.val_split=trainaug", "dataset.train_split, dataset.val_split"),
]


@pytest.mark.parametrize(("override", "where"), BROKEN, ids=[o for o, _ in BROKEN])
def test_values_out_of_range_are_named(override: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose("train", [override]).values)
    assert where in [line.split(": ")[2] for line in caught.value.line().splitlines()]
    assert caught.value.code == ExitCode.USAGE


def test_all_broken_rules_come_in_one_go_sorted() -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose("train", ["seed=-1", "augment.crop=0", "schedule.batch=0"]).values)
    keys = [line.split(": ")[2] for line in caught.value.line().splitlines()]
    assert keys == ["augment.crop", "schedule.batch", "seed"]


def test_a_run_is_named_by_what_can_change_its_result() -> None:
    first = compose("train", ["backbone=r50"])
    name = run_name(first)
    assert name.startswith("v3-r50-os16-voc_aug-s0-")
    for same in ("workers=3", "device=cpu", "resume=true", "dataset.root=/x", "runs=/y"):
        assert run_name(compose("train", ["backbone=r50", same])) == name
    for other in ("schedule.batch=8", "model.dropout=0.2", "augment.crop=321"):
        changed = compose("train", ["backbone=r50", other])
        assert run_name(changed) != name
        assert list(differences(first.values, changed.values)) == [other.split("=")[0]]
    assert run_name(compose("train", ["name=mine"])) == "mine"


def test_a_key_that_came_later_renames_no_run() -> None:
    """Nor does it keep one from being resumed that was written before there was the key."""
    now = compose("train").values
    before = copy.deepcopy(now)
    del before["schedule"]["ema"], before["eval"]["weights"]
    assert digest(before) == digest(now)
    assert differences(before, now) == {}
    for key, value in {"schedule.ema": 0.99, "eval.weights": "raw"}.items():
        changed = compose("train", [f"{key}={value}"]).values
        assert digest(changed) != digest(now)
        assert differences(before, changed) == {key: (LATER[key], value)}
        assert key in identity(now), "resume_allow takes it"


def test_digest_does_not_depend_on_key_order() -> None:
    values = compose("train").values
    assert digest(values) == digest(dict(reversed(values.items())))


def stored() -> dict:
    made = compose("train", ["backbone=r50", "model.dropout=0.3", "os=8", "augment.crop=513"])
    return {"choices": made.choices, "values": made.values}


def test_a_stored_config_comes_back() -> None:
    config = stored()
    again = restore(config, None, "x")
    assert again.values == config["values"]
    assert again.choices["backbone"] == "r50"


@pytest.mark.parametrize("target", ["os.system", "pathlib.Path.unlink", "torch.hub.load"])
@pytest.mark.parametrize("place", ["model", "dataset", "nested", "list"])
def test_a_class_path_in_an_artefact_is_refused(target: str, place: str) -> None:
    config = copy.deepcopy(stored())
    node = {"_target_": target}
    if place == "nested":
        config["values"]["model"]["inner"] = node
    elif place == "list":
        config["values"]["augment"]["extra"] = [node]
    else:
        config["values"][place]["_target_"] = target
    with pytest.raises(RefusedError, match=target):
        restore(config, None, "x")


def test_text_in_an_artefact_is_not_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "value-of-the-canary")
    config = copy.deepcopy(stored())
    config["values"]["name"] = "${oc.env:CANARY}"
    assert restore(config, None, "x").values["name"] == "${oc.env:CANARY}"


@pytest.mark.parametrize("choice", ["../../../etc/passwd", "no_such", 3, ["r50"]])
def test_an_unknown_choice_in_an_artefact_is_named(choice: object) -> None:
    config = copy.deepcopy(stored())
    config["choices"]["backbone"] = choice
    with pytest.raises(CheckpointError, match="backbone"):
        restore(config, None, "x")
