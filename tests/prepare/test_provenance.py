"""What a set says that it was made of, and whose files it is made of."""

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest
import small_sets as small

from segkit import cli
from segkit.errors import DataError, EnvironmentFault
from segkit.prepare import camvid, claim, files, sbd, sources, voc
from segkit.prepare.claim import Prepared
from segkit.prepare.sources import Order

CAMVID = camvid.Facts({"train": 2, "val": 1})


@pytest.fixture
def has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("has", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "has"


def kinds(made: Prepared) -> list[str]:
    return [str(source["kind"]) for source in made.record["sources"]]


def test_what_failed_is_not_the_source_of_what_the_user_puts_there(
    has: Path, tmp_path: Path
) -> None:
    tree = small.voc_tree()
    small.lay(tree, has)
    (has / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    root = tmp_path / "data"
    with pytest.raises(DataError):
        voc.prepare(Order(root, (has,)), small.facts_of(None, None))
    assert list(root.iterdir()) == []
    small.lay(tree, root)
    made = voc.prepare(Order(root), small.facts_of(None, None))
    assert kinds(made) == ["in place"]
    assert made.verb == "was there; counted"


def test_a_note_left_by_a_kill_is_not_believed(has: Path, tmp_path: Path) -> None:
    """Killed before its move; then the user lays a set of his own there."""
    work = tmp_path / "data/.segkit-voc"
    work.mkdir(parents=True)
    (work / "VOC2012").mkdir()
    sources.note(work / "VOC2012", {"name": voc.VOC_TAR.name, "kind": "archive"}, has)
    small.lay(small.voc_tree(), tmp_path / "data")
    assert kinds(voc.prepare(Order(tmp_path / "data"), small.facts_of(None, None))) == ["in place"]


def test_killed_between_move_and_manifest_the_source_is_still_known(
    has: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.lay(small.voc_tree(), has)
    with monkeypatch.context() as patched:
        patched.setattr("segkit.prepare.claim._survey", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            voc.prepare(Order(tmp_path / "data", (has,)), small.facts_of(None, None))
    made = voc.prepare(Order(tmp_path / "data"), small.facts_of(None, None))
    assert kinds(made) == ["folder"]
    assert made.verb == "prepared"


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("form", ["segnet", "laid out"])
def test_the_user_s_files_are_shared_only_where_that_is_typed(
    has: Path, tmp_path: Path, link: bool, form: str
) -> None:
    small.lay(small.segnet_tree(), has)
    if form == "laid out":
        camvid.prepare(Order(tmp_path / "other", (has,)), CAMVID)
        has = tmp_path / "other"
    made = camvid.prepare(Order(tmp_path / "data", (has,), link=link), CAMVID)
    (image,) = [path for path in has.rglob("a1.png") if path.parent.name in ("train", "images")]
    assert image.samefile(tmp_path / "data/camvid/images/a1.png") == link
    assert image.read_bytes() == (tmp_path / "data/camvid/images/a1.png").read_bytes()
    assert made.record["sources"][0]["files"] == ("hard-linked" if link else "copied")


@pytest.mark.parametrize("without", [True, False])
def test_a_copy_without_the_kernel_s_help(
    has: Path, without: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossing(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    content = os.urandom(3_000_000)
    (has / "a").write_bytes(content)
    if without:
        monkeypatch.setattr(os, "copy_file_range", crossing)
    assert not files.link_or_copy(has / "a", has / "b")
    assert (has / "b").read_bytes() == content
    assert len(list(has.iterdir())) == 2


def test_a_tree_that_does_not_fit_is_told_before_the_first_copy(
    has: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.lay(small.voc_tree(), has)
    monkeypatch.setattr(files, "free_bytes", lambda _folder: 1000)
    with pytest.raises(EnvironmentFault, match="1000 bytes are free") as fault:
        voc.prepare(Order(tmp_path / "data", (has,)), small.facts_of(None, None))
    assert str(has) in fault.value.what
    assert list((tmp_path / "data").iterdir()) == []


def aug_and_sbd(has: Path) -> voc.Facts:
    small.zipped(small.aug_tree(), has / voc.AUG_ZIP.name)
    tar = small.tar(small.voc_tree(), has / voc.VOC_TAR.name)
    return small.facts_of(tar, small.tgz(small.sbd_tree(), has / voc.SBD_TGZ.name))


def test_sbd_comes_before_what_others_made_of_it(has: Path, tmp_path: Path) -> None:
    facts = aug_and_sbd(has)
    made = sbd.prepare(Order(tmp_path / "data", (has,)), facts)
    assert made.record["sources"][0]["name"] == voc.SBD_TGZ.name
    assert made.record["sources"][0]["verified"]
    typed = has / voc.AUG_ZIP.name
    made = sbd.prepare(Order(tmp_path / "two", (has, typed)), facts)
    assert made.record["sources"][0]["name"] == voc.AUG_ZIP.name
    assert not made.record["sources"][0]["verified"]


def test_what_it_was_made_of_is_printed(
    has: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, prepare = aug_and_sbd(has), sbd.prepare
    monkeypatch.setattr(sbd, "prepare", lambda order: prepare(order, facts))
    typed = ["data", "prepare", "voc_aug", f"from={has}", f"root={tmp_path / 'data'}"]
    assert cli.main(typed) == 0
    said = capsys.readouterr().out
    assert f"{voc.SBD_TGZ.name} (its sum is the owner's)" in said
    assert "segkit data check dataset=voc_aug" in said
    assert cli.main([*typed[:3], f"from={has / voc.AUG_ZIP.name}", *typed[3:4], "root=two"]) == 0
    assert "not verified" in capsys.readouterr().out


@pytest.mark.parametrize("packed", [True, False])
def test_a_wrong_count_names_what_the_user_gave(has: Path, tmp_path: Path, packed: bool) -> None:
    tree, facts = small.voc_tree(), small.facts_of(None, None)
    if packed:
        facts = small.facts_of(small.tar(tree, has / voc.VOC_TAR.name), None)
    else:
        small.lay(tree, has)
    wrong = replace(facts, samples={**small.COUNTS, "train": 1464})
    with pytest.raises(DataError, match="found 3 samples of train, expected 1464") as fault:
        voc.prepare(Order(tmp_path / "data", (has,)), wrong)
    assert fault.value.where.startswith(str(has))
    assert fault.value.where.endswith("train.txt")


def test_lists_that_overlap_are_no_train_and_val(has: Path, tmp_path: Path) -> None:
    tree = small.voc_tree()
    tree["VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"] = small.listing(small.TRAIN[:2])
    small.lay(tree, has)
    with pytest.raises(DataError, match="2 samples of val are in train too") as fault:
        voc.prepare(Order(tmp_path / "data", (has,)), small.facts_of(None, None))
    assert fault.value.where.startswith(str(has))


def test_a_lock_opened_before_it_was_removed_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends and takes its lock away between our opening it and locking it."""
    path, flock, calls = tmp_path / ".x.lock", fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if not calls:
            path.unlink()
        calls.append(how)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = claim._lock(path)
    lock.check()
    assert len(calls) == 2
    with pytest.raises(EnvironmentFault, match="another process"):
        claim._lock(path)
    lock.release()


def test_a_folder_prepared_or_refused_leaves_no_lock(has: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        tree = {f"images/{name}.png": small.photo(name, "PNG")}
        tree[f"masks/{name}.png"] = small.picture("L", small.labels_of(name, 3))
        small.lay(tree, has)
    typed = ["data", "prepare", "folder", f"from={has}", f"root={tmp_path / 'rooms/mine'}"]
    assert cli.main([*typed, "classes=[a,b]"]) != 0
    assert not list((tmp_path / "rooms").glob(".*.lock"))
    assert cli.main([*typed, "classes=[a,b,c]"]) == 0
    assert [path.name for path in (tmp_path / "rooms").iterdir()] == ["mine"]
