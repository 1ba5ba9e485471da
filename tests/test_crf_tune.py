"""``segkit crf tune``: the search, its files, and that nothing is done twice."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from segkit import cli, crf
from segkit.data.dataset import Dataset
from segkit.inference.crf_stage import CrfStage
from segkit.lock import Lock
from segkit.tuning import grid
from segkit.tuning.grid import FIXED, SEARCHES, Point, Search, search_for, spread
from segkit.tuning.probabilities import Probabilities
from segkit.tuning.record import Record

pytest.importorskip("pydensecrf.densecrf")

TINY = [
    *("experiment=quickstart", "dataset.size=33", "dataset.count=8", "dataset.val.count=3"),
    *("augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu", "log.tensorboard=false"),
    *("schedule.stages.0.steps=8", "schedule.stages.1.steps=1", "eval.every=null"),
]
SMALL = Search("a test", (3, 4, 1), (30, 40, 10), (3, 3, 1))  # 4 points and 26
QUICK = ["device=cpu", "workers=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", *TINY, "name=x", f"runs={folder}"]) == 0
    return folder / "x"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grid.SEARCHES, "v2", SMALL)


def tune(run: Path, out: Path, *words: str) -> int:
    return cli.main(["crf", "tune", f"ckpt={run}", f"out={out}", *QUICK, *words])


def found(out: Path) -> dict:
    return json.loads((out / "tune.json").read_text())


# -- where is looked ---------------------------------------------------------------------------


def test_the_papers_ranges() -> None:
    v1, v2 = (SEARCHES[name].coarse() for name in ("v1", "v2"))
    assert (len(v1), len(v2)) == (6 * 6 * 8, 4 * 8 * 4)
    assert {p.bilateral_weight for p in v1} == {5, 6, 7, 8, 9, 10}
    assert {p.bilateral_xy for p in v1} == {50, 60, 70, 80, 90, 100}
    assert {p.bilateral_rgb for p in v1} == set(range(3, 11))
    assert {p.bilateral_weight for p in v2} == {p.bilateral_rgb for p in v2} == {3, 4, 5, 6}
    assert {p.bilateral_xy for p in v2} == set(range(30, 101, 10))
    assert FIXED == {"gaussian_weight": 3, "gaussian_xy": 3}
    assert search_for("v1_largefov") is SEARCHES["v1"]
    assert search_for("v3plus") is search_for("v2_aspp_l") is SEARCHES["v2"]


def test_the_second_round_has_half_the_steps() -> None:
    fine = SEARCHES["v2"].fine(Point(4, 60, 3))
    assert len(set(fine)) == 26
    assert Point(4, 60, 3) not in fine
    assert {p.bilateral_weight for p in fine} == {3.5, 4, 4.5}
    assert {p.bilateral_xy for p in fine} == {55, 60, 65}
    assert {p.bilateral_rgb for p in fine} == {2.5, 3, 3.5}


@pytest.mark.parametrize(
    ("count", "most", "wanted"),
    [(10, 3, [0, 3, 6]), (3, 100, [0, 1, 2]), (1, 1, [0]), (101, 2, [0, 50])],
)
def test_images_are_spread_over_the_split(count: int, most: int, wanted: list[int]) -> None:
    assert spread(count, most) == wanted


# -- the command -------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_what_is_found_is_what_an_evaluation_finds(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(run, tmp_path, "flip=true", "os=8") == 0
    printed = capsys.readouterr()
    result = found(tmp_path)
    points = result["points"]
    assert len(points) == 30
    best = max(points, key=lambda row: row["miou"])
    assert result["miou"] == best["miou"]
    assert "30 of 30 points x 3 images: about" in printed.err
    assert printed.out.splitlines()[0].startswith("mIoU ")

    words = shlex.split(printed.out.splitlines()[-1])
    assert words[0] == "segkit"
    assert {"flip=true", "os=8", "crf=true"} < set(words)
    quick = ["eval.report=false", "eval.boundaries=false"]
    assert cli.main([*words[1:], *QUICK, *quick, f"out={tmp_path / 'crf'}"]) == 0
    score = json.loads((tmp_path / "crf/score.json").read_text())
    # The probabilities were kept in half precision: a pixel or two may differ.
    assert score["miou"] == pytest.approx(best["miou"], abs=2e-3)
    assert score["iou"] == pytest.approx(best["iou"], abs=1e-2)
    signed = score["signature"]["crf"]
    assert signed | result["densecrf"] == signed
    assert {name: signed[name] for name in FIXED} == FIXED
    alone = [word for word in words[1:] if "crf" not in word]
    assert cli.main([*alone, *QUICK, *quick, f"out={tmp_path / 'alone'}"]) == 0
    score = json.loads((tmp_path / "alone/score.json").read_text())
    assert score["miou"] == pytest.approx(result["miou_without_crf"], abs=2e-3)

    table = (tmp_path / "tune.md").read_text()
    assert table.count("\n| ") == 2 + 30
    assert result["asked"] in table
    node = yaml.safe_load((tmp_path / "config/experiment/crf_tuned.yaml").read_text())
    assert node == {"densecrf": result["densecrf"]}
    words = ["train", "experiment=crf_tuned", "--config-dir", str(tmp_path / "config")]
    capsys.readouterr()
    assert cli.main([*words, "--cfg", "job"]) == 0
    composed = yaml.safe_load(capsys.readouterr().out)["densecrf"]
    assert composed | result["densecrf"] == composed


@pytest.mark.usefixtures("small")
def test_nothing_is_done_twice_and_all_is_repeatable(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(run, tmp_path / "one", "n=1") == 0
    assert tune(run, tmp_path / "two", "n=1") == 0
    files = [(tmp_path / name / "tune.json").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    with monkeypatch.context() as patch:
        patch.setattr(CrfStage, "submit", forbidden)
        patch.setattr(crf, "predictor_of", forbidden)
        capsys.readouterr()
        assert tune(run, tmp_path / "one", "n=1") == 0
        assert "0 of 30 points" in capsys.readouterr().err
    assert (tmp_path / "one/tune.json").read_bytes() == files[0]
    # Other parameters that are held fixed: other points, the same answers of the network.
    patch = monkeypatch
    patch.setattr(crf, "predictor_of", forbidden)
    assert tune(run, tmp_path / "one", "n=1", "densecrf.gaussian_xy=1") == 0
    assert found(tmp_path / "one")["densecrf"]["gaussian_xy"] == 1
    assert (tmp_path / "one/tune.json").read_bytes() != files[0]


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("was done before")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_exact_backend_is_searched_with_too(run: Path, tmp_path: Path) -> None:
    assert tune(run, tmp_path, "n=1", "densecrf.backend=exact") == 0
    assert found(tmp_path)["backend"] == "exact on cpu"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["crf"], "type segkit crf tune"),
        (["crf", "tine"], "tine asked for"),
        (["crf", "tune", "n=0"], "n: 0"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_what_is_searched_cannot_be_typed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(run, tmp_path, "densecrf.bilateral_xy=50") == 2
    assert "densecrf.bilateral_xy" in capsys.readouterr().err


def test_one_search_at_a_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = Lock(tmp_path / ".lock")
    assert tune(run, tmp_path) == 6
    assert "OUT-LOCKED" in capsys.readouterr().err
    lock.release()


# -- interruptions -----------------------------------------------------------------------------


def start(run: Path, out: Path) -> subprocess.Popen[str]:
    words = ["crf", "tune", f"ckpt={run}", f"out={out}", *QUICK]
    return subprocess.Popen(
        [sys.executable, "-m", "segkit", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_points(process: subprocess.Popen[str], out: Path, count: int) -> None:
    record = out / "tune.jsonl"
    while process.poll() is None:
        if record.exists() and record.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"ended before it was hurt: {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_a_killed_search_goes_on(run: Path, tmp_path: Path, kills: int) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    process = start(run, whole)
    assert process.wait(timeout=300) == 0
    kept = b""
    for number in range(kills):
        process = start(run, hurt)
        wait_for_points(process, hurt, 20 * (number + 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        written = (hurt / "tune.jsonl").read_bytes()
        assert written.startswith(kept)
        kept = written[: written.rindex(b"\n") + 1]
    process = start(run, hurt)
    assert process.wait(timeout=300) == 0
    assert (hurt / "tune.jsonl").read_bytes().startswith(kept)
    assert (hurt / "tune.json").read_bytes() == (whole / "tune.json").read_bytes()


@pytest.mark.slow
def test_a_stopped_search_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    process = start(run, tmp_path)
    wait_for_points(process, tmp_path, 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].endswith("what is done is kept; the same command goes on")
    assert not (tmp_path / "tune.json").exists()


# -- what is kept ------------------------------------------------------------------------------


def test_a_torn_line_is_a_point_that_is_done_again(tmp_path: Path) -> None:
    record = Record(tmp_path, "a")
    record.add("p", {"miou": 0.5})
    Record(tmp_path, "b").add("p", {"miou": 0.7})
    path = tmp_path / "tune.jsonl"
    path.write_bytes(path.read_bytes() + b'{"asked": "a", "point": "q", "row": {"mi')
    again = Record(tmp_path, "a")
    assert again.get("p") == {"miou": 0.5}
    assert again.get("q") is None
    again.add("q", {"miou": 0.6})
    assert [Record(tmp_path, x).get("p")["miou"] for x in "ab"] == [0.5, 0.7]
    assert Record(tmp_path, "a").get("q") == {"miou": 0.6}


class Pictures:
    """Two images of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.ids, self.labels = ["a", "b"], None
        self.images = rng.integers(0, 255, (2, 5, 6, 3), dtype=np.uint8)
        self.labels_of = np.zeros((2, 5, 6), np.uint8)

    def __len__(self) -> int:
        return 2

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index], self.labels_of[index]


