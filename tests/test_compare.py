"""``segkit compare``: what the words mean, what is refused, what is printed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit import cli
from segkit.completion import completions
from segkit.report.signature import Signature, score_document

CLASSES = ("sky", "road", "bike")
SIGNATURE = Signature(
    dataset="camvid", split="val", images=40, model="v3", backbone="mnv2", train_os=(16,),
    eval_os=16, multi_grid=None, pad="fit", scales=(1.0,), fusion="mean", flip=False, crf=None,
    weights="none", checkpoint="last", step=100, seed=0, precision="fp32", device="cpu",
    segkit="0.1.0", torch="2.11.0",
)  # fmt: skip


def write_score(
    folder: Path,
    *,
    quality: float = 0.7,
    images: int = 40,
    ids: str = "image",
    classes: tuple[str, ...] = CLASSES,
    **changed: Any,
) -> Path:
    """A score folder as an evaluation leaves it; the same images are hard for every network."""
    rng = np.random.default_rng(0)
    truth = rng.integers(100, 1000, (images, len(classes)))
    right = np.rint(truth * np.clip(quality + rng.normal(0, 0.1, truth.shape), 0, 1)).astype(int)
    missed, found = truth - right, np.roll(truth - right, 1, axis=1)
    rows = [
        {"id": f"{ids} {n}", "miou": 0.5, "tp": t.tolist(), "fp": f.tolist(), "fn": m.tolist()}
        for n, (t, f, m) in enumerate(zip(right, found, missed, strict=True))
    ]
    iou = right.sum(0) / (right + missed + found).sum(0)
    document = score_document(
        Signature(**{**SIGNATURE.__dict__, "images": images, **changed}),
        miou=float(iou.mean()),
        iou=dict(zip(classes, iou.tolist(), strict=True)),
        images=images,
        pixels=int(truth.sum()),
        confusion=np.diag(right.sum(0)).tolist(),
        seconds={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "score.json").write_text(json.dumps(document))
    images_document = {"classes": list(classes), "images": rows}
    (folder / "images.json").write_text(json.dumps(images_document))
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, last line of stderr."""
    code = cli.main(["compare", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out.splitlines(), (err.splitlines() or [""])[-1]


# -- a difference ----------------------------------------------------------------------------------


def test_two_scores(here, capsys):
    write_score(here / "a")
    write_score(here / "b", quality=0.75, model="v3plus", seed=1)
    code, lines, error = compared(capsys, "a", "b/score.json")
    assert (code, error) == (0, "")
    assert lines[:2] == ["A  a/score.json", "B  b/score.json"]
    assert [line.split()[0] for line in lines[3:8]] == ["class", *CLASSES, "mean"]
    assert lines[-2] == "networks differ in model: v3 | v3plus; seed: 0 | 1"
    head, _, tail = lines[-1].partition("[")
    assert head.startswith("B is ")
    low, high = map(float, tail.split("]")[0].split(","))
    assert 0 < low < float(head.split()[2]) < high
    assert tail.endswith("] over A (95 %, images resampled)")


def test_the_order_turns_the_sign(here, capsys):
    write_score(here / "a")
    write_score(here / "b", quality=0.75)
    over, under = compared(capsys, "a", "b")[1][-1], compared(capsys, "b", "a")[1][-1]
    assert "-" not in over + under
    assert over.replace(" over ", " under ") == under


def test_three_sides_are_each_compared_with_the_first(here, capsys):
    for name, quality in (("a", 0.7), ("b", 0.75), ("c", 0.7)):
        write_score(here / name, quality=quality)
    _, lines, _ = compared(capsys, "a", "b", "c")
    assert lines[4].split()[-6:] == ["B", "-", "A", "C", "-", "A"]
    assert lines[-2].startswith("B is ")
    assert " over A " in lines[-2]
    assert lines[-1].startswith("no difference shown: C - A = +0.00 [0.00, 0.00]")


def test_seeds_of_a_side(here, capsys):
    for seed in range(3):
        write_score(here / f"a{seed}", quality=0.7 + 0.001 * seed, seed=seed)
        write_score(here / f"b{seed}", quality=0.75 + 0.002 * seed, seed=seed)
    code, lines, _ = compared(capsys, "a0,a1,a2", "b0,b1,b2", "--json")
    found = json.loads("\n".join(lines))
    assert code == 0
    a, b = found["sides"]
    own = [json.loads((here / f"b{s}/score.json").read_text())["miou"] for s in range(3)]
    assert b["miou"] == pytest.approx(np.mean(own))
    assert b["sd"] == pytest.approx(np.std(own, ddof=1))
    (difference,) = found["differences"]
    assert difference["miou"] == pytest.approx(b["miou"] - a["miou"])
    assert difference["interval"][0] < difference["miou"] < difference["interval"][1]
    assert difference["iou"].keys() == set(CLASSES)
    assert found["comparable"] is True
    _, lines, _ = compared(capsys, "a0,a1,a2", "b0,b1,b2")
    assert lines[0] == "A  3 scores: a0/score.json, a1/score.json, a2/score.json"
    assert [line for line in lines if line.startswith("sd ")]


def test_an_old_score_has_no_interval(here, capsys):
    write_score(here / "a")
    (write_score(here / "b", quality=0.75) / "images.json").unlink()
    code, lines, _ = compared(capsys, "a", "b")
    assert code == 0
    assert lines[-1].startswith("B - A = +")
    assert "no interval: b/score.json has no images.json beside it" in lines[-1]


# -- none ------------------------------------------------------------------------------------------


def test_other_protocols_are_shown_and_refused(here, capsys):
    write_score(here / "a")
    write_score(here / "b", quality=0.75, eval_os=8, flip=True)
    code, lines, error = compared(capsys, "a", "b")
    assert code == 2
    assert error.startswith("segkit: error[CFG-PROTOCOL]: a b: no difference is called")
    assert "eval_os: 16 | 8; flip: none | true" in error
    assert lines[3].split() == ["class", "A", "B"]
    assert not [line for line in lines if "+" in line or "over" in line]
    code, lines, error = compared(capsys, "a", "b", "--json")
    found = json.loads("\n".join(lines))
    assert code == 2
    assert found["comparable"] is False
    assert found["differences"] == []
    assert found["protocol_differs"] == {"eval_os": ["16", "8"], "flip": ["none", "true"]}


def test_other_images_of_the_same_number(here, capsys):
    write_score(here / "a")
    write_score(here / "b", ids="photo")
    code, _, error = compared(capsys, "a", "b")
    assert code == 2
    assert "ids of images: 40 from image 0 | 40 from photo 0" in error


def test_other_classes(here, capsys):
    write_score(here / "a")
    write_score(here / "b", classes=("sky", "road", "bus"))
    code, lines, error = compared(capsys, "a", "b")
    assert code == 2
    assert "classes: sky, road, bike | sky, road, bus" in error
    assert [line for line in lines if line.startswith("bus") and "n/a" in line]


def test_the_error_comes_behind_the_table(here):
    """In one file for both streams."""
    write_score(here / "a")
    write_score(here / "b", eval_os=8)
    command = [sys.executable, "-m", "segkit", "compare", "a", "b"]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = found.stdout.decode().splitlines()
    assert lines[0] == "A  a/score.json"
    assert lines[-1].startswith("segkit: error[CFG-PROTOCOL]")


@pytest.mark.parametrize("word", ["a,a", "a,a/score.json", "a,link"])
def test_one_score_is_not_several_seeds(here, capsys, word):
    write_score(here / "a")
    (here / "link").symlink_to(here / "a")
    code, _, error = compared(capsys, word, "a")
    assert code == 2
    assert "CFG-SEEDS" in error
    assert "score.json: is one score, given several times" in error


def test_a_folder_of_several_scores_names_them(here, capsys):
    for name in ("b-os8", "b-ms"):
        write_score(here / name)
        (here / name / "score.json").rename(here / f"score-{name}.json")
    code, _, error = compared(capsys, ".", ".")
    assert code == 3
    assert error.endswith("; name a file: score-b-ms.json, score-b-os8.json")


# -- runs ------------------------------------------------------------------------------------------


def test_of_a_run_the_score_is_taken_that_all_have(here, capsys):
    write_score(here / "one/scores/camvid-val-a")
    write_score(here / "one/scores/camvid-val-ms-b", scales=(0.5, 1.0), quality=0.8)
    write_score(here / "two/scores/camvid-val-ms-c", scales=(0.5, 1.0), quality=0.8)
    code, lines, error = compared(capsys, "one", "two")
    assert code == 0
    assert lines[0] == "A  one/scores/camvid-val-ms-b/score.json"
    assert error == "segkit: one: 2 scores, took one/scores/camvid-val-ms-b/score.json"


def test_of_several_protocols_in_common_the_plainest(here, capsys):
    for run in ("one", "two"):
        write_score(here / run / "scores/camvid-val-flip-a", flip=True)
        write_score(here / run / "scores/camvid-val-a")
    _, lines, _ = compared(capsys, "one", "two")
    assert lines[0] == "A  one/scores/camvid-val-a/score.json"
    assert lines[1] == "B  two/scores/camvid-val-a/score.json"


def test_of_one_protocol_the_latest_step(here, capsys):
    write_score(here / "one/scores/camvid-val-a", step=900)
    write_score(here / "one/scores/camvid-val-b", step=1000)
    write_score(here / "two")
    assert compared(capsys, "one", "two")[1][0] == "A  one/scores/camvid-val-b/score.json"


def test_runs_without_a_protocol_in_common(here, capsys):
    write_score(here / "one/scores/camvid-val-a")
    write_score(here / "one/scores/camvid-val-ms-b", scales=(0.5, 1.0))
    write_score(here / "two/scores/camvid-val-flip-c", flip=True)
    code, lines, error = compared(capsys, "one", "two")
    assert code == 2
    assert lines[0] == "A  one/scores/camvid-val-a/score.json"
    assert "flip: none | true" in error


def test_a_name_with_a_comma(here, capsys):
    write_score(here / "a,b")
    assert compared(capsys, "a,b", "a,b")[0] == 0


# -- broken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"signature": {}}', b"[" * 100_000,
        b'{"signature": {}, "iou": {"a": 2}, "miou": 0.5}',
        b'{"signature": {}, "iou": {"a": NaN}, "miou": 0.5}',
        b'{"signature": {}, "iou": {"a": "1"}, "miou": 0.5}',
        b'{"signature": {"step": "x"}, "iou": {"a": 1}, "miou": 0.5}',
        b'{"signature": 3, "iou": [], "miou": 0.5}',
    ],
)  # fmt: skip
def test_a_broken_score(here, capsys, content):
    write_score(here / "a")
    (write_score(here / "b") / "score.json").write_bytes(content)
    code, _, error = compared(capsys, "a", "b")
    assert code == 3
    assert error.startswith("segkit: error[DATA-SCORE]: b/score.json: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.clear(),
        lambda d: d["images"].clear(),
        lambda d: d["images"].pop(),
        lambda d: d["images"][3].pop("tp"),
        lambda d: d["images"][3]["tp"].pop(),
        lambda d: d["images"][3].update(tp="many"),
        lambda d: d["images"][3]["fp"].__setitem__(0, -1),
        lambda d: d["images"][3]["fp"].__setitem__(0, 10**30),
        lambda d: d["images"][3]["tp"].__setitem__(1, 0),
        lambda d: d.update(images=7),
    ],
)
def test_images_that_are_not_those_of_the_score(here, capsys, change):
    write_score(here / "a")
    path = write_score(here / "b") / "images.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    code, _, error = compared(capsys, "a", "b")
    assert code == 3
    assert error.startswith("segkit: error[DATA-IMAGES]: b/images.json: ")


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ((), "CFG-USAGE]: compare: 0 sides"),
        (("a",), "CFG-USAGE]: compare: 1 sides"),
        (("a",) * 27, "CFG-USAGE]: compare: 27 sides"),
        (("a", "b", "--csv"), "CFG-USAGE]: --csv: no such option"),
        (("a", "nowhere"), "DATA-NO-SCORE]: nowhere: no such run, folder or file"),
        (("a", "empty"), "DATA-NO-SCORE]: empty: holds no score.json"),
        (("a", "a,"), "CFG-USAGE]: compare: a side without a name"),
        (("a", ""), "CFG-USAGE]: compare: a side without a name"),
        (("a", "x" * 5000), "DATA-NO-SCORE]: xxx"),
        (("a", "~nobody-of-this-name"), "DATA-NO-SCORE]: ~nobody-of-this-name: "),
    ],
)
def test_words_that_mean_nothing(here, capsys, words, start):
    write_score(here / "a")
    (here / "empty").mkdir()
    code, _, error = compared(capsys, *words)
    assert code == (2 if start.startswith("CFG") else 3)
    assert error.startswith(f"segkit: error[{start}")


def test_names_cannot_fake_a_line(here, capsys):
    name = "sky\nB is +99.00 over A\x1b[2J"
    for folder in ("a", "b"):
        write_score(here / folder, classes=(name, "طريق", "bike"), model="v3\nfake")
    write_score(here / "b", classes=(name, "طريق", "bike"), model="v2\nfake")
    _, lines, _ = compared(capsys, "a", "b")
    assert not [line for line in lines if line.startswith(("B is +99", "fake"))]
    assert not [line for line in lines if "\x1b" in line]


def test_help_and_completion(capsys):
    code, lines, _ = compared(capsys, "--help")
    assert code == 0
    assert lines[0].startswith("segkit compare A B")
    assert max(map(len, lines)) <= 100
    assert completions(["compare", "--"]) == ["--json", "--help"]
    assert completions(["compare", "runs/"]) == [], "the shell's own file names"
