"""Work beside the training: a copy of the state to work on, and a thread that does it.

Loader workers are forked while the thread works, and a lock that it holds at that moment is held
in them for ever. So it takes none that a worker asks for: it does files, hashing and NumPy, and
what it has to say is said by the thread that waits for it (a stream such as stderr has a lock).
"""

import mmap
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from segkit.engine import payload
from segkit.limits import free_memory

_ALIGNED = 64


class Task:
    """``work`` in a thread of its own. What it raises is raised where its end is waited for."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        # Not waited for at the end of the process: whoever started it does, or leaves at once.
        thread = threading.Thread(target=self.run, name="saving", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the limit of threads is reached, which need not end the run
            self.run()

    def run(self) -> None:
        """The work in this very thread; nothing is raised."""
        try:
            self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait(self) -> None:
        """Wait for the end, and raise what the work raised. Signals are handled meanwhile."""
        self._ended.wait()
        if self._error is not None:
            raise self._error


class Copies:
    """Copies of tensors on the host, in memory that is kept for the next ones.

    It is as much as one state has: weights, momentum and, where there is one, the average, about
    the size of a checkpoint. It is a mapping of its own, which the system has back with the last
    of the copies: what the C library's heap was once given may stay there (``segkit.allocator``).
    (Page-locked, for tensors of a GPU: torch rounds that up to a power of two.)
    """

    def __init__(self) -> None:
        self._room = torch.empty(0, dtype=torch.uint8)
        self._copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def take(
        self, states: Sequence[Mapping[str, Tensor]], later: Iterable[Tensor] = ()
    ) -> list[dict[str, Tensor]]:
        """``states`` as they are now; those taken before are overwritten.

        ``later``: tensors like those that will be taken, so that the first room is enough for
        them (what nothing was copied to yet takes no memory). Copies keep the layout, so that this
        is as fast as memory. Those of a GPU's tensors are under way when it returns, see ``wait``.
        Raises MemoryError if there is no room.
        """
        tensors = [tensor for state in states for tensor in state.values()]
        ends = list(accumulate(_padded(tensor.nbytes) for tensor in tensors))
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        needed = max(ends[-1] if ends else 0, sum(_padded(tensor.nbytes) for tensor in later))
        self._make_room(needed, pinned=device is not None)
        places = iter(zip([0, *ends], tensors, strict=False))
        taken = [{name: self._copy(*next(places)) for name in state} for state in states]
        if device is not None:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))
        return taken

    def wait(self) -> None:
        """Until what was taken is there."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, start: int, tensor: Tensor) -> Tensor:
        place = self._room[start : start + tensor.nbytes].view(tensor.dtype)
        strides = torch.empty_like(tensor, device="meta").stride()
        place = place.as_strided(tensor.shape, strides)
        if tensor.device.type == "cpu":
            # torch would share this out among threads that wait for each other: on a machine with
            # other work up to twenty times slower than NumPy's plain copy.
            np.copyto(payload.plain(place), payload.plain(tensor))
            return place
        # After what the GPU has been told to do already, and before what it will be told.
        return place.copy_(tensor, non_blocking=True)

    def _make_room(self, needed: int, pinned: bool) -> None:
        if needed <= len(self._room):
            return
        self._room = torch.empty(0, dtype=torch.uint8)  # not both at once
        free = free_memory()
        # Asking the system is no answer: it promises more than it has, and kills who believes it.
        if free is not None and needed > free:
            raise MemoryError(f"a copy of the state needs {needed} bytes, {free} are free")
        self._room = _memory(needed, pinned)


def _memory(needed: int, pinned: bool) -> Tensor:
    if pinned:
        try:
            return torch.empty(needed, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # page-locked memory has limits of its own
            pass
    try:
        room = mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"a copy of the state needs {needed} bytes ({error})") from error
    if hasattr(mmap, "MADV_DONTFORK"):  # or a forked worker would have it for as long as it lives
        room.madvise(mmap.MADV_DONTFORK)
    return torch.from_numpy(np.frombuffer(room, dtype=np.uint8))


def _padded(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED
