"""The command line as a user types it: help, errors, and the whole road on tiny inputs."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segkit import cli
from segkit.conf_files import choices_of
from segkit.models import weight_files

TINY = [
    *("experiment=quickstart", "name=tiny", "dataset.size=33", "dataset.count=12"),
    *("dataset.val.count=4", "augment.crop=33", "schedule.batch=4", "workers=0"),
    *("schedule.stages.0.steps=3", "schedule.stages.1.steps=2", "log.tensorboard=false"),
]

PLAIN = ("eval.report=false", "eval.boundaries=false")  # where the score alone is looked at


def segkit(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process, as in a shell."""
    return subprocess.run(
        [sys.executable, "-m", "segkit", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run of two stages, made through the command line."""
    folder = tmp_path_factory.mktemp("work")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert cli.main(["train", *TINY]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory without data, weights or network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGKIT_DATA", raising=False)
    monkeypatch.delenv("SEGKIT_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


# -- help and speed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "seconds"),
    [(["--help"], 0.15), (["train", "--help"], 0.3), (["train", "--cfg", "job"], 1.5)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_at_once(words: list[str], seconds: float, tmp_path: Path) -> None:
    """Best of three, in processor seconds: start-up waits for nothing; CI shares its cores."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert segkit(*words, cwd=tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) <= seconds


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--cfg", "job"]])
def test_nothing_heavy_is_imported(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from segkit.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'albumentations', 'cv2', 'matplotlib', 'numpy'} & set(sys.modules); "
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_names_exit_codes_groups_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(command in page for command in cli.COMMANDS)
    assert "130 / 143" in page
    assert cli.main(["train", "--help"]) == 0
    page = capsys.readouterr().out
    assert all(choice in page for choice in choices_of("backbone"))
    assert "seed=0" in page
    assert "resume=false" in page
    assert "schedule.ema=null" in page
    for command in ("train", "eval", "predict"):
        assert cli.main([command, "--help"]) == 0
        assert "eval.weights=auto" in capsys.readouterr().out


def test_cfg_job_is_yaml_that_composes_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "model=v3", "backbone=r101", "--cfg", "job"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["backbone"]["depth"] == 101


# -- one line, the right code ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "error", "said"),
    [
        (["trian"], 2, "CFG-COMMAND", "did you mean train?"),
        (["train", "--fast"], 2, "CFG-USAGE", "--fast"),
        (["train", "--cfg", "all"], 2, "CFG-USAGE", "job"),
        (["train", "--config-dir"], 2, "CFG-USAGE", "--config-dir"),
        (["train", "--config-dir", "nowhere"], 2, "CFG-CONFIG-DIR", "nowhere"),
        (["train", "model.nam=x"], 2, "CFG-UNKNOWN-KEY", "did you mean model.name?"),
        (["train", "seed=abc"], 2, "CFG-TYPE", "seed"),
        (["train", "schedule.stages.0.lr=abc"], 2, "CFG-TYPE", "schedule.stages.0.lr"),
        (["train", "name=../x"], 2, "CFG-NAME", "name"),
        (["train", "model.dropout=abc"], 2, "CFG-TYPE", "model.dropout"),
        (["train", "+model.dropuot=0.1"], 2, "CFG-UNKNOWN-KEY", "model.dropuot"),
        (["train", "backbone=r18", "multi_grid=1-2-4"], 2, "CFG-MULTI-GRID", "multi_grid"),
        (["train", "schedule.batch=1"], 2, "CFG-BATCH-NORM", "frozen_stats"),
        (["train", "schedule.accumulate=16"], 2, "CFG-BATCH-NORM", "accumulate"),
        (["train", "loss._target_=os.system"], 7, "SAFE-TARGET", "os.system"),
        (["train"], 3, "DATA-MISSING", "dataset=shapes"),
        (["train", "dataset=camvid"], 3, "DATA-MISSING", "SEGKIT_DATA"),
        (["train", "dataset=shapes", "backbone=r_tiny"], 4, "CKPT-WEIGHTS-NONE", "pretrained=none"),
        (["train", "dataset=shapes", "pretrained=/no/such"], 4, "CKPT-WEIGHTS", "/no/such"),
        (["eval"], 4, "CKPT-NO-RUN", "segkit train"),
        (["eval", "ckpt=nowhere"], 4, "CKPT-MISSING", "nowhere"),
        (["eval", "ckpt=https://example.org/x"], 4, "CKPT-MISSING", "address"),
        (["eval", "ms=maybe"], 2, "CFG-TYPE", "ms"),
        (["predict"], 2, "CFG-INPUT", "FILE or FOLDER"),
        (["predict", "nowhere.jpg"], 3, "DATA-MISSING", "nowhere.jpg"),
        (["train", "device=cuda:99"], 6, "ENV-NO-CUDA", "device=cpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_with_the_documented_code(
    words: list[str],
    code: int,
    error: str,
    said: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if error == "ENV-NO-CUDA":
        words = [*words, "dataset=shapes", "pretrained=none"]
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    line = last_line(err)
    assert re.match(rf"segkit: error\[{error}[A-Z-]*\]: ", line), line
    assert said in line
    assert "Traceback" not in out + err
    assert not (here / "runs").exists(), "a refused command leaves no run folder"


def test_missing_weights_say_where_they_were_sought(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(weight_files.urllib.request, "urlopen", offline)
    monkeypatch.setattr(weight_files.urllib.request.OpenerDirector, "open", offline)
    assert cli.main(["train", "model=v3", "backbone=r101", "dataset=shapes"]) == 4
    line = last_line(capsys.readouterr().err)
    for word in ("resnet101-63fe2227.pth", "SEGKIT_WEIGHTS", "pretrained=none", "pretrained=/"):
        assert word in line
    assert not (here / "runs").exists()


def test_the_command_as_typed_without_data(here: Path) -> None:
    done = segkit("train", "model=v3", "backbone=r101", cwd=here)
    assert done.returncode == 3
    line = last_line(done.stderr)
    assert line.startswith("segkit: error[DATA-MISSING]: ")
    assert "JPEGImages" in line
    assert "dataset=shapes" in line


def test_all_broken_keys_in_one_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "schedule.momentum=1.5", "augment.crop=0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split(": ")[2] for line in lines] == ["augment.crop", "schedule.momentum"]


def test_a_bug_shows_its_traceback_and_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "dispatch", lambda _: 1 // 0)
    assert cli.main(["train"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert last_line(err).startswith("segkit: error[BUG]: ZeroDivisionError")


def test_trace_shows_the_way_to_a_users_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGKIT_TRACE", "1")
    assert cli.main(["train", "seed=abc"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert last_line(err).startswith("segkit: error[CFG-TYPE]")


# -- the whole road ----------------------------------------------------------------------------


def test_a_run_folder_is_the_record(trained: Path) -> None:
    run = trained / "runs" / "tiny"
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"], status["step"]) == ("finished", 0, 5)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [1, 2, 3, 4, 5]
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["choices"]["backbone"] == "r_tiny"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["weights"]["kind"] == "none"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ("os 16,8->8", "ms 1 mean", "no flip", "no crf")),
        (
            ["os=16", "ms=true", "flip=true", "crf=true"],
            ("os 16,8->16", "ms 0.5,0.75,1,1.25,1.5,1.75 mean", "flip", "crf pydensecrf 10it"),
        ),
        (["tta.scales=[1,2]", "ms=true", "eval.pad=65"], ("ms 1,2 mean", "whole 65")),
        (["eval.limit=2", "dataset.val.count=3"], ("shapes(val.count:3):val:2",)),
    ],
    ids=["alone", "as typed", "typed protocol", "typed data"],
)
def test_eval_writes_a_signed_score(
    trained: Path,
    words: list[str],
    parts: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(trained)
    assert cli.main(["eval", *words, f"out={tmp_path}", "workers=0"]) == 0
    out, err = capsys.readouterr()
    assert "runs/tiny" in err, "eval says which run it takes"
    line = last_line(out)
    assert line.startswith("mIoU ")
    assert all(part in line for part in parts)
    score = json.loads((tmp_path / "score.json").read_text())
    assert {"signature", "miou", "iou", "images", "pixels", "confusion", "seconds"} <= set(score)
    confusion = np.array(score["confusion"])
    assert confusion.sum() == score["pixels"]
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    present = union > 0
    ious = np.diag(confusion)[present] / union[present]
    assert score["miou"] == pytest.approx(ious.mean())
    assert [v for v in score["iou"].values() if v is not None] == pytest.approx(list(ious))


def test_eval_takes_the_newest_finished_run(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert cli.main(["train", *TINY, "name=newer", "eval.every=null"]) == 0
    assert cli.main(["eval", "workers=0", "eval.limit=1", *PLAIN]) == 0
    assert "runs/newer" in capsys.readouterr().err
    assert cli.main(["eval", "workers=0", "eval.limit=1", "ckpt=runs/tiny", *PLAIN]) == 0
    assert "runs/tiny" in capsys.readouterr().err


def test_eval_with_another_class_count_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert cli.main(["eval", "ckpt=runs/tiny", "dataset.classes=[ring, disc]"]) == 2
    assert "3 classes, the checkpoint has 7" in last_line(capsys.readouterr().err)


def test_predict_keeps_size_and_labels(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (41, 57, 3), np.uint8)
    Image.fromarray(noise).save(photos / "a=b.png")
    Image.fromarray(noise[:1, :1]).save(photos.parent / "dot.png")
    monkeypatch.chdir(trained)
    for extra in ([], ["crf=true", "flip=true"]):
        out = tmp_path / f"out{len(extra)}"
        words = [str(photos.parent), "ckpt=runs/tiny", f"out={out}", *extra]
        assert cli.main(["predict", *words]) == 0
        labels = Image.open(out / "labels" / "deep" / "a=b.png")
        assert (labels.size, labels.mode) == ((57, 41), "P")
        assert np.asarray(labels).max() < 7
        assert Image.open(out / "labels" / "dot.png").size == (1, 1)
        assert Image.open(out / "overlay" / "deep" / "a=b.png").mode == "RGB"


def test_a_used_folder_is_not_overwritten(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    before = (trained / "runs/tiny/metrics.jsonl").read_bytes()
    assert cli.main(["train", *TINY]) == 2
    assert "resume=true" in last_line(capsys.readouterr().err)
    assert cli.main(["train", *TINY, "resume=true"]) == 0
    assert "already complete" in capsys.readouterr().err
    assert (trained / "runs/tiny/metrics.jsonl").read_bytes() == before


def test_resume_refuses_changed_keys_unless_allowed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    changed = [*TINY, "resume=true", "seed=5", "augment.flip=0"]
    assert cli.main(["train", *changed]) == 2
    line = last_line(capsys.readouterr().err)
    assert "augment.flip: 0.5 -> 0" in line
    assert "seed: 0 -> 5" in line
    assert cli.main(["train", *changed, "resume_allow=[seed,augment.flip]"]) == 0


def test_a_fresh_start_names_the_nearest_run(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert cli.main(["train", *TINY, "name=null", "augment.flip=0.25", "resume=true"]) == 0
    err = capsys.readouterr().err
    assert "fresh start" in err
    assert "augment.flip" in err


def test_a_sweep_finishes_the_other_jobs_and_names_the_failed_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w for w in TINY if not w.startswith("name=")]
    assert cli.main(["train", "-m", *words, "augment.crop=33,32", "os=16"]) == 2
    assert "augment.crop=32" in last_line(capsys.readouterr().err)
    states = [json.loads(p.read_text())["state"] for p in here.glob("runs/*/status.json")]
    assert states == ["finished"]


# Recipes of networks that take seconds to make and save, and whose like is below; what they say is
# checked in test_config.
LARGE = (
    *("camvid_v1_short", "camvid_v2_short", "camvid_v3plus_short"),
    *("v2_voc", "v3_voc", "v3_voc_test", "v3plus_voc_xception", "v3plus_cityscapes"),
)


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else ())
        for name in choices_of("experiment")
    ],
)
def test_every_experiment_takes_two_steps_on_shapes(experiment: str, here: Path) -> None:
    words = ["dataset=shapes", "dataset.size=65", "dataset.count=4", "dataset.val={count: 2}"]
    words += ["augment.crop=65", "schedule.batch=2", "pretrained=none", "workers=0"]
    words += ["schedule.stages=[{name: a, steps: 2, lr: 0.01}]", "eval.every=2", "name=x"]
    assert cli.main(["train", f"experiment={experiment}", *words]) == 0
    assert json.loads((here / "runs/x/status.json").read_text())["step"] == 2


def test_a_run_killed_before_its_first_checkpoint_still_loads_its_weights(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder already names the weights; taking its word would train from random ones."""
    from segkit import start

    calls: list[str] = []
    real = start.load_backbone

    def spy(backbone: object, pretrained: str, **rest: object) -> object:
        calls.append(pretrained)
        return real(backbone, pretrained, **rest)

    monkeypatch.setattr(start, "load_backbone", spy)
    assert cli.main(["train", *TINY]) == 0
    assert cli.main(["train", *TINY, "resume=true"]) == 0
    assert len(calls) == 1, "a run with checkpoints takes its weights from them"
    for path in (here / "runs/tiny/checkpoints").glob("step-*"):
        shutil.rmtree(path)
    (here / "runs/tiny/metrics.jsonl").write_bytes(b"")
    assert cli.main(["train", *TINY, "resume=true"]) == 0
    assert len(calls) == 2


def test_two_protocols_do_not_share_a_score_file(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    words = ["eval", "ckpt=runs/tiny", "workers=0", *PLAIN]
    shutil.rmtree(trained / "runs/tiny/scores", ignore_errors=True)
    for extra in (
        ["eval.pad=49"],
        ["eval.pad=65"],
        ["eval.limit=1"],
        ["tta.scales=[1]", "ms=true"],
    ):
        assert cli.main([*words, *extra]) == 0
    assert len(list(trained.glob("runs/tiny/scores/*/score.json"))) == 4


def test_a_refused_augmentation_leaves_no_run(here: Path) -> None:
    assert cli.main(["train", *TINY, "augment.extra=[Nope]"]) == 2
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_the_quickstart_beats_colour(here: Path) -> None:
    assert cli.main(["train", "experiment=quickstart"]) == 0
    assert cli.main(["eval", "os=8", "ms=true", "flip=true", "eval.colour_baseline=true"]) == 0
    (score,) = here.glob("runs/*/scores/*/score.json")
    found = json.loads(score.read_text())
    assert found["colour_baseline"] <= 0.25
    assert found["miou"] >= max(0.35, 2 * found["colour_baseline"])
