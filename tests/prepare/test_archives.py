"""Rows S6 and S8: hostile archives, judged before the first byte and stopped at the budget."""

import bz2
import gzip
import io
import lzma
import os
import resource
import stat
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.errors import DataError, EnvironmentFault, RefusedError, SegkitError
from segkit.prepare import files
from segkit.prepare.archives import extract
from segkit.prepare.known import Budget

BUDGET = Budget(bytes=10**6, files=100)


def everything(name: str) -> str:
    return name


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def tar_of(path: Path, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar that begins with an honest file."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        good = member("good.txt", size=4)
        archive.addfile(good, io.BytesIO(b"good"))
        for entry in members:
            made, content = entry if isinstance(entry, tuple) else (entry, b"")
            made.size = made.size or len(content)
            archive.addfile(made, io.BytesIO(content) if made.isreg() else None)
    return path


def zip_of(path: Path, *members: zipfile.ZipInfo | str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.txt", b"good")
        for made in members:
            archive.writestr(made, b"content")
    return path


def info(name: str, mode: int = 0, **fields: object) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def refused(archive: Path, folder: Path, budget: Budget = BUDGET) -> SegkitError:
    """What ``extract`` raises; nothing is there afterwards but what was there before."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises((RefusedError, DataError)) as fault:
        extract(archive, folder, everything, budget)
    assert sorted(folder.parent.rglob("*")) == before
    return fault.value


LINK = {"linkname": "/etc/hostname"}
HOSTILE_TAR = {
    "dotdot": [member("../x")],
    "dotdot inside": [member("a/../../x")],
    "absolute": [member("/segkit-canary")],
    "symlink out": [member("out", tarfile.SYMTYPE, linkname="/tmp")],
    "file through a link": [member("d", tarfile.SYMTYPE, linkname="/tmp"), (member("d/x"), b"x")],
    "link to link": [
        member("a", tarfile.SYMTYPE, linkname="b"), member("b", tarfile.SYMTYPE, linkname="/etc"),
    ],
    "hard link": [member("h", tarfile.LNKTYPE, **LINK)],
    "empty link name": [member("e", tarfile.SYMTYPE, linkname="")],
    "fifo": [member("f", tarfile.FIFOTYPE)],
    "character device": [member("c", tarfile.CHRTYPE)],
    "block device": [member("b", tarfile.BLKTYPE)],
    "contiguous": [member("c", b"8")],
    "setuid": [(member("s", mode=0o4755), b"x")],
    "setgid": [(member("s", mode=0o2755), b"x")],
    "deep": [(member("d/" * 10_000 + "x"), b"x")],
    "long name": [(member("n" * 300), b"x")],
    "newline": [(member("a\nb"), b"x")],
    "escape sequence": [(member("a\x1b[2Jb"), b"x")],
    "backslash": [(member("..\\x"), b"x")],
    "not UTF-8": [(member("a\udcffb"), b"x")],
    "doubled": [(member("twice"), b"1"), (member("twice"), b"2")],
    "doubled in another spelling": [(member("a/twice"), b"1"), (member("a/./twice"), b"2")],
    "case twins": [(member("Good.txt"), b"x")],
    "case twin folders": [(member("A/x"), b"x"), (member("a/y"), b"y")],
    "unicode twins": [(member("\u00e9"), b"x"), (member("e\u0301"), b"y")],
    "file as folder": [(member("good.txt/x"), b"x")],
    "folder as file": [(member("d/x"), b"x"), (member("d"), b"y")],
    "no name": [(member("."), b"x")],
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_TAR)
@pytest.mark.parametrize("packed", ["plain", "gz", "bz2", "xz"])
def test_s6_a_tar_is_refused_as_a_whole(tmp_path: Path, name: str, packed: str) -> None:
    path = tar_of(tmp_path / "set.tar", *HOSTILE_TAR[name])
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "plain": bytes}
    path.write_bytes(pack[packed](path.read_bytes()))
    canary = Path("/segkit-canary")
    assert not canary.exists()
    fault = refused(path, tmp_path / "out")
    assert fault.id == "SAFE-ARCHIVE"
    assert "member '" in fault.line()
    assert str(path) in fault.line()
    assert "\n" not in fault.line()
    assert not canary.exists()


HOSTILE_ZIP = {
    "dotdot": ["../x"],
    "absolute": ["/segkit-canary"],
    "backslash": ["..\\x"],
    "symlink": [info("l", stat.S_IFLNK | 0o777)],
    "fifo": [info("f", stat.S_IFIFO | 0o644)],
    "device": [info("d", stat.S_IFCHR | 0o644)],
    "setuid": [info("s", stat.S_IFREG | 0o4755)],
    "case twins": ["GOOD.TXT"],
    "file as folder": ["good.txt/x"],
    "deep": ["d/" * 10_000 + "x"],
    "bzip2": [info("b", compress_type=zipfile.ZIP_BZIP2)],
}


@pytest.mark.parametrize("name", HOSTILE_ZIP)
def test_s6_a_zip_is_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    fault = refused(zip_of(tmp_path / "set.zip", *HOSTILE_ZIP[name]), tmp_path / "out")
    assert fault.id == "SAFE-ARCHIVE"
    assert "member '" in fault.line()


def test_s6_a_nul_in_a_zip_s_name_hides_nothing(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "set.zip", "good.txtZ../x")
    path.write_bytes(path.read_bytes().replace(b"good.txtZ../x", b"good.txt\0../x"))
    assert refused(path, tmp_path / "out").id == "SAFE-ARCHIVE"


def test_s6_doubled_and_encrypted_zip_members(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zip_of(tmp_path / "set.zip", "good.txt")
    assert refused(path, tmp_path / "out").id == "SAFE-ARCHIVE"
    raw = bytearray(zip_of(tmp_path / "set.zip", "secret").read_bytes())
    raw[raw.rfind(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    assert "encrypted" in refused(path, tmp_path / "out").line()


def test_s6_two_members_for_one_place(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "set.zip", "a/x", "b/x")
    with pytest.raises(RefusedError, match="another folder"):
        extract(path, tmp_path / "out", lambda name: Path(name).name, BUDGET)


def test_s6_sparse_files_claim_what_they_do_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 500_000)
    subprocess.run(["tar", "-C", tmp_path, "--sparse", "-cf", path, "hole"], check=True)
    (tmp_path / "hole").unlink()
    assert "no plain file" in refused(path, tmp_path / "out").line()


# -- bombs ---------------------------------------------------------------------------------------


def test_s8_a_tar_that_claims_too_much_is_not_unpacked(tmp_path: Path) -> None:
    """10 kB of bz2 for 10 GB: the member's claim is enough."""
    head = member("zeros", size=10 * 2**30).tobuf()
    packer = bz2.BZ2Compressor()
    data = packer.compress(head) + packer.compress(bytes(50 * 2**20)) + packer.flush()
    (tmp_path / "set.tar").write_bytes(data)
    assert len(data) < 20_000
    assert "at most 1000000" in refused(tmp_path / "set.tar", tmp_path / "out").line()


def test_s8_many_empty_files_stop_at_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "set.tgz"
    path.write_bytes(gzip.compress(b"".join(member(f"f{i}").tobuf() for i in range(1000)), 1))
    assert "more than 100 members" in refused(path, tmp_path / "out").line()


def test_s8_a_zip_of_a_million_empty_files_is_not_even_listed(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, 1, *[0] * 6) + b"x"
    entries = entry * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(entries), 0, 0)
    path = tmp_path / "set.zip"
    path.write_bytes(entries + end)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more than 100 members" in refused(path, tmp_path / "out").line()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_s8_a_zip_of_many_files_stops_at_the_budget(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "set.zip", *[f"f{i}" for i in range(200)])
    assert "more than 100 members" in refused(path, tmp_path / "out").line()


def test_s8_a_zip_that_expands_too_far(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2 * 10**6))
    assert "at most 1000000" in refused(tmp_path / "set.zip", tmp_path / "out").line()


