"""``densecrf.preset`` on the command line, in files, in runs, and in what is signed."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from segkit import cli
from segkit.config import compose
from segkit.identity import run_name
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_presets import PARAMETERS, PRESETS
from segkit.schema import CHOICES
from segkit.schema import DenseCrf as Node

TINY = [
    *("experiment=quickstart", "dataset.size=33", "dataset.count=8", "dataset.val.count=1"),
    *("augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu", "log.tensorboard=false"),
    *("schedule.stages.0.steps=1", "schedule.stages.1.steps=1", "eval.every=null"),
]
# weight, xy, rgb of the bilateral kernel; weight, xy of the Gaussian one.
V1, VGG, RESNET = (5, 50, 10, 3, 3), (4, 65, 3, 2, 2), (4, 67, 3, 3, 1)


def numbers(node: dict) -> tuple:
    names = ("bilateral_weight", "bilateral_xy", "bilateral_rgb", "gaussian_weight", "gaussian_xy")
    return tuple(node[name] for name in names)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple:
    assert cli.main(["eval", "--cfg", "job", *words]) == 0
    return numbers(yaml.safe_load(capsys.readouterr().out)["densecrf"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``vgg`` was trained with a preset."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*TINY, "name=vgg", f"runs={folder}", "densecrf.preset=v2_vgg"]
    assert cli.main(["train", *words]) == 0
    return folder


def test_presets_are_all_there_is_to_choose() -> None:
    assert CHOICES["densecrf.preset"] == tuple(PRESETS)
    assert set(PARAMETERS) == asdict(DenseCrf()).keys()
    for preset in PRESETS.values():
        assert preset.keys() == set(PARAMETERS)
        DenseCrf(**preset)
        assert (preset["iterations"], preset["normalization"]) == (10, "after")
    defaults = asdict(Node())
    assert {name: defaults[name] for name in PARAMETERS} == PRESETS["v2_resnet"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), RESNET),
        (("densecrf.preset=null",), RESNET),
        (("densecrf.preset=v1_largefov",), V1),
        (("densecrf.preset=v2_vgg",), VGG),
        (("densecrf.preset=v2_resnet",), RESNET),
        (("densecrf.preset=v1_largefov", "densecrf.bilateral_weight=4"), (4, 50, 10, 3, 3)),
        (("densecrf.gaussian_xy=7", "densecrf.preset=v2_vgg"), (4, 65, 3, 2, 7)),
    ],
)
def test_a_preset_sets_what_is_not_typed(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], wanted: tuple
) -> None:
    assert shown(capsys, *words) == wanted


def test_an_unknown_preset_names_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "densecrf.preset=v3"]) == 2
    assert "densecrf.preset: 'v3'; choices: v1_largefov, v2_vgg" in capsys.readouterr().err


def test_a_preset_in_a_file_leaves_what_the_file_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runtime").mkdir()
    node = {"preset": "v1_largefov", "bilateral_xy": 60.0}
    text = "# @package _global_\n" + yaml.safe_dump({"densecrf": node})
    (tmp_path / "runtime/mine.yaml").write_text(text)
    words = ["runtime=mine", "--config-dir", str(tmp_path)]
    assert shown(capsys, *words) == (5, 60, 10, 3, 3)
    assert shown(capsys, *words, "densecrf.preset=v2_vgg") == VGG


def test_names_of_runs_do_not_hear_of_it() -> None:
    plain = run_name(compose("train", TINY))
    assert run_name(compose("train", [*TINY, "densecrf.preset=v1_largefov"])) == plain


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), VGG),
        (("densecrf.bilateral_weight=9",), (9, 65, 3, 2, 2)),
        (("densecrf.preset=v1_largefov", "densecrf.bilateral_rgb=6"), (5, 50, 6, 3, 3)),
        (("densecrf.preset=null",), RESNET),
    ],
)
def test_an_evaluation_takes_the_runs_unless_typed(
    runs: Path, tmp_path: Path, words: tuple[str, ...], wanted: tuple,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("pydensecrf.densecrf")
    command = ["eval", f"ckpt={runs / 'vgg'}", "device=cpu", "workers=0", "crf=true"]
    quick = ["eval.report=false", "eval.boundaries=false", f"out={tmp_path}"]
    assert cli.main([*command, *quick, *words]) == 0
    signed = json.loads((tmp_path / "score.json").read_text())["signature"]["crf"]
    assert numbers(signed) == wanted
    assert signed["backend"] == "pydensecrf"
    assert "preset" not in signed
    bi, pos = "/".join(map(str, wanted[:3])), "/".join(map(str, wanted[3:]))
    printed = capsys.readouterr()
    line = printed.out.splitlines()[-1]
    assert f"| crf pydensecrf 10it bi{bi} pos{pos} after |" in line
    assert printed.err.count("segkit: crf: pydensecrf") == 1


def test_scores_of_each_backend_are_signed_by_it(runs: Path, tmp_path: Path) -> None:
    command = ["eval", f"ckpt={runs / 'vgg'}", "device=cpu", "workers=0", "crf=true"]
    quick = ["eval.report=false", "eval.boundaries=false", f"out={tmp_path}"]
    assert cli.main([*command, *quick, "densecrf.backend=exact"]) == 0
    signed = json.loads((tmp_path / "score.json").read_text())["signature"]
    assert signed["crf"]["backend"] == "exact"
