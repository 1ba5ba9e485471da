"""Downloads that go on where they were cut, and land under their name only when their sum is right.

https only (http on this machine itself, for tests); a redirect stays with the hosts of the table.
"""

import http.client
import json
import os
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segkit.data.bars import bar, size
from segkit.errors import DataError, EnvironmentFault, RefusedError
from segkit.prepare.files import put
from segkit.prepare.known import Digests, Hasher, Known
from segkit.whole_files import faults, free_bytes, sync_folder, write_all

_CHUNK = 1 << 18
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BUSY = (429, 500, 502, 503, 504)
_LEAST_PER_TIMEOUT = 1024  # bytes; a server that sends less has stalled
_AGAIN = "type the command again: it goes on from there"

TIMEOUT_S = 30.0
WAITS_S = (1.0, 2.0, 4.0, 8.0)  # before another try, where a server is busy or cuts without a byte


class _TryAgain(Exception):
    """The server is busy, or the connection was cut."""


@dataclass
class _Part:
    """The file so far, and what ties it to one version of what the server has."""

    path: Path
    note: Path
    handle: int
    have: int = 0
    validator: str = ""
    total: int | None = None
    hasher: Hasher = field(default_factory=Hasher)

    def begin(self, validator: str, total: int | None) -> None:
        """Forget what is there; the file to come is that of ``validator``."""
        os.ftruncate(self.handle, 0)
        self.have, self.validator, self.total, self.hasher = 0, validator, total, Hasher()
        put(self.note, json.dumps({"validator": validator, "total": total}).encode())

    def add(self, data: bytes) -> None:
        with faults(self.path, len(data)):
            write_all(self.handle, data)
        self.hasher.update(data)
        self.have += len(data)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    known: Known,
    folder: Path,
    *,
    timeout: float = TIMEOUT_S,
    waits: Sequence[float] = WAITS_S,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Path, Digests]:
    """``known`` in ``folder``, whole and of the right sum; with its sums.

    What is cut (also by a kill) stays as ``.NAME.part`` and is gone on with, if the server says
    that its file is still the same. Raises ``RefusedError`` (address, redirect, no known sum),
    ``DataError`` (refused by the server, HTML, wrong sum), ``EnvironmentFault`` (network, room).
    """
    if not (known.md5 or known.sha256):
        what = "no checksum of it is known"
        raise RefusedError("UNVERIFIED", known.address, what, "get it yourself, then from=PATH")
    check_address(known.address, known)
    with faults(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
    part = _opened(folder, known)
    try:
        _fetch(known, part, timeout, waits, sleep)
        sums = part.hasher.digests()
        try:
            known.check(folder / known.name, sums)
        except DataError:
            part.forget()
            raise
        with faults(folder / known.name, 0):
            os.fsync(part.handle)
            part.path.replace(folder / known.name)
            part.note.unlink(missing_ok=True)
            sync_folder(folder)
    finally:
        os.close(part.handle)
    return folder / known.name, sums


def check_address(address: str, known: Known) -> None:
    """Raise ``RefusedError`` SAFE-URL unless ``address`` is https on a host of the table."""
    parts = urlsplit(address)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not local:
        what = f"refused {parts.scheme or 'an empty'} address"
        raise RefusedError("URL", address, what, "https only")
    allowed = (urlsplit(known.address).hostname, *known.hosts)
    if parts.hostname not in allowed:
        what = f"{known.address} leads to another host"
        raise RefusedError("URL", address, what, f"allowed: {', '.join(map(str, allowed))}")


def _opened(folder: Path, known: Known) -> _Part:
    path = folder / f".{known.name}.part"
    note = folder / f".{known.name}.part.json"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with faults(path, 0):
        handle = os.open(path, flags, 0o666)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise RefusedError("PATH-LINK", path, "is no plain file", "remove it")
    part = _Part(path, note, handle, status.st_size)
    try:
        written = json.loads(note.read_bytes())
        part.validator, part.total = str(written["validator"]), written["total"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        part.have = 0
    while part.hasher.count < part.have and (chunk := os.read(handle, _CHUNK)):
        part.hasher.update(chunk)
    return part


def _fetch(
    known: Known,
    part: _Part,
    timeout: float,
    waits: Sequence[float],
    sleep: Callable[[float], None],
) -> None:
    """Ask until the whole file is there; a try that brought bytes costs no patience."""
    opener = _opener(known)
    tries = 0
    while part.total is None or part.have < part.total or not part.have:
        before = part.have
        try:
            _ask(opener, known, part, timeout)
            return
        except _TryAgain as fault:
            tries = 0 if part.have > before else tries + 1
            if tries > len(waits):
                raise _unreachable(known, str(fault), part) from fault
            sleep(waits[max(0, tries - 1)])


def _ask(
    opener: urllib.request.OpenerDirector,
    known: Known,
    part: _Part,
    timeout: float,
) -> None:
    """One request: the rest of the file, or all of it where the server has another one now."""
    headers = {"User-Agent": "segkit", "Accept-Encoding": "identity"}
    if part.have and part.validator:
        headers |= {"Range": f"bytes={part.have}-", "If-Range": part.validator}
    request = urllib.request.Request(known.address, headers=headers)
    try:
        with opener.open(request, timeout=timeout) as response:
            _accept(known, part, response)
            _copy(known, part, response, timeout)
    except urllib.error.HTTPError as error:
        _refused(known, part, error)
    except (TimeoutError, urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            raise _unreachable(known, f"nothing came for {timeout:g} s", part) from error
        if isinstance(error, urllib.error.URLError):  # nobody there: no name, no route, no port
            raise _unreachable(known, _words(reason), part) from error
        raise _TryAgain(_words(reason)) from error


def _accept(known: Known, part: _Part, response: Any) -> None:
    """Decide between going on and beginning anew, and see that there is room."""
    _refuse_html(known, response.headers.get_content_type() == "text/html")
    length = response.headers.get("Content-Length", "")
    coming = int(length) if length.isascii() and length.isdigit() else None
    if response.status == 206:
        expected = f"bytes {part.have}-{(part.total or 0) - 1}/{part.total}"
        if response.headers.get("Content-Range", "").strip() != expected:
            part.begin("", None)
            raise _TryAgain("the server answered with another range than the one asked for")
    else:
        part.begin(_validator(response.headers), coming)
    _check_size(known, part.total or 0)
    free = free_bytes(part.path.parent)
    if coming is not None and coming > free:
        what = f"{known.name} needs {size(coming)}, {size(free)} are free"
        raise EnvironmentFault(
            "DISK-FULL", part.path.parent, what, "make room, or choose another root="
        )


def _copy(known: Known, part: _Part, response: Any, timeout: float) -> None:
    os.lseek(part.handle, part.have, os.SEEK_SET)
    os.ftruncate(part.handle, part.have)
    marked, mark = time.monotonic(), part.have
    with bar(known.name, part.total, "B", part.have) as advance:
        while chunk := response.read1(_CHUNK):
            if not part.have:
                _refuse_html(
                    known, chunk.lstrip()[:14].lower().startswith((b"<!doctype", b"<html"))
                )
            _check_size(known, part.have + len(chunk))
            part.add(chunk)
            advance(len(chunk))
            if time.monotonic() - marked > timeout:
                if part.have - mark < _LEAST_PER_TIMEOUT:
                    raise TimeoutError
                marked, mark = time.monotonic(), part.have
    if part.total is not None and part.have < part.total:
        raise _TryAgain(f"the connection was cut at {part.have} of {part.total} bytes")


def _refused(known: Known, part: _Part, error: urllib.error.HTTPError) -> None:
    """What the server said instead of sending; returns where it means that all is there."""
    error.close()
    if error.code in _BUSY:
        raise _TryAgain(f"{error.code} {error.reason}") from error
    if error.code == 416:  # what is here is no beginning of what is there
        part.begin("", None)
        raise _TryAgain("the server's file has changed") from error
    if 300 <= error.code < 400:
        what = f"leads to an address that is not followed ({error.headers.get('Location')})"
        raise RefusedError("URL", known.address, what, "https only") from error
    what = f"the server answers {error.code} {error.reason}"
    fix = f"get {known.name} yourself, then from=PATH"
    raise DataError("DOWNLOAD", known.address, what, fix) from error


def _check_size(known: Known, count: int) -> None:
    limit = known.budget.bytes
    if count > limit:
        what = f"is larger than {known.name} can be: {count} bytes, at most {limit}"
        raise RefusedError("DOWNLOAD-SIZE", known.address, what, "get it yourself, then from=PATH")


def _validator(headers: Any) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _refuse_html(known: Known, is_html: bool) -> None:
    if is_html:
        what = f"is HTML instead of {known.name}: a notice or a login page"
        fix = "open it in a browser, get the file yourself, then from=PATH"
        raise DataError("DOWNLOAD", known.address, what, fix)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, known: Known) -> None:
        self._known = known

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> Any:
        check_address(newurl, self._known)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(known: Known) -> urllib.request.OpenerDirector:
    """Speaks http and https, and none of the other schemes that urllib knows."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(known),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _unreachable(known: Known, what: str, part: _Part) -> EnvironmentFault:
    kept = f"; {size(part.have)} are kept" if part.have else ""
    fix = f"{_AGAIN}, or get it yourself, then from=PATH"
    return EnvironmentFault("NETWORK", known.address, f"{what}{kept}", fix)


def _words(reason: object) -> str:
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return (str(reason).splitlines() or [""])[0][:160] or type(reason).__name__
