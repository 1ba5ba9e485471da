"""``devices=N``: this machine's N processes, through torch's elastic launcher.

Several machines are ``torchrun``'s to start (``torchrun ... -m segkit train ...``); the processes
are the same either way.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segkit import ranks
from segkit.config import Composed
from segkit.errors import ConfigError, DistributedFault, ExitCode, Interrupted, SegkitError
from segkit.parts import cores, device_count
from segkit.ranks import Verdict

# SIGHUP is left alone: under nohup a run must not end with its terminal.
SIGNALS = "SIGTERM,SIGINT,SIGUSR1"
# What a stopped run may take to save; killed after that.
SHUTDOWN_SECONDS = 60


def launch(command: str, composed: Composed, trusted: Sequence[str]) -> int:
    """Run ``command`` in ``devices`` processes; the exit code. Raises what ended the run."""
    devices = composed.values["devices"]
    check_devices(composed)
    words = [command, *composed.typed]
    if composed.config_dir:
        words += ["--config-dir", composed.config_dir]
    for module in trusted:
        words += ["--trust", module]
    with tempfile.TemporaryDirectory(prefix="segkit-ranks-") as folder:
        failed = run_ranks(words, devices, Path(folder))
        verdicts = list(ranks.told(Path(folder)))
    if failed is None:
        return ExitCode.OK
    raise cause(failed, verdicts)


def check_devices(composed: Composed) -> None:
    """Refuse more CUDA processes than there are cards."""
    wanted, name = composed.values["devices"], composed.values["device"]
    if ":" in name:
        what = f"{name} is one card, devices={wanted} wants {wanted}"
        raise ConfigError("DEVICES", "device, devices", what, "type device=cuda, or devices=1")
    found = device_count(name)
    if found is not None and found < wanted:
        what = f"{wanted} asked for, {found} CUDA devices here"
        raise ConfigError("DEVICES", "devices", what, f"type devices={found}, or device=cpu")


def run_ranks(words: Sequence[str], devices: int, folder: Path) -> BaseException | None:
    """Start the processes and wait for them; what the launcher raised, None if all went well."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port
        rdzv_configs={"timeout": 60},
        max_restarts=0,
        local_addr="localhost",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle=SIGNALS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    with surroundings(devices):
        try:
            elastic_launch(config, sys.executable)("-P", "-m", "segkit", *words)
        except (ChildFailedError, SignalException) as error:
            return error
    return None


@contextmanager
def surroundings(devices: int) -> Iterator[None]:
    """The environment of the processes, and of a sweep's next job what it was before."""
    before = dict(os.environ)
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS.split(",")}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // devices)))
    os.environ[ranks.LAUNCHED] = str(os.getpid())
    # Torch's own account of a failure would follow the one line that says what happened.
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)
        os.environ.clear()
        os.environ.update(before)


def cause(failed: BaseException, verdicts: Sequence[Verdict]) -> SegkitError:
    """The error to report: what the processes said, else what was seen of them."""
    number = getattr(failed, "sigval", None)
    stopped = [v for v in verdicts if v.code in (ExitCode.SIGINT, ExitCode.SIGTERM)]
    if said := [v for v in verdicts if v not in stopped]:
        return Retold(said[0])
    if stopped:
        return RetoldStop(stopped[0])
    if number is not None:
        name = "SIGINT" if number == signal.SIGINT else "SIGTERM"
        return Interrupted(name, "", "stopped before anything was saved")
    rank, failure = failed.get_first_failure()  # type: ignore[attr-defined]
    code = failure.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with {code}"
    return DistributedFault("PEER-DIED", f"rank {rank}", how, "out of memory? see RUN/logs")


class RetoldStop(Interrupted):
    """The last line of a process that was stopped: a sweep ends with it, too."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("SIGINT" if verdict.code == ExitCode.SIGINT else "SIGTERM", "", "stopped")
        self.verdict = verdict

    def line(self) -> str:
        return self.verdict.line


class Retold(SegkitError):
    """The last line of one of the processes, as it was."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("RETOLD", "", verdict.line)
        self.verdict = verdict
        self.code = ExitCode(verdict.code)  # type: ignore[misc]

    def line(self) -> str:
        return self.verdict.line
