"""``segkit submit``: what is written, and that reading it back scores as ``segkit eval`` does."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_servers import TEST

from segkit import cli
from segkit.data.cityscapes import Cityscapes
from segkit.data.labels import CITYSCAPES_IDS, interleaved_colour
from segkit.data.voc import Voc
from segkit.errors import DataError
from segkit.metrics.confusion import ConfusionMatrix
from segkit.submission.check import values_of
from segkit.submission.servers import CityscapesServer, Server, VocServer


def submit(run: Path, *words: str) -> int:
    server = "voc" if run.name == "voc" else "cityscapes"
    return cli.main(["submit", server, f"ckpt={run}", "device=cpu", *words])


def contents(archive: Path) -> dict[str, bytes]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return {name: opened.read(name) for name in opened.namelist()}
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


# -- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("comp", [None, 5])
def test_voc_wants_palette_pngs_in_its_folders(
    voc_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], comp: int | None
) -> None:
    out = tmp_path / "out"
    assert submit(voc_run, f"out={out}", *([f"comp={comp}"] if comp else [])) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "upload it by hand: host.robots.ox.ac.uk:8080"
    assert "3 of the 1456 images of test are here" in told.err
    found = contents(out / "results.tgz")
    folder = f"results/VOC2012/Segmentation/comp{comp or 6}_test_cls"
    assert list(found) == [f"{folder}/{name}.png" for name in TEST]
    for content in found.values():
        image = opened(content)
        assert (image.mode, image.size) == ("P", (17, 12))
        assert np.asarray(image).max() <= 20
        palette = np.array(image.getpalette()).reshape(-1, 3)
        assert [tuple(row) for row in palette.tolist()] == [
            interleaved_colour(i) for i in range(256)
        ]


def test_cityscapes_wants_label_ids(street_run: Path, tmp_path: Path) -> None:
    assert submit(street_run, f"out={tmp_path}") == 0
    [(name, content)] = contents(tmp_path / "results.zip").items()
    assert name == "results/bonn_000000_000019_leftImg8bit.png"
    image = opened(content)
    assert (image.mode, image.size) == ("L", (17, 12))
    assert set(np.unique(image).tolist()) <= set(CITYSCAPES_IDS)


@pytest.mark.parametrize("kind", ["voc", "street"])
def test_the_same_maps_are_the_same_archive(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    archive = "results.tgz" if kind == "voc" else "results.zip"
    for name in "ab":
        assert submit(run, f"out={tmp_path / name}") == 0
    assert (tmp_path / "a" / archive).read_bytes() == (tmp_path / "b" / archive).read_bytes()


def test_a_second_call_goes_on(
    voc_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"out={tmp_path}"
    assert submit(voc_run, words) == 0
    before = (tmp_path / "results.tgz").read_bytes()
    folder = tmp_path / "results/VOC2012/Segmentation/comp6_test_cls"
    (folder / f"{TEST[1]}.png").unlink()
    (tmp_path / "results.tgz").unlink()
    capsys.readouterr()
    assert submit(voc_run, words) == 0
    assert "1 prediction (2 of 3 were there already)" in capsys.readouterr().out
    assert (tmp_path / "results.tgz").read_bytes() == before
    assert submit(voc_run, words, "flip=true") == 0
    assert "3 predictions in" in capsys.readouterr().out


def test_inside_the_run_each_protocol_has_a_folder(voc_run: Path) -> None:
    for words in ([], ["flip=true"]):
        assert submit(voc_run, *words) == 0
    found = sorted(path.name for path in (voc_run / "submissions").iterdir())
    assert len(found) == 2
    assert [name[: name.rindex("-")] for name in found] == ["voc-comp6-test", "voc-comp6-test-flip"]


def test_each_comp_has_its_own_folder_and_leaves_no_maps_of_the_other(
    voc_run: Path, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    folder = out / "results/VOC2012/Segmentation"
    for comp in (5, 6):
        assert submit(voc_run, f"comp={comp}") == 0
        made = f"{voc_run}/submissions/voc-comp{comp}-test-"
        assert made in capsys.readouterr().out
        assert submit(voc_run, f"comp={comp}", f"out={out}") == 0
        assert [path.parent.name for path in folder.rglob("*.png")] == [f"comp{comp}_test_cls"] * 3
        words = ["submit", "voc", f"dataset.root={voc_root}", f"comp={comp}"]
        assert cli.main([*words, f"check={out}"]) == 0


@pytest.mark.parametrize("kind", ["voc", "street"])
def test_the_folder_that_was_written_is_sound(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = request.getfixturevalue(f"{kind}_run")
    root = request.getfixturevalue("voc_root" if kind == "voc" else "streets")
    assert submit(run, f"out={tmp_path}") == 0
    assert (tmp_path / ".lock").exists()
    words = ["submit", "voc" if kind == "voc" else "cityscapes", f"dataset.root={root}"]
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "results")
    for folder in (tmp_path, tmp_path / "results", "."):
        assert cli.main([*words, f"check={folder}"]) == 0
        told = capsys.readouterr()
        assert told.out.endswith("label maps, sound\n")
        assert "no label map" not in told.err
    (tmp_path / "results/.lock").touch()  # none of submit's own
    assert cli.main([*words, f"check={tmp_path}"]) == (3 if kind == "voc" else 0)
    assert "results/.lock" in capsys.readouterr().err


# -- round trip ----------------------------------------------------------------------------------


def matrix_of(archive: Path, server: Server) -> list[list[int]]:
    """The confusion matrix of an archive against the truth."""
    maps = dict(values_of(archive, server))
    confusion = ConfusionMatrix(server.labels.num_classes, server.labels.ignore_label, "cpu")
    for index, sample in enumerate(server.images.ids):
        truth = torch.from_numpy(server.images.read_label(index).astype(np.int64))
        confusion.update(torch.from_numpy(maps[str(sample)].astype(np.int64)), truth)
    matrix: list[list[int]] = confusion.matrix().tolist()
    return matrix


MORE = ("ms=true", "flip=true", "tta.scales=[0.5,1,1.5]")


@pytest.mark.parametrize("words", [(), pytest.param(MORE, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["voc", "street"])
def test_reading_the_archive_back_scores_as_eval_does(
    kind: str, words: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    root = request.getfixturevalue("voc_root" if kind == "voc" else "streets")
    server: Server = VocServer(root, "val") if kind == "voc" else CityscapesServer(root, "val")
    assert submit(run, "eval.split=val", f"out={tmp_path / 'sub'}", *words) == 0
    own = ["workers=0", "device=cpu", "eval.report=false", f"out={tmp_path / 'score'}", *words]
    assert cli.main(["eval", f"ckpt={run}", *own]) == 0
    score = json.loads((tmp_path / "score/score.json").read_text())
    matrix = matrix_of(tmp_path / "sub" / server.archive, server)
    assert matrix == score["confusion"]
    assert sum(map(bool, np.sum(matrix, 0))) > 1, "one class alone would prove little"


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "type segkit submit voc or cityscapes"),
        (["coco"], 2, "'coco' is no server"),
        (["voc", "cityscapes"], 2, "is no server"),
        (["voc", "dataset=camvid"], 2, "dataset.root=/path"),
        (["voc", "dataset.split=train"], 2, "dataset.split: the server says"),
        (["voc", "eval.limit=3"], 2, "eval.limit: the server says"),
        (["voc", "comp=4"], 2, "comp"),
        (["voc", "devices=2"], 2, "devices"),
        (["voc", "dataset.root=nowhere"], 3, "voc not found"),
        (["voc", "eval.split=minival"], 3, "minival"),
        (["cityscapes"], 2, "the network has 21 classes"),
    ],
)
def test_what_cannot_be_submitted(
    voc_run: Path, words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "start", lambda command, composed, _: cli.task(command)(composed))
    assert cli.main(["submit", *words, f"ckpt={voc_run}", "device=cpu"]) == code
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_broken_image_leaves_no_archive(
    voc_run: Path, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "VOC2012"
    shutil.copytree(voc_root, root)
    (root / "JPEGImages" / f"{TEST[1]}.jpg").write_bytes(b"hello")
    out = tmp_path / "out"
    assert submit(voc_run, f"dataset.root={root}", f"out={out}") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{TEST[1]}.jpg: neither PNG nor JPEG; 1 of 3 inputs failed" in last
    assert not (out / "results.tgz").exists()


def test_a_split_without_labels_has_images_alone(voc_root: Path, streets: Path) -> None:
    for dataset in (Voc(voc_root, "test"), Cityscapes(streets, "test")):
        assert dataset.read_image(0).shape == (12, 17, 3)
        with pytest.raises(DataError) as fault:
            dataset.read(0)
        assert fault.value.id == "DATA-NO-LABELS"
    assert list(Voc(voc_root, "test").ids) == TEST
    (voc_root / "JPEGImages" / f"{TEST[0]}.jpg").rename(voc_root / "away.jpg")
    with pytest.raises(DataError, match=TEST[0]):
        Voc(voc_root, "test")
    (voc_root / "away.jpg").rename(voc_root / "JPEGImages" / f"{TEST[0]}.jpg")
