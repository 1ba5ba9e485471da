"""What the user sees while a run is going on."""

import sys
import time
from typing import TextIO

from tqdm import tqdm


class Progress:
    """A bar with loss, learning rate, images/s and the share of time spent waiting for data.

    Where stderr is no terminal (a log file) it is one plain line every ``every`` seconds.
    """

    def __init__(
        self,
        total: int,
        step: int,
        *,
        stream: TextIO | None = None,
        every: float = 30.0,
        shown: bool = True,
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._step, self._every = total, step, every
        self._said = time.monotonic()
        self._shown = shown
        self._bar: tqdm | None = None
        if shown and self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=step, file=self._stream, unit="step", dynamic_ncols=True
            )

    def advance(self) -> None:
        """One update was applied."""
        self._step += 1
        if self._bar is not None:
            self._bar.update()

    def show(self, *, loss: float, rate: float, speed: float, waiting: float) -> None:
        """``speed`` in images/s, ``waiting`` as a share 0..1 of the time since the last call."""
        text = f"loss {loss:.4f}, lr {rate:.2e}, {speed:.1f} images/s, data wait {waiting:.0%}"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._shown and self._is_time():
            self._said = time.monotonic()
            print(f"step {self._step}/{self._total}: {text}", file=self._stream, flush=True)

    def _is_time(self) -> bool:
        return time.monotonic() - self._said >= self._every or self._step == self._total

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
