"""What the trainings and scores of a row cost: hours, and on what."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from segkit.ablation import scored
from segkit.ablation.cells import printed
from segkit.engine.record import read_status
from segkit.report.decimals import rounded


def spent(run: Path) -> dict[str, Any]:
    """``hours`` of a training's updates so far (None: none), and the machine it ran on.

    On a GPU hours are those of all its GPUs together (``kind`` "hours (NVIDIA H200)"); on a CPU
    those of the clock ("hours (CPU)").
    """
    seconds = sum((Fraction(row["seconds"]) for row in scored.timing(run)), Fraction(0))
    machine = _machine(run)
    hours = seconds / 3600 * machine.pop("ranks")
    return {"hours": float(rounded(hours, 4)) if seconds else None, **machine}


def hours_of(runs: Sequence[Path], scores: Sequence[Path]) -> dict[str, Any] | None:
    """Hours of a row's trainings and evaluations over all seeds; None before all are there.

    ``kind`` names what both ran on. Of a search of the CRF's parameters no time is recorded: it is
    in neither.
    """
    trainings = [spent(run) for run in runs]
    finished = [read_status(run).get("state") == "finished" for run in runs]
    evaluations = [_evaluated(path) for path in scores]
    if not trainings or not all(finished) or None in evaluations:
        return None
    if any(training["hours"] is None for training in trainings):
        return None
    known = [found for found in evaluations if found is not None]
    evaluated = sum((seconds for seconds, _ in known), Fraction(0)) / 3600
    kinds = {training["kind"] for training in trainings}
    on_gpu = kinds - {_CPU}
    for _, device in known:
        # A score says that it was a GPU, and not which: it is taken for that of the training.
        kinds |= {_CPU} if device == "cpu" else on_gpu or {"hours (GPU)"}
    return {
        "training": float(rounded(sum((printed(t["hours"]) for t in trainings), Fraction(0)), 4)),
        "evaluation": float(rounded(evaluated, 4)),
        "kind": " and ".join(sorted(kinds)),
        "card": ", ".join(sorted({training["card"] for training in trainings})),
    }


_CPU = "hours (CPU)"


def _machine(run: Path) -> dict[str, Any]:
    try:
        known = json.loads((run / "environment.json").read_bytes())
        cuda = str(known["device"]).startswith("cuda")
        ranks = int(known.get("ranks", 1)) if cuda else 1
        card = known["card"] if cuda else f"{known['cores']} cores"
    except (OSError, ValueError, KeyError, TypeError):
        return {"kind": "hours", "card": "unknown", "ranks": 1}
    return {"kind": f"hours ({card})" if cuda else _CPU, "card": str(card), "ranks": ranks}


def _evaluated(path: Path) -> tuple[Fraction, str] | None:
    """Seconds, and the device that the signature names."""
    try:
        score = scored.read_score(path)
        if score is None:
            return None
        return Fraction(score["seconds"]["total"]), str(score["signature"]["device"])
    except (ValueError, KeyError, TypeError):
        return None
