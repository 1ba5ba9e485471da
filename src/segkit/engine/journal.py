"""The step-by-step record, written in bunches.

Reading a loss back from a GPU waits for everything queued on it. So values stay on the device
until ``flush`` fetches all of them at once.
"""

import hashlib
import json
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkit.engine.progress import Progress
from segkit.engine.record import Run
from segkit.errors import DataError, NumericsError


@dataclass(frozen=True)
class Step:
    """One update: ``step`` counts it in, ``pixels`` is what its loss was divided by."""

    step: int
    stage: str
    rate: float
    loss: Tensor
    gradient_norm: Tensor
    pixels: Tensor
    ids: Sequence[str]
    origin: Mapping[str, Any]


class Journal:
    """Writes each step once, and stops the run at the first that is not finite."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._steps: list[Step] = []
        self._void_told = False
        self._void_from: int | None = None  # the epoch since which no pixel is labelled
        self.restart()

    def restart(self) -> None:
        """Start the clock of the next bunch: validation and saving are not training time."""
        self._began, self._waited = time.monotonic(), 0.0

    def add(self, step: Step, waited: float) -> None:
        """``waited``: seconds that this step waited for its data."""
        self._steps.append(step)
        self._waited += waited
        self._progress.advance()

    def flush(self, last_sha256: str | None = None) -> None:
        """Write what was added. Raises NumericsError for a loss or gradient that is not finite;
        the steps before it are written, and what its batch was made of goes into ``logs/``, with
        ``last_sha256`` where it is the last step's. Raises DataError for an epoch of void alone.
        """
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        rows = [_row(step, *values) for step, values in zip(steps, _fetch(steps), strict=True)]
        fine = [row for row in rows if math.isfinite(row["loss"] + row["gradient_norm"])]
        bad = next((i for i, row in enumerate(rows) if row not in fine), len(rows))
        self._run.log_metrics(rows[:bad])
        for step, row in zip(steps[:bad], rows, strict=False):
            self._show(step, row)
        if bad < len(rows):
            known = last_sha256 if bad == len(rows) - 1 else None
            raise self._not_finite(steps[bad], rows[bad], known)
        self._time(steps, rows[-1])

    def _show(self, step: Step, row: dict[str, Any]) -> None:
        named = {f"train/{key}": row[key] for key in ("loss", "lr", "gradient_norm")}
        self._run.scalars(step.step, named)
        self._check_labelled(step, row)
        if row["pixels"] == 0 and not self._void_told:
            self._void_told = True
            self._run.notice(
                f"step {step.step}: no labelled pixel in the whole batch ({', '.join(step.ids)}); "
                "its loss counts 0 (said once)"
            )

    def _check_labelled(self, step: Step, row: dict[str, Any]) -> None:
        """DataError once a whole epoch went by without one labelled pixel."""
        epochs = step.origin.get("epochs")
        if row["pixels"] or not epochs:
            self._void_from = None
            return
        if self._void_from is None:
            self._void_from = max(epochs)
        if min(epochs) >= self._void_from + 2:
            what = "a whole epoch without one labelled pixel: there is nothing to learn from"
            raise DataError("VOID", f"stage {step.stage}", what, "see segkit data check")

    def _time(self, steps: Sequence[Step], last: dict[str, Any]) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = sum(len(step.ids) for step in steps) / seconds
        waiting = min(1.0, self._waited / seconds)
        row = {"step": last["step"], "seconds": seconds, "images_per_second": speed}
        self._run.log_timing([row | {"data_wait": waiting}])
        self._run.scalars(last["step"], {"time/images_per_second": speed, "time/wait": waiting})
        self._progress.show(loss=last["loss"], rate=last["lr"], speed=speed, waiting=waiting)
        self.restart()

    def _not_finite(self, step: Step, row: dict[str, Any], sha256: str | None) -> NumericsError:
        # NaN and infinity are no JSON: values as text, all that makes the batch again as it is.
        facts: dict[str, Any] = {key: str(value) for key, value in row.items()}
        facts["step"] = step.step
        facts |= {"ids": list(step.ids), **step.origin, "batch_sha256": sha256}
        name = f"non-finite-step-{step.step:08d}.json"
        path = self._run.write_log(name, json.dumps(facts, indent=1) + "\n")
        return NumericsError(
            "NON-FINITE",
            self._run.folder,
            f"step {step.step}: loss {row['loss']}, gradient norm {row['gradient_norm']}, "
            f"learning rate {step.rate:g}; the update was not applied; samples "
            + ", ".join(step.ids[:4]) + (", ..." if len(step.ids) > 4 else ""),
            f"all of them are in {path.name}; lower the learning rate, or look at those samples",
        )  # fmt: skip


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' values, one after the other."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().cpu().numpy().data)
    return found.hexdigest()


def _fetch(steps: Sequence[Step]) -> list[list[float]]:
    values = [torch.stack([s.loss, s.gradient_norm, s.pixels]).double() for s in steps]
    fetched: list[list[float]] = torch.stack(values).tolist()
    return fetched


def _row(step: Step, loss: float, norm: float, pixels: float) -> dict[str, Any]:
    return {
        "step": step.step,
        "stage": step.stage,
        "lr": step.rate,
        "loss": loss,
        "gradient_norm": norm,
        "pixels": pixels,
        # Evidence of which samples the step saw, in which order.
        "samples": f"{zlib.crc32('|'.join(step.ids).encode()):08x}",
    }
