"""Several processes that work as one, and what happens when one of them does not.

A process is ``Alone`` or a member of a ``Team``; both answer the same calls, so that the loop reads
the same for one device and for many. Collectives simply wait: ``watch.Watch`` looks at all members
from a thread of its own and ends a wait that cannot end well.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from segkit.engine.signals import Stop
from segkit.engine.watch import Watch, deadline
from segkit.errors import DistributedFault, SegkitError

T = TypeVar("T")

# The processes of one job start within minutes; a wrong address must not hold it up for long.
JOIN_SECONDS = 120.0
# The watch judges who hangs; this one only ends what even the watch cannot see.
COLLECTIVE_SECONDS = 4 * 3600.0


class Alone:
    """A process by itself: nothing to agree on, nothing to add up."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what all share."""
        return self.rank == 0

    def agree(self, stop: Stop) -> bool:
        """Whether to stop: the same answer in every process."""
        return bool(stop)

    def any(self, flag: bool) -> bool:
        """Whether any process said yes."""
        return flag

    def share(self, value: T) -> T:
        """Rank 0's ``value`` (plain data)."""
        return value

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on the tensor's own device."""
        return tensor

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Raise DistributedFault unless ``facts`` (plain data) are rank 0's."""

    def meet(self) -> None:
        """Wait for all others to come here."""

    def beat(self, step: int | None = None) -> None:
        """A stretch of work is done; ``step``: updates so far, where it is an update."""

    def phase(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Inside, work takes longer than a step."""
        return nullcontext()

    @contextmanager
    def first(self) -> Iterator[None]:
        """Rank 0 does what is inside before all others do."""
        yield

    def parallel(self, network: nn.Module) -> nn.Module:
        """``network`` whose ``backward`` adds up the gradients of all processes."""
        return network

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """Inside, gradients stay this process's own: parts that are added up later."""
        return nullcontext()

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating ``tensors`` by their mean over all processes."""

    def guard(self) -> AbstractContextManager[None]:
        """Inside, an error that another member's end caused is replaced by that member's own."""
        return nullcontext()

    @property
    def is_heir(self) -> bool:
        """Whether rank 0 is gone and this process is to record the end for it."""
        return False

    def on_leave(self, record: Callable[[SegkitError], None]) -> None:
        """``record`` is called with the fault if this process has to be ended by force."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


ALONE = Alone()


class Team(Alone):
    """One of ``size`` processes. Collective calls come in the same order in every one of them.

    A context manager: an error that leaves it is told to the other members, whose own waits then
    end with it; an error caused by another member's end is replaced by that member's.
    """

    def __init__(self, rank: int, size: int, device: torch.device, timeout: float) -> None:
        self.rank, self.size, self._device = rank, size, device
        self._calls = 0
        self._store, self._control = _join(rank, size, device)
        self._watch = Watch(_of_its_own(self._store), rank, size, timeout)

    def agree(self, stop: Stop) -> bool:
        number = torch.tensor(int(stop.signal or 0))
        self._reduce(number, "the next step", dist.ReduceOp.MAX)
        if int(number) and not stop:
            stop.request(int(number))
        # Not bool(stop): a signal that came since was no part of what the others were told.
        return bool(number)

    def any(self, flag: bool) -> bool:
        number = torch.tensor(int(flag))
        self._reduce(number, "all to say yes or no", dist.ReduceOp.MAX)
        return bool(number)

    def meet(self) -> None:
        self._reduce(torch.zeros(1), "all to come", dist.ReduceOp.MAX)

    def share(self, value: T) -> T:
        self._calls += 1
        key = f"share/{self._calls}"
        if self.leads:
            self._store.set(key, json.dumps(value))
            return value
        shared: T = self._fetch(key, "rank 0")
        return shared

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        with self._watch.waiting("a sum"):
            dist.all_reduce(total, group=None if total.is_cuda else self._control)
        return total

    def compare(self, facts: Mapping[str, Any]) -> None:
        self._store.set(f"facts/{self.rank}", json.dumps(dict(facts)))
        everyone = [self._fetch(f"facts/{rank}", f"rank {rank}") for rank in range(self.size)]
        for rank, theirs in enumerate(everyone):
            changed = [k for k in sorted({*facts, *theirs}) if theirs.get(k) != everyone[0].get(k)]
            if changed:
                what = ", ".join(f"{k}: {everyone[0].get(k)} -> {theirs.get(k)}" for k in changed)
                fix = "start every rank with the same command, files and versions"
                raise DistributedFault("DISAGREE", f"rank {rank}", f"rank 0 has {what}", fix)

    def beat(self, step: int | None = None) -> None:
        self._watch.beat(step)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self._watch.phase(name)

    @contextmanager
    def first(self) -> Iterator[None]:
        if not self.leads:
            self.meet()
        yield
        if self.leads:
            self.meet()

    def parallel(self, network: nn.Module) -> nn.Module:
        index = [self._device.index or 0] if self._device.type == "cuda" else None
        with warnings.catch_warnings():
            # Torch renames this argument; the new name is unknown to versions that segkit runs on.
            warnings.simplefilter("ignore", FutureWarning)
            # Buffers are averaged after each update instead: see Update.
            joined = DistributedDataParallel(
                network,
                device_ids=index,
                broadcast_buffers=False,
                # After its first step DDP arranges gradients anew, and with them the order in which
                # three or more ranks add up: a resumed run, whose first step comes later, would end
                # in other bits. Looking for unused parameters keeps the arrangement. On CUDA, where
                # bits are not promised, its cost is saved.
                find_unused_parameters=self.size > 2 and index is None,
            )
        # The loss is divided by the valid pixels of ALL ranks, so gradients add up; DDP's mean
        # would weigh a rank by its share of the batch, not of the pixels.
        joined.register_comm_hook(self._watch, _add_up)
        return joined

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(network, DistributedDataParallel)
        held: AbstractContextManager[None] = network.no_sync()
        return held

    def mean(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = self.sum(torch.cat([t.flatten() for t in tensors])) / self.size
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _fetch(self, key: str, whom: str) -> Any:
        """What a member put into the store, as soon as it is there.

        JSON, not the pickles of torch's own object collectives.
        """
        with self._watch.waiting(whom):
            while not self._store.check([key]):
                if self._watch.fault() is not None:
                    raise RuntimeError("another member failed")  # `guard` finds its fault
                time.sleep(0.01)
        return json.loads(self._store.get(key))

    def _reduce(self, tensor: Tensor, what: str, how: Any) -> None:
        with self._watch.waiting(what):
            dist.all_reduce(tensor, how, group=self._control)

    @contextmanager
    def guard(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if (fault := self._judge(error)) is not None:
                raise fault from error
            raise

    @property
    def is_heir(self) -> bool:
        gone = self._watch.gone
        return 0 in gone and self.rank == min(set(range(self.size)) - gone, default=-1)

    def on_leave(self, record: Callable[[SegkitError], None]) -> None:
        self._watch.on_leave = record

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fault = None if error is None else self._judge(error)
        self._watch.stop()
        if error is None:
            with suppress(RuntimeError):  # the last one to go may find the store closed
                dist.destroy_process_group()
        if fault is not None:
            raise fault from error

    def _judge(self, error: BaseException) -> SegkitError | None:
        """The fault of another member behind ``error``; else the others are told of ``error``.

        A lost connection shows as some RuntimeError of torch, here as in every other member.
        """
        if isinstance(error, RuntimeError) and (fault := self._watch.fault_of_others()):
            return fault
        self._watch.tell(error)
        return None


def _join(rank: int, size: int, device: torch.device) -> tuple[Any, Any]:
    """The launcher's store, and the group in which the hosts agree without waiting for devices."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    fix = "is the port free, the address reachable, every rank started? see docs/distributed.md"
    late = f"rank {rank} of {size} found no common ground within {JOIN_SECONDS:g} s"
    try:
        with deadline(JOIN_SECONDS + 1, DistributedFault("JOIN", where, late, fix)):
            wait = timedelta(seconds=JOIN_SECONDS)
            store, _, _ = next(iter(dist.rendezvous("env://", rank, size, timeout=wait)))
            again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"segkit/{again}", store)
            # Its watchdog would abort the process before the cause is known; ours looks, too.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("groups", store),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=COLLECTIVE_SECONDS),
                device_id=device if device.type == "cuda" else None,  # nccl connects now, not later
            )
            hosts = dist.new_group(backend="gloo") if device.type == "cuda" else dist.group.WORLD
    except (RuntimeError, ValueError, OSError, TimeoutError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DistributedFault("JOIN", where, f"rank {rank} of {size}: {first}", fix) from error
    return store, hosts


def _of_its_own(store: Any) -> Any:
    """Another connection to the same store: torch locks one for the whole of a blocking call."""
    return store.clone() if hasattr(store, "clone") else store


def _add_up(watch: Watch, bucket: dist.GradBucket) -> Future[Tensor]:
    watch.call()
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    added: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return added


def silence() -> None:
    """For ranks above 0: what they would print, rank 0 prints."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process
