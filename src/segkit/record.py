"""A run's identity on disk: what a resume may change, what a fresh start is near to."""

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from segkit import parts
from segkit.config import Composed
from segkit.data.labels import LabelSet
from segkit.engine.record import Run
from segkit.errors import CheckpointError, ConfigError
from segkit.identity import differences, identity
from segkit.randomness import integer
from segkit.ranks import place
from segkit.stored import folder_values, for_checkpoint, for_folder


def open_run(
    folder: Path,
    composed: Composed,
    labels: LabelSet,
    weights: Mapping[str, Any],
    device: torch.device,
) -> Run:
    """Create or take up the run folder; notices go to stderr."""
    environment = environment_now(device) | {"weights": weights}
    changed = differences_from(environment_before(folder), environment)
    if composed.values["resume"] and changed:
        notice(f"not bit-exact because {changed}")
    return Run.open(
        folder,
        resume=composed.values["resume"],
        run_id=f"{folder.name}-{integer(composed.values['seed'], folder.name):016x}",
        config_text=yaml.safe_dump(for_folder(composed), sort_keys=False),
        environment=environment,
        config=for_checkpoint(composed) | {"weights": weights},
        labels=labels.to_dict(),
        notice=notice,
        tensorboard=composed.values["log"]["tensorboard"],
        not_bit_exact=changed,
    )


def notice(text: str) -> None:
    print(f"segkit: {text}", file=sys.stderr, flush=True)


def environment_now(device: torch.device) -> dict[str, Any]:
    """What bit-identity depends on, and what a reader of the record wants to know."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        **parts.versions(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "device": device.type,
        "card": card,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": parts.cores(),
        "ranks": place().size,
    }


def environment_before(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "environment.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def differences_from(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a resumed run can no longer end in the same bits; empty where it can."""
    watched = ("torch", "device", "cpu_capability", "threads", "ranks")
    changed = [f"{k} {before[k]} -> {now[k]}" for k in watched if before.get(k, now[k]) != now[k]]
    return ", ".join(changed)


def check_resume(folder: Path, composed: Composed) -> None:
    """Refuse a resume that would mix two configs; say what a fresh start is near to."""
    values = composed.values
    if not values["resume"]:
        return
    unknown = [k for k in values["resume_allow"] if k not in identity(values)]
    if unknown:
        raise ConfigError(
            "UNKNOWN-KEY",
            "resume_allow",
            f"no such key, or one that may always differ: {', '.join(unknown)}",
        )
    if (folder / "run.json").is_file() and not folder_values(folder):
        fix = "put the file back, or start another run with name=..."
        raise CheckpointError("DAMAGED", folder / "config.yaml", "is missing or unreadable", fix)
    if (folder / "config.yaml").is_file():
        changed = differences(folder_values(folder), composed.written)
        refused = {k: v for k, v in changed.items() if k not in values["resume_allow"]}
        if refused:
            what = ", ".join(f"{k}: {old} -> {new}" for k, (old, new) in refused.items())
            fix = "allow keys by name with resume_allow=[...], or take another name="
            raise ConfigError("RESUME-CHANGED", folder, what, fix)
        return
    near = [
        (len(changed), path.name, changed)
        for path in Path(values["runs"]).expanduser().glob("*")
        if (path / "config.yaml").is_file()
        and (changed := differences(folder_values(path), composed.written))
    ]
    if near:
        _, name, changed = min(near, key=lambda entry: entry[:2])
        keys = ", ".join(list(changed)[:5])
        notice(f"fresh start; the nearest run is {name}, which differs in {keys}")
