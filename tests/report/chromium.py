"""A headless Chromium for tests, spoken to over a pipe (DevTools protocol); no port, no network."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_KEYS = {"ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}
_KEYS |= {"Home": 36, "End": 35, "Enter": 13, " ": 32}


class Chromium:
    """One browser with one page. ``complaints`` are those since ``open``."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.profile = tempfile.mkdtemp(prefix="segkit-chromium-")
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        words += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
        words += [f"--user-data-dir={self.profile}", "about:blank"]
        # The browser reads commands from its descriptor 3 and writes answers to 4.
        place = f"{commands}, 103), os.dup2({answers}, 104), os.dup2(103, 3), os.dup2(104, 4)"
        start = f"import os, sys; os.dup2({place}; os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", start, PROGRAM, *words],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._number, self._rest, self._session = 0, b"", ""
        self._asked: dict[str, str] = {}
        self.complaints: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _next(self, seconds: float = 20.0) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            self._rest += os.read(self._in, 1 << 20)
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for since ``open``."""
        return list(self._asked.values())

    def _note(self, event: dict[str, Any]) -> None:
        method, found = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self._asked[found["requestId"]] = found["request"]["url"]
        elif method == "Network.loadingFailed" and found.get("blockedReason") == "csp":
            self._asked.pop(found["requestId"], None)  # never left the browser
        elif method == "Log.entryAdded":
            self.complaints.append(found["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(found["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.complaints.append(str(found["args"]))

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a file at a size, in light or dark."""
        self._asked, self.complaints = {}, []
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[theme])
        self.ask("Page.navigate", url=path.as_uri())
        until = time.monotonic() + 15
        # A navigation leaves "complete" of the page before it readable for a moment.
        while self.run("[document.readyState, location.href]") != ["complete", path.as_uri()]:
            assert time.monotonic() < until, f"{path} does not load"
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Keys as a person presses them."""
        for key in keys:
            stroke = {"key": key, "windowsVirtualKeyCode": _KEYS[key], "code": key}
            text = {"text": "\r"} if key == "Enter" else {}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **stroke, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **stroke)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        clip = {}
        if whole:
            size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True}
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", **clip)["data"])
