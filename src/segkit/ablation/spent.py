"""What the trainings and scores of a row cost: hours, and on what."""

import json
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from segkit.ablation import scored
from segkit.engine.record import read_status
from segkit.report.decimals import rounded


def spent(run: Path) -> dict[str, Any]:
    """``hours`` of a training's updates so far (None: none), and the machine it ran on.

    Hours are those of every GPU together (``kind`` "GPU hours"); on a CPU, those of the clock.
    """
    seconds = sum((Fraction(row["seconds"]) for row in scored.timing(run)), Fraction(0))
    machine = _machine(run)
    hours = seconds / 3600 * machine.pop("ranks")
    return {"hours": float(rounded(hours, 4)) if seconds else None, **machine}


def hours_of(runs: Sequence[Path], scores: Sequence[Path]) -> dict[str, Any] | None:
    """Hours of a row's trainings and evaluations over all seeds; None before all are there."""
    trainings = [spent(run) for run in runs]
    finished = [read_status(run).get("state") == "finished" for run in runs]
    seconds = [_seconds(path) for path in scores]
    if not trainings or not all(finished) or None in seconds:
        return None
    if any(training["hours"] is None for training in trainings):
        return None
    evaluated = sum((s for s in seconds if s is not None), Fraction(0)) / 3600
    return {
        "training": float(rounded(sum((_exact(t["hours"]) for t in trainings), Fraction(0)), 4)),
        "evaluation": float(rounded(evaluated, 4)),
        "kind": " and ".join(sorted({training["kind"] for training in trainings})),
        "card": ", ".join(sorted({training["card"] for training in trainings})),
    }


def _exact(number: float) -> Fraction:
    return Fraction(Decimal(repr(number)))


def _machine(run: Path) -> dict[str, Any]:
    try:
        known = json.loads((run / "environment.json").read_bytes())
        cuda = str(known["device"]).startswith("cuda")
        ranks = int(known.get("ranks", 1)) if cuda else 1
        card = known["card"] if cuda else f"{known['cores']} cores"
    except (OSError, ValueError, KeyError, TypeError):
        return {"kind": "hours", "card": "unknown", "ranks": 1}
    return {"kind": "GPU hours" if cuda else "CPU hours", "card": str(card), "ranks": ranks}


def _seconds(path: Path) -> Fraction | None:
    try:
        score = scored.read_score(path)
        return None if score is None else Fraction(score["seconds"]["total"])
    except (ValueError, KeyError, TypeError):
        return None
