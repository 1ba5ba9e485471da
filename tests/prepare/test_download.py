"""Rows D18 and S10: servers as they are, and addresses nobody should follow."""

import os
import time
from hashlib import md5, sha256
from pathlib import Path

import pytest
from servers import Served, serving, stalled, status, trickling, unmeasured, whole, without_range

from segkit.errors import DataError, EnvironmentFault, RefusedError
from segkit.prepare import download as downloads
from segkit.prepare.download import download
from segkit.prepare.known import Budget, Known

CONTENT = os.urandom(300_000)
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def known(address: str, **facts: object) -> Known:
    sums = {"md5": md5(CONTENT).hexdigest()} | facts
    return Known("set.tar", Budget(10**7, 10), address=address, **sums)


def fetched(served: Served, folder: Path, timeout: float = 5.0, **facts: object) -> Path:
    target, sums = download(
        known(served.address, **facts), folder, timeout=timeout, waits=(0.01,) * 4
    )
    assert target.read_bytes() == CONTENT
    assert sums.sha256 == sha256(CONTENT).hexdigest()
    assert list(folder.iterdir()) == [target]
    return target


def part(folder: Path) -> Path:
    return folder / ".set.tar.part"


def test_a_whole_file_is_read_once(tmp_path: Path) -> None:
    with serving(CONTENT, whole()) as served:
        fetched(served, tmp_path / "deep" / "folder")
    assert served.ranges == [None]


def test_d18_a_cut_connection_is_gone_on_with(tmp_path: Path) -> None:
    with serving(CONTENT, whole(upto=100_000), whole(upto=50_000), whole()) as served:
        fetched(served, tmp_path)
    assert served.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert sum(served.sent) == len(CONTENT), "no byte is sent twice"


def test_d18_a_second_call_goes_on_where_the_first_was_stopped(tmp_path: Path) -> None:
    with serving(CONTENT, stalled(100_000), whole()) as served:
        with pytest.raises(EnvironmentFault):
            fetched(served, tmp_path, timeout=0.3)
        fetched(served, tmp_path)
    assert served.ranges == [None, "bytes=100000-"]


def test_d18_a_server_that_ignores_range_means_a_restart(tmp_path: Path) -> None:
    with serving(CONTENT, without_range(100_000), without_range()) as served:
        fetched(served, tmp_path)
    assert served.ranges[1] == "bytes=100000-"


def test_d18_a_new_etag_means_a_restart(tmp_path: Path) -> None:
    other = bytes(100_000)
    with serving(other + CONTENT, whole('"old"', upto=100_000), status(503)) as served:
        with pytest.raises(EnvironmentFault):
            fetched(served, tmp_path, timeout=0.3)
        begun = part(tmp_path).stat().st_size
    with serving(CONTENT, whole('"new"')) as served:
        fetched(served, tmp_path)
    assert begun >= 100_000
    assert served.sent == [len(CONTENT)]


@pytest.mark.parametrize("range_said", ["bytes 5-299999/300000", "bytes 100000-299999/*", "x"])
def test_d18_another_range_than_the_one_asked_for_means_a_restart(
    tmp_path: Path, range_said: str
) -> None:
    wrong = status(206, CONTENT[5:], Content_Range=range_said, ETag='"one"')
    with serving(CONTENT, whole(upto=100_000), wrong, whole()) as served:
        fetched(served, tmp_path)
    assert served.ranges == [None, "bytes=100000-", None]


def test_d18_a_part_longer_than_the_file_means_a_restart(tmp_path: Path) -> None:
    twice = serving(CONTENT + CONTENT, whole(upto=400_000), status(503))
    with twice as served, pytest.raises(EnvironmentFault):
        fetched(served, tmp_path)
    with serving(CONTENT, whole()) as served:
        fetched(served, tmp_path)
    assert served.ranges == ["bytes=400000-", None], "416, then anew"


def test_d18_without_a_validator_a_part_proves_nothing(tmp_path: Path) -> None:
    with serving(CONTENT, whole("", upto=1000), whole('W/"weak"', upto=1000), whole()) as served:
        fetched(served, tmp_path)
    assert served.ranges == [None, None, None]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_d18_a_wrong_sum_tells_both_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    expected = "0" * (32 if kind == "md5" else 64)
    with serving(CONTENT, whole()) as served, pytest.raises(DataError) as fault:
        fetched(served, tmp_path, **{kind: expected})
    assert fault.value.id == "DATA-CHECKSUM"
    found = md5(CONTENT).hexdigest() if kind == "md5" else sha256(CONTENT).hexdigest()
    assert expected in fault.value.line()
    assert found in fault.value.line()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("headers", [{"Content_Type": "text/html; charset=utf-8"}, {}])
def test_d18_html_instead_of_data_is_told(tmp_path: Path, headers: dict[str, str]) -> None:
    answer = status(200, b"\n " + PAGE, **headers)
    with serving(PAGE, answer) as served, pytest.raises(DataError, match="HTML") as fault:
        fetched(served, tmp_path)
    assert "from=PATH" in fault.value.fix
    assert not (tmp_path / "set.tar").exists()


@pytest.mark.parametrize("code", [404, 403, 410])
def test_d18_a_refusal_is_told(tmp_path: Path, code: int) -> None:
    with serving(b"", status(code)) as served, pytest.raises(DataError, match=str(code)):
        fetched(served, tmp_path)
    assert not (tmp_path / "set.tar").exists()
    assert len(served.ranges) == 1


