"""Row D19: kill -9 at every call that touches the disk, then again: the result of a clean run."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest
import small_sets as small
from servers import serving, slowly

from segkit.prepare import camvid, cityscapes, sbd, voc
from segkit.prepare.download import download
from segkit.prepare.known import Budget, Known
from segkit.prepare.sources import Order

_TOUCHES = {"open", "os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir", "os.truncate"}


def killed_at(number: int, root: Path, act: Callable[[], object]) -> bool:
    """``act`` in a process that dies before its ``number``-th touch of ``root``; False if none."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in _TOUCHES and str(root) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def make_voc_aug(has: Path) -> Callable[[Path], object]:
    facts = small.facts_of(
        small.tar(small.voc_tree(), has / voc.VOC_TAR.name),
        small.tgz(small.sbd_tree(), has / voc.SBD_TGZ.name),
    )
    return lambda root: sbd.prepare(Order(root, (has,)), facts)


def make_cityscapes(has: Path) -> Callable[[Path], object]:
    facts = small.street_zips(has)
    return lambda root: cityscapes.prepare_coarse(Order(root, (has,)), facts)


def make_camvid(has: Path) -> Callable[[Path], object]:
    small.lay(small.segnet_tree(), has)
    facts = camvid.Facts({"train": 2, "val": 1})
    return lambda root: camvid.prepare(Order(root, (has,)), facts)


MAKERS = {"voc_aug": make_voc_aug, "cityscapes": make_cityscapes, "camvid": make_camvid}


def left_over(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name.startswith("."))


def enumerate_kills(name: str, tmp_path: Path, step: int) -> int:
    """Kill, run again, compare; the number of points at which a run was killed."""
    (tmp_path / "has").mkdir()
    prepare = MAKERS[name](tmp_path / "has")
    clean = tmp_path / "clean"
    prepare(clean)
    expected, locks = small.fingerprint_of_data(clean), left_over(clean)
    killed = 0
    while True:
        root = tmp_path / f"root{killed}"
        if not killed_at(1 + killed * step, root, lambda root=root: prepare(root)):
            return killed
        killed += 1
        prepare(root)
        assert small.fingerprint_of_data(root) == expected, f"after kill {killed}"
        assert left_over(root) == locks, f"after kill {killed}"


@pytest.mark.parametrize("name", MAKERS)
def test_d19_killed_here_and_there(name: str, tmp_path: Path) -> None:
    assert enumerate_kills(name, tmp_path, step=13) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_d19_killed_at_every_touch_of_the_disk(name: str, tmp_path: Path) -> None:
    assert enumerate_kills(name, tmp_path, step=1) >= 40


def test_d19_killed_twice_and_three_times(tmp_path: Path) -> None:
    (tmp_path / "has").mkdir()
    prepare = make_voc_aug(tmp_path / "has")
    prepare(tmp_path / "clean")
    root = tmp_path / "root"
    for number in (60, 45, 30, 90):
        killed_at(number, root, lambda: prepare(root))
    prepare(root)
    assert small.fingerprint_of_data(root) == small.fingerprint_of_data(tmp_path / "clean")


def test_d19_killed_in_a_download(tmp_path: Path) -> None:
    """Each call gets some further; what is there is not asked for again."""
    content = os.urandom(400_000)
    known = Known("set.tar", Budget(10**6, 1), md5=md5(content).hexdigest())
    with serving(content, slowly(20_000, 0.02)) as served:
        known = Known(**{**vars(known), "address": served.address})
        for _ in range(2):
            child = os.fork()
            if child == 0:
                download(known, tmp_path)
                os._exit(0)
            while not served.sent or served.sent[-1] < 100_000:
                time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            served.sent.append(0)
            assert not (tmp_path / "set.tar").exists()
        path, _sums = download(known, tmp_path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    starts = [int((asked or "bytes=0-")[6:-1]) for asked in served.ranges]
    assert starts[0] == 0 < starts[1] < starts[2]