def test_answers_are_kept_while_their_images_stay(tmp_path: Path) -> None:
    pictures = Pictures()
    dataset: Dataset = pictures  # type: ignore[assignment]

    def missing(asked: str = "n", classes: int = 3) -> list[int]:
        kept = Probabilities(tmp_path, asked, dataset, classes)
        return [index for index, is_missing in kept.missing() if is_missing]

    kept = Probabilities(tmp_path, "n", dataset, 3)
    assert missing() == [0, 1]
    given = np.random.default_rng(1).dirichlet(np.ones(3), (5, 6)).transpose(2, 0, 1)
    for index in (0, 1):
        kept.keep(index, pictures.images[index], given.astype(np.float32))
    assert missing() == []
    np.testing.assert_allclose(kept.load(1), given, rtol=1e-3, atol=1e-7)
    assert missing("other") == missing(classes=4) == [0, 1]
    files = sorted(tmp_path.glob("probabilities/n/*.npz"))
    whole = files[0].read_bytes()
    for damage in (b"", whole[:-30], whole[:200] + b"\xff" * 8 + whole[208:], b"no zip at all"):
        files[0].write_bytes(damage)
        assert missing() == [0]
    files[0].write_bytes(whole)
    pictures.images[1, 0, 0, 0] ^= 1
    assert missing() == [1]


def test_points_count_for_the_images_and_labels_they_were_scored_on(tmp_path: Path) -> None:
    pictures = Pictures()
    dataset: Dataset = pictures  # type: ignore[assignment]

    def seen() -> int:
        kept = Probabilities(tmp_path, "n", dataset, 3)
        list(kept.missing())
        return kept.seen

    before = seen()
    assert seen() == before
    pictures.labels_of[1, 2, 2] = 1
    relabelled = seen()
    pictures.images[0, 0, 0, 0] ^= 1
    assert len({before, relabelled, seen()}) == 3


@pytest.mark.usefixtures("small")
def test_a_full_disk_leaves_no_half_answer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from segkit import whole_files

    write = whole_files.write_all
    written = []

    def full(handle: int, data: bytes) -> None:
        written.append(len(data))
        if len(written) > 1:
            write(handle, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "write_all", full)
        assert tune(run, tmp_path) == 6
    assert "DISK-FULL" in capsys.readouterr().err
    assert not list(tmp_path.rglob(".*.tmp"))
    assert len(list(tmp_path.rglob("*.npz"))) == 1