def test_s8_what_a_zip_s_header_says_is_not_believed(tmp_path: Path) -> None:
    """The directory claims 10 bytes; the member holds a million."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10**6))
    raw = bytearray((tmp_path / "set.zip").read_bytes())
    struct.pack_into("<L", raw, raw.rfind(b"PK\1\2") + 24, 10)
    (tmp_path / "set.zip").write_bytes(raw)
    refused(tmp_path / "set.zip", tmp_path / "out")


def test_s8_a_zip_in_a_zip_stays_a_file(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", "x").read_bytes()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("inner.zip", inner)
    extract(tmp_path / "set.zip", tmp_path / "out", everything, BUDGET)
    assert (tmp_path / "out" / "inner.zip").read_bytes() == inner


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_s8_a_header_that_claims_a_gigabyte_of_name(tmp_path: Path, kind: bytes) -> None:
    head = member("name", kind, size=2**30).tobuf()
    path = tmp_path / "set.tgz"
    path.write_bytes(gzip.compress(member("good").tobuf() + head + bytes(2**22), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, tmp_path / "out", Budget(2**40, 100))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_s8_a_chain_of_long_names(tmp_path: Path) -> None:
    link = member("name", tarfile.GNUTYPE_LONGNAME, size=512).tobuf() + b"n" * 512
    path = tmp_path / "set.tgz"
    path.write_bytes(gzip.compress(link * 5000, 1))
    refused(path, tmp_path / "out")


# -- damage, room, and what is wanted ------------------------------------------------------------


def damaged(path: Path) -> list[bytes]:
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return [
        whole[: len(whole) // 2],
        b"",
        b"<html>no</html>",
        whole[:3],
        bytes(flipped),
        bytes(9999),
    ]


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.{kind}"
    content = os.urandom(20_000)
    if kind == "tgz":
        tar_of(path, (member("x"), content))
        path.write_bytes(gzip.compress(path.read_bytes()))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x", content)
    for data in damaged(path):
        path.write_bytes(data)
        assert refused(path, tmp_path / "out").id in ("DATA-ARCHIVE", "DATA-UNREADABLE")


def test_only_what_is_wanted_is_written_and_modes_are_not_taken_over(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "set.tar",
        member("d", tarfile.DIRTYPE, mode=0o7000),
        (member("d/wanted", mode=0o000), b"w"),
        (member("d/other"), b"o" * 1000),
    )
    extract(path, tmp_path / "out", lambda n: "here/w" if n == "d/wanted" else None, BUDGET)
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert files == [tmp_path / "out/here/w"]
    assert files[0].read_bytes() == b"w"
    assert stat.S_IMODE(files[0].stat().st_mode) & 0o600 == 0o600


def test_an_archive_of_other_things_says_so(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "set.tar")
    with pytest.raises(DataError, match="none of its 1 files"):
        extract(path, tmp_path / "out", lambda _name: None, BUDGET)


def test_room_is_asked_for_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_of(tmp_path / "set.tar", (member("x"), bytes(5000)))
    monkeypatch.setattr(files, "free_bytes", lambda _folder: 5000)
    with pytest.raises(EnvironmentFault, match=r"needs 4\.9 KiB") as fault:
        extract(path, tmp_path / "out", everything, BUDGET)
    assert fault.value.id == "ENV-DISK-FULL"
    assert list(tmp_path.iterdir()) == [tmp_path / "set.tar"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_no_archive_at_all(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "set.tar")
    with pytest.raises(DataError, match="not a regular file"):
        extract(tmp_path / "set.tar", tmp_path / "out", everything, BUDGET)
