"""Dense CRF in processes that work while the network computes the next images."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit import errors
from segkit.errors import ConfigError, EnvironmentFault
from segkit.inference.crf import DenseCrf, load_pydensecrf
from segkit.inference.crf_worker import receive_array, receive_header, send
from segkit.limits import fault_of

POLL_SECONDS = 0.5

Labels = NDArray[np.integer[Any]]


class Sample(Protocol):
    """What is refined: ``rgb`` is the original image, uint8 [H, W, 3]; ``id`` is for errors."""

    @property
    def id(self) -> str: ...

    @property
    def rgb(self) -> NDArray[np.uint8]: ...


S = TypeVar("S", bound=Sample)


class CrfPool(Generic[S]):
    """Refines samples in ``workers`` processes; results come back in the order of submission.

        with CrfPool(DenseCrf(), workers=2) as pool:
            for sample in samples:
                pool.submit(sample, predictor(sample.image))
                for done, labels in pool.ready():
                    ...
            for done, labels in pool.results():
                ...

    At most ``max_in_flight`` unfinished images (default: workers + 2) are in memory; ``submit``
    waits for room. A worker that dies, or is at one image for ``timeout`` seconds, raises
    EnvironmentFault where its result is asked for or at the next ``submit``. Where ``should_stop``
    (asked twice a second) says so, waits end: ``submit`` drops its image, ``results`` gives out no
    more. Leaving the ``with`` block, or ``close``, ends every process at once; so does, on Linux,
    the end of the thread that made the pool.
    """

    def __init__(
        self,
        crf: DenseCrf,
        workers: int,
        max_in_flight: int | None = None,
        *,
        timeout: float = 300.0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if workers < 1:
            raise ConfigError("CRF-WORKERS", "workers", f"{workers}", "the CRF needs 1 or more")
        load_pydensecrf()  # its absence is known before the first image
        self.crf = crf  # may be replaced while no image is in flight
        self._timeout, self._should_stop = timeout, should_stop
        self._room = workers + 2 if max_in_flight is None else max(1, max_in_flight)
        self._pending: deque[tuple[S, Future[Labels]]] = deque()
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker())
        except OSError as fault:
            for worker in self._workers:
                worker.kill()
            what = f"process {len(self._workers)} cannot be started ({fault.strerror})"
            limit = fault_of(fault)
            fix = f"{limit.what}; {limit.fix}" if limit else "crf=false"
            raise EnvironmentFault("CRF-START", "crf=true", what, fix) from fault
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="crf")

    def submit(self, sample: S, probabilities: Tensor | NDArray[np.float32]) -> None:
        """Hand over one image; ``probabilities`` are float32 [C, H, W] on any device."""
        while len(unfinished := self._unfinished()) >= self._room:
            if not self._waited(unfinished):
                return
        if isinstance(probabilities, Tensor):
            probabilities = probabilities.float().cpu().numpy()
        self._pending.append((sample, self._threads.submit(self._refine, sample, probabilities)))

    def ready(self) -> Iterator[tuple[S, Labels]]:
        """What is finished and next in order, without waiting."""
        while self._pending and self._pending[0][1].done():
            yield self._next()

    def results(self) -> Iterator[tuple[S, Labels]]:
        """Everything submitted and not yet given out, waiting for it."""
        while self._pending:
            future = self._pending[0][1]
            while not future.done():
                if not self._waited([future]):
                    return
            yield self._next()

    def close(self) -> None:
        """End every process; unfinished images are dropped. May be called twice."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close_pipes()
        self._pending.clear()

    def __enter__(self) -> "CrfPool[S]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next(self) -> tuple[S, Labels]:
        sample, future = self._pending[0]
        labels = future.result()
        self._pending.popleft()
        return sample, labels

    def _waited(self, futures: list[Future[Labels]]) -> bool:
        """Wait a little for the first of ``futures``; False once the caller is to stop."""
        if self._should_stop():
            return False
        wait(futures, POLL_SECONDS, return_when=FIRST_COMPLETED)
        for worker in self._workers:
            worker.check(self._timeout)
        return True

    def _unfinished(self) -> list[Future[Labels]]:
        for _, future in self._pending:
            if future.done() and (fault := future.exception()) is not None:
                raise fault
        return [future for _, future in self._pending if not future.done()]

    def _refine(self, sample: S, probabilities: NDArray[np.float32]) -> Labels:
        worker = self._idle.get()
        try:
            return worker.refine(self.crf, sample, probabilities)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and the pipes to it. It refines one image at a time."""

    def __init__(self) -> None:
        self._at: tuple[str, float] | None = None  # what it works at, and since when
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "segkit.inference.crf_worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_worker_environment(),
            process_group=0,  # the terminal's Ctrl-C is not for it
        )

    def refine(self, crf: DenseCrf, sample: Sample, probabilities: NDArray[np.float32]) -> Labels:
        rgb = np.ascontiguousarray(sample.rgb)
        probabilities = np.ascontiguousarray(probabilities, np.float32)
        header = {"crf": asdict(crf), "shape": probabilities.shape}
        self._at = (sample.id, time.monotonic())
        try:
            send(self._process.stdin, header, rgb, probabilities)  # type: ignore[arg-type]
            answer = receive_header(self._process.stdout)  # type: ignore[arg-type]
            if answer is None:
                raise EOFError
            if "fault" in answer:
                raise _fault_of(answer["fault"])
            return receive_array(self._process.stdout, rgb.shape[:2], answer["dtype"])  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError) as fault:
            raise self._death(sample) from fault
        finally:
            self._at = None

    def check(self, timeout: float) -> None:
        """EnvironmentFault if the process has been at its image for more than ``timeout``."""
        at = self._at
        if at is not None and time.monotonic() - at[1] > timeout:
            what = f"the CRF's process (pid {self._process.pid}) gave no answer for {timeout:g} s"
            raise EnvironmentFault("CRF-STUCK", at[0], what, "raise worker_timeout, or crf=false")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # a half-written image has nowhere to go
                pipe.close()  # type: ignore[union-attr]

    def _death(self, sample: Sample) -> EnvironmentFault:
        code = self._process.wait(timeout=10)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        hint = "out of memory? fewer workers, or crf=false"
        return EnvironmentFault("CRF-WORKER", sample.id, f"the CRF's process {how}", hint)


def _fault_of(words: list[Any]) -> errors.SegkitError:
    kind, *arguments = words
    return getattr(errors, kind)(*arguments)


def _worker_environment() -> dict[str, str]:
    """This process's own import path, and one thread: the lattice has no use for more."""
    path = os.pathsep.join(entry or str(os.curdir) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