def test_d18_busy_three_times_is_waited_for(tmp_path: Path) -> None:
    waits: list[float] = []
    with serving(CONTENT, status(503), status(503), status(503), whole()) as served:
        download(known(served.address), tmp_path, waits=(1, 2, 4, 8), sleep=waits.append)
    assert waits == [1, 2, 4]


def test_d18_busy_for_ever_ends(tmp_path: Path) -> None:
    with serving(CONTENT, status(503)) as served, pytest.raises(EnvironmentFault, match="503"):
        fetched(served, tmp_path)
    assert len(served.ranges) == 5


@pytest.mark.parametrize("answer", [stalled(5000), trickling(0.05)], ids=["silent", "trickle"])
def test_d18_a_stall_ends_within_the_timeout(tmp_path: Path, answer: object) -> None:
    with serving(CONTENT, answer) as served:
        begun = time.monotonic()
        with pytest.raises(EnvironmentFault, match="nothing came") as fault:
            fetched(served, tmp_path, timeout=0.4)
        assert time.monotonic() - begun < 1.5
    assert "goes on from there" in fault.value.fix
    assert not (tmp_path / "set.tar").exists()
    assert part(tmp_path).stat().st_size > 0


def test_d18_a_server_that_sends_more_than_it_said_is_not_believed(tmp_path: Path) -> None:
    with serving(CONTENT + b"more", whole()) as served, pytest.raises(DataError, match="md5"):
        fetched(served, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="refused") as fault:
        download(known("http://127.0.0.1:9/set.tar"), tmp_path)
    assert fault.value.id == "ENV-NETWORK"


def test_room_is_asked_for_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "free_bytes", lambda _folder: 1000)
    with (
        serving(CONTENT, whole()) as served,
        pytest.raises(EnvironmentFault, match=r"needs 293.0 KiB, 1000 bytes are free") as fault,
    ):
        fetched(served, tmp_path)
    assert fault.value.id == "ENV-DISK-FULL"
    assert part(tmp_path).stat().st_size == 0


def test_a_size_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    small = Known("set.tar", Budget(1000, 1), md5="0" * 32)
    with serving(CONTENT, whole()) as served, pytest.raises(RefusedError, match="at most 1000"):
        download(Known(**{**vars(small), "address": served.address}), tmp_path)


def test_a_server_without_a_length_sends_no_more_than_the_budget(tmp_path: Path) -> None:
    with serving(CONTENT, unmeasured()) as served:
        fetched(served, tmp_path)
        small = Known("set.tar", Budget(1000, 1), md5="0" * 32, address=served.address)
        with pytest.raises(RefusedError, match="at most 1000"):
            download(small, tmp_path / "small")
    assert part(tmp_path / "small").stat().st_size <= 1000


def test_ctrl_c_leaves_a_part_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = downloads._Part.add

    def interrupted(self: downloads._Part, data: bytes) -> None:
        add(self, data)
        if self.have > 100_000:
            raise KeyboardInterrupt

    with serving(CONTENT, whole()) as served:
        with monkeypatch.context() as patched:
            patched.setattr(downloads._Part, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fetched(served, tmp_path)
        begun = part(tmp_path).stat().st_size
        fetched(served, tmp_path)
    assert served.ranges == [None, f"bytes={begun}-"]


@pytest.mark.parametrize(
    "address",
    ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "", "/etc/passwd",
     "HTTP://example.org/x", "http://127.0.0.1.example.org/x", "data:,x"],
)  # fmt: skip
def test_s10_only_https_is_asked(tmp_path: Path, address: str) -> None:
    with pytest.raises(RefusedError) as fault:
        download(known(address), tmp_path)
    assert fault.value.id == "SAFE-URL"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://example.org/x", "https://example.org/x",
     "gopher://127.0.0.1/"],
)  # fmt: skip
def test_s10_redirects_elsewhere_are_refused(tmp_path: Path, target: str) -> None:
    answer = status(302, Location=target)
    with serving(CONTENT, answer) as served, pytest.raises(RefusedError) as fault:
        fetched(served, tmp_path)
    assert fault.value.id == "SAFE-URL"
    assert target in fault.value.line()
    assert not (tmp_path / "set.tar").exists()


def test_s10_a_redirect_within_the_table_is_followed(tmp_path: Path) -> None:
    with serving(CONTENT, whole()) as target:
        moved = target.address.replace("127.0.0.1", "localhost")
        with serving(b"", status(301, Location=moved)) as served:
            fetched(served, tmp_path, hosts=("localhost",))


def test_s10_nothing_without_a_known_sum(tmp_path: Path) -> None:
    with serving(CONTENT, whole()) as served, pytest.raises(RefusedError, match="checksum"):
        fetched(served, tmp_path, md5="")
    assert served.ranges == []


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_waits_at_the_part_is_not_followed(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "downloads"
    folder.mkdir()
    make = {"link": lambda p: p.symlink_to(victim), "fifo": os.mkfifo, "folder": os.mkdir}
    make[kind](part(folder))
    with serving(CONTENT, whole()) as served, pytest.raises((RefusedError, EnvironmentFault)):
        fetched(served, folder)
    assert victim.read_bytes() == b"precious"
