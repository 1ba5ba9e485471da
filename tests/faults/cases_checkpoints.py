"""C2, C3, C4 rows: a damaged checkpoint ends a command with code 4 and its file's name."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from cases import Case, Prepare
from sandbox import TINY, Sandbox

from segkit.engine.checkpoint import steps
from segkit.engine.seal import digest, seal, unseal

Damage = Callable[[Path], None]
MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "checkpoint.json"
AVERAGE = "average.safetensors"


def cut(name: str, length: int) -> Damage:
    """``length`` from the start, or (negative) without the end."""

    def damage(point: Path) -> None:
        path = point / name
        path.write_bytes(path.read_bytes()[:length])

    return damage


def flip(name: str, at: int) -> Damage:
    """One bit of the byte ``at`` (negative: from the end)."""

    def damage(point: Path) -> None:
        data = bytearray((point / name).read_bytes())
        data[at] ^= 4
        (point / name).write_bytes(data)

    return damage


def taken_from_older(*names: str) -> Damage:
    """Sound files of an older step of the same run."""

    def damage(point: Path) -> None:
        for name in names:
            shutil.copy(steps(point.parent)[1] / name, point / name)

    return damage


def with_average(point: Path) -> None:
    """A sound checkpoint, as of a run with ``schedule.ema``."""
    shutil.copy(point / MODEL, point / AVERAGE)
    manifest = unseal((point / MANIFEST).read_bytes(), point)
    manifest["files"][AVERAGE] = manifest["files"][MODEL]
    (point / MANIFEST).write_bytes(seal(manifest))


def averaged(damage: Damage) -> Damage:
    """``damage`` to a checkpoint with an average."""

    def both(point: Path) -> None:
        with_average(point)
        damage(point)

    return both


def of_another_run(point: Path) -> None:
    """A sound checkpoint, of a run with another id."""
    manifest = unseal((point / MANIFEST).read_bytes(), point)
    (point / MANIFEST).write_bytes(seal({**manifest, "run": "other"}))


def of_format(number: int) -> Damage:
    def damage(point: Path) -> None:
        manifest = unseal((point / MANIFEST).read_bytes(), point)
        (point / MANIFEST).write_bytes(seal({**manifest, "format": number}))

    return damage


def not_finite(point: Path) -> None:
    """All ones in the last value, with right hashes."""
    data = (point / MODEL).read_bytes()[:-4] + b"\xff\xff\xff\xff"
    (point / MODEL).write_bytes(data)
    manifest = unseal((point / MANIFEST).read_bytes(), point)
    manifest["files"][MODEL] = {"bytes": len(data), "sha256": digest(data)}
    (point / MANIFEST).write_bytes(seal(manifest))


def newest(*words: str, damage: Damage) -> Prepare:
    """A command on the newest checkpoint, which is damaged."""

    def prepare(box: Sandbox) -> Sequence[str]:
        point = steps(box.run_folder / "checkpoints")[0]
        damage(point)
        return [*words, f"ckpt={point}", "device=cpu", "workers=0"]

    return prepare


def every(damage: Damage) -> Prepare:
    """Going on with a run of which no checkpoint is sound."""

    def prepare(box: Sandbox) -> Sequence[str]:
        for point in steps(box.run_folder / "checkpoints"):
            damage(point)
        return (*TINY, "resume=true", "resume_allow=[schedule.stages.1.steps]",
                "schedule.stages.1.steps=4")  # fmt: skip

    return prepare


# A damage, the error and the file named.
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    **{
        f"cut-{length}-{name}": (cut(name, length), "CKPT-DAMAGED", name)
        for name in (MODEL, OPTIMIZER, MANIFEST)
        for length in (0, 10, -1)
    },
    **{
        f"flip-{at}-{name}": (flip(name, at), "CKPT-DAMAGED", name)
        for name in (MODEL, OPTIMIZER, MANIFEST)
        for at in (0, -2)
    },
    "cut-10-average": (averaged(cut(AVERAGE, 10)), "CKPT-DAMAGED", AVERAGE),
    "flip-0-average": (averaged(flip(AVERAGE, 0)), "CKPT-DAMAGED", AVERAGE),
    "missing-average": (
        averaged(lambda point: (point / AVERAGE).unlink()),
        *("CKPT-MISSING", AVERAGE),
    ),
    "missing": (lambda point: (point / MODEL).unlink(), "CKPT-MISSING", MODEL),
    "older-model": (taken_from_older(MODEL), "CKPT-DAMAGED", MODEL),
    "older-optimizer": (taken_from_older(OPTIMIZER), "CKPT-DAMAGED", OPTIMIZER),
    "older-manifest": (taken_from_older(MANIFEST), "CKPT-DAMAGED", MANIFEST),
    "older-all": (taken_from_older(MODEL, OPTIMIZER, MANIFEST), "CKPT-DAMAGED", MANIFEST),
    "format-0": (of_format(0), "CKPT-FORMAT", "format 0"),
    "format-999": (of_format(999), "CKPT-FORMAT", "format 999"),
    "not-finite": (not_finite, "CKPT-NON-FINITE", MODEL),
}
ROWS = {"cut": "C2", "flip": "C3", "format": "C14", "not": "R16"}
CASES = [
    *(
        Case(
            *(ROWS.get(name.partition("-")[0], "C4"), f"eval-{name}"),
            *(newest("eval", damage=damage), 4, error, names),
            needs_run=True,
        )
        for name, (damage, error, names) in DAMAGES.items()
    ),
    *(
        Case(
            "C2", f"no-good-one-{name}", every(damage), 4, "CKPT-NONE", "none of 3", needs_run=True
        )
        for name, damage in {"cut": cut(MODEL, 100), "run": of_another_run}.items()
    ),
]
