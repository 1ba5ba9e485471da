"""A server on this machine that answers as told, and keeps a log of what it sent."""

import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[["Handler"], None]


@dataclass
class Served:
    """``answers`` are used up one a request; the last one stays."""

    content: bytes
    answers: list[Answer]
    address: str = ""
    ranges: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def do_GET(self) -> None:
        served = self.served
        served.ranges.append(self.headers.get("Range"))
        served.sent.append(0)
        answer = served.answers.pop(0) if len(served.answers) > 1 else served.answers[0]
        self.close_connection = True
        answer(self)

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError:  # the other side left, as some tests have it
            return
        self.served.sent[-1] += len(data)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@contextmanager
def serving(content: bytes, *answers: Answer) -> Iterator[Served]:
    served = Served(content, list(answers))
    handler = type("Bound", (Handler,), {"served": served})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        served.address = f"http://127.0.0.1:{server.server_port}/"
        yield served
        server.shutdown()
        thread.join()


def whole(etag: str = '"one"', upto: int | None = None, **headers: str) -> Answer:
    """All of it, or what the Range asks for; cut after ``upto`` bytes."""

    def answer(handler: Handler) -> None:
        content = handler.served.content
        found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        unchanged = handler.headers.get("If-Range", etag) == etag
        if found and unchanged and int(found[1]) < len(content):
            start = int(found[1])
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.head(206, len(content) - start, ETag=etag, Content_Range=place, **headers)
            handler.body(content[start:][:upto])
        elif found and unchanged:
            handler.head(416, 0)
        else:
            handler.head(200, len(content), ETag=etag, **headers)
            handler.body(content[:upto])

    return answer


def without_range(upto: int | None = None) -> Answer:
    """A server that knows no Range, yet has an ETag."""

    def answer(handler: Handler) -> None:
        handler.head(200, len(handler.served.content), ETag='"one"')
        handler.body(handler.served.content[:upto])

    return answer


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(code, len(body), **headers)
        handler.body(body)

    return answer


def stalled(after: int, seconds: float = 3.0) -> Answer:
    """Sends a little, then nothing."""

    def answer(handler: Handler) -> None:
        handler.head(200, len(handler.served.content), ETag='"one"')
        handler.body(handler.served.content[:after])
        time.sleep(seconds)

    return answer


def trickling(every: float) -> Answer:
    """Sends one byte now and then: no read ever times out."""

    def answer(handler: Handler) -> None:
        handler.head(200, len(handler.served.content), ETag='"one"')
        for start in range(100):
            handler.body(handler.served.content[start : start + 1])
            time.sleep(every)

    return answer


def unmeasured() -> Answer:
    """All of it, without saying how much that is."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.body(handler.served.content)

    return answer


def slowly(chunk: int, every: float) -> Answer:
    """All of it, or the rest, in small pieces: time to be killed in."""

    def answer(handler: Handler) -> None:
        content = handler.served.content
        found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        ranged = {"Content_Range": place} if found else {}
        handler.head(206 if found else 200, len(content) - start, ETag='"one"', **ranged)
        for begin in range(start, len(content), chunk):
            handler.body(content[begin : begin + chunk])
            time.sleep(every)

    return answer
