"""A process with torch and segkit imported that forks a segkit command at a request.

The interpreter and its imports cost four seconds, a fork a hundredth of one. The server starts no
thread of torch, so that a fork is a fresh process in all but its imports. Requests and answers are
lines of JSON over its standard streams.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class ForkServer:
    """The tests' side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"},
        )

    def start(
        self, words: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path
    ) -> int:
        """Fork ``segkit WORDS``, leader of a session of its own; its process id."""
        request = {"words": words, "cwd": cwd, "env": dict(env), "out": out, "err": err}
        return int(self._ask(request))

    def poll(self, pid: int) -> int | None:
        """Its exit code (negative: the signal), None while it runs."""
        code = self._ask({"poll": pid})
        return None if code is None else int(code)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def serve() -> None:
    import injectors  # noqa: F401 - imported before the forks, like all of segkit
    import torch
    import torch._dynamo  # seconds of imports at the first optimiser: here once
    import torch.utils.tensorboard
    from hydra.core.plugins import Plugins
    from matplotlib import font_manager  # noqa: F401 - lists the fonts anew in every fresh home

    # What a command imports only when it comes to it, half a second of every one that draws.
    from matplotlib.backends import backend_agg, backend_svg  # noqa: F401
    from matplotlib.figure import Figure  # noqa: F401
    from PIL import Image

    import segkit.data.shapes
    import segkit.eval
    import segkit.losses
    import segkit.models.backbones.resnet
    import segkit.models.heads.v3
    import segkit.predict
    import segkit.train  # noqa: F401

    Image.init()
    Plugins.instance()  # looks through Hydra's own, and imports them
    torch.set_num_threads(1)
    # A million objects of imports that no fork need look through for garbage, page by page.
    gc.collect()
    gc.freeze()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer = poll(request["poll"], ended) if "poll" in request else fork(request)
        print(json.dumps(answer), flush=True)


def poll(pid: int, ended: dict[int, int]) -> int | None:
    if pid not in ended:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            return None
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended[pid]


def fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        become(request)
        import faulty_segkit

        faulty_segkit.main(request["words"])
    except SystemExit as end:
        flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        flush()
        os._exit(99)
    os._exit(98)


def become(request: Mapping[str, Any]) -> None:
    """Session, working directory, environment and streams of a command typed in a shell."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # it remembers the server's
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        handle = os.open(path, flags, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the old ones belong to the server
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()
