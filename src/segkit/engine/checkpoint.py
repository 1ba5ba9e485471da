"""Checkpoints: a folder that is whole or absent, and says itself whether it is sound.

checkpoints/step-00000120/model.safetensors       plain safetensors, also for others to read
                          optimizer.safetensors   <parameter name>.<state>, for example
                                                  backbone.conv1.weight.momentum_buffer
                          average.safetensors     the averaged weights, of a run that has them;
                                                  names and shapes as in model.safetensors
                          checkpoint.json         everything else, and the hashes of all of them
checkpoints/latest.json, best.json                hints; nothing depends on latest.json
"""

import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.engine import payload
from segkit.engine.seal import digest, seal, tensors_from, unseal
from segkit.errors import CheckpointError, SegkitError
from segkit.whole_files import faults, sync_folder, temporary, write_whole

FORMAT = 1
MANIFEST = "checkpoint.json"
PAYLOADS = ("model.safetensors", "optimizer.safetensors")
AVERAGE = "average.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; tensors are on the CPU and contiguous.

    ``step`` counts the applied updates of the whole run, ``stage`` is the index of the stage
    they ended in, ``config`` and ``labels`` are the plain data handed to ``save``. ``average`` is
    None where the run has no average of its weights.
    """

    path: Path
    run: str
    step: int
    stage: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] | None
    config: dict[str, Any]
    labels: dict[str, Any]


def save(
    folder: Path,
    *,
    run: str,
    step: int,
    stage: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    config: Mapping[str, Any],
    labels: Mapping[str, Any],
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``folder``/step-XXXXXXXX; returns its path. No pointer names it yet.

    Raises EnvironmentFault when the disk does (the partial folder is removed, older checkpoints
    stay), NumericsError for a tensor that is not finite.
    """
    tensors = dict(zip(PAYLOADS, (model, optimizer), strict=True))
    if average is not None:
        tensors[AVERAGE] = average
    said = {"format": FORMAT, "run": run, "step": step, "stage": stage}
    target = folder / f"step-{step:08d}"
    _publish(target, tensors, {**said, "config": config, "labels": labels})
    return target


def _publish(
    target: Path, payloads: Mapping[str, Mapping[str, Tensor]], said: Mapping[str, Any]
) -> None:
    """Make the folder ``target`` of ``payloads`` and a manifest with what is ``said`` appear whole,
    by one rename.
    """
    fresh, files = temporary(target), {}
    sizes = {name: payload.size(tensors) for name, tensors in payloads.items()}
    with faults(target, sum(sizes.values())):
        try:
            fresh.mkdir()
            for name, tensors in payloads.items():
                sha256 = payload.write(fresh / name, tensors)
                _read_back(fresh / name, sha256)
                files[name] = {"bytes": sizes[name], "sha256": sha256}
            # The manifest last: a folder copied half way by somebody else has none.
            text = memoryview(seal({**said, "files": files}))
            _read_back(fresh / MANIFEST, payload.write_hashed(fresh / MANIFEST, [text]))
            sync_folder(fresh)
            _remove(target)  # there only if it is damaged and the run fell back behind it
            fresh.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _read_back(path: Path, sha256: str) -> None:
    if payload.hash_of(path) != sha256:
        raise OSError(None, "what was read back differs from what was written")


def _remove(folder: Path) -> None:
    """Rename first: a kill in the middle of deleting must not leave half a checkpoint."""
    doomed = temporary(folder)
    with faults(folder, 0), suppress(FileNotFoundError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _point(pointer: Path, target: Path) -> None:
    write_whole(pointer, seal({"checkpoint": target.name}))


def mark_latest(path: Path) -> None:
    """Point ``latest.json`` at the checkpoint ``path``."""
    _point(path.parent / "latest.json", path)


def mark_best(path: Path) -> None:
    """Point ``best.json`` at the checkpoint ``path``."""
    _point(path.parent / "best.json", path)


def best(run: Path) -> Path:
    """The checkpoint ``best.json`` of the run folder names; CheckpointError if there is none."""
    pointer = run / "checkpoints" / "best.json"
    name = unseal(_read(pointer), pointer).get("checkpoint")
    if not isinstance(name, str) or not _step_of(name):
        raise CheckpointError("DAMAGED", pointer, f"names {name!r}")
    return pointer.parent / name


def retire(newest: Path, keep: int, spared: Collection[str] = ()) -> None:
    """Remove what is older than the ``keep`` newest up to ``newest``, except the best and those
    whose names are ``spared``.

    Call it when ``newest`` is saved and verified. Later steps are left alone: they are damaged
    ones that the run fell back behind, and must not push out the sound ones.
    """
    kept = {newest.name, *spared}
    with suppress(CheckpointError):
        kept.add(best(newest.parent.parent).name)
    passed = [path for path in steps(newest.parent) if path.name <= newest.name]
    for path in passed[keep:]:
        if path.name not in kept:
            _remove(path)


def steps(folder: Path) -> list[Path]:
    """The checkpoint folders in ``folder``, highest step first, sound or not."""
    found = [path for path in folder.glob("step-*") if _step_of(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _step_of(name: str) -> re.Match[str] | None:
    return re.fullmatch(r"step-(\d{8,})", name)


def newest(
    run: Path,
    skipped: Callable[[SegkitError], None] = lambda _: None,
    *,
    run_id: str | None = None,
) -> Path:
    """The newest sound checkpoint of the run folder ``run``.

    Goes by step and content, never by time or by ``latest.json``. ``skipped`` is told about
    each broken one passed over. Raises CheckpointError if none is left: a run with nothing but
    broken checkpoints must not start afresh in silence.
    """
    found = steps(run / "checkpoints")
    _check_hint(run / "checkpoints" / "latest.json", skipped)
    for path in found:
        try:
            load(path, run_id=run_id)
        except SegkitError as error:
            skipped(error)
        else:
            return path
    what = f"none of {len(found)} checkpoints is sound" if found else "holds no checkpoint"
    raise CheckpointError("NONE", run / "checkpoints", what, "start a new run with name=...")


def _check_hint(pointer: Path, skipped: Callable[[SegkitError], None]) -> None:
    if pointer.exists():
        try:
            unseal(_read(pointer), pointer)
        except SegkitError as error:
            skipped(error)


def load(path: Path, *, run_id: str | None = None) -> Checkpoint:
    """The checkpoint in the folder ``path``, every byte of it checked.

    Raises CheckpointError naming the file that is missing, torn, altered, of another step or
    (given ``run_id``) of another run, or not finite; RefusedError for a crafted payload.
    """
    said = manifest(path, run_id=run_id)
    files = {n: _payload(path / n, said["files"][n]) for n in _payloads(said)}
    tensors = {name: tensors_from(data, path / name) for name, data in files.items()}
    model, optimizer = (tensors[name] for name in PAYLOADS)
    bound = {key: said[key] for key in ("run", "step", "stage", "config", "labels")}
    return Checkpoint(path, model=model, optimizer=optimizer, average=tensors.get(AVERAGE), **bound)


def manifest(path: Path, *, run_id: str | None = None) -> dict[str, Any]:
    """What the checkpoint in the folder ``path`` says of itself, checked but for its payloads.

    ``files`` has the ``sha256`` and ``bytes`` of each. Raises CheckpointError as ``load`` does.
    """
    place = path / MANIFEST
    said = unseal(_read(place), place)
    _check_manifest(said, path, run_id)
    return said


def _payloads(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    return (*PAYLOADS, AVERAGE) if AVERAGE in manifest["files"] else PAYLOADS


_MANIFEST_TYPES = {
    "run": str, "step": int, "stage": int, "files": dict, "config": dict, "labels": dict,
}  # fmt: skip


def _check_manifest(manifest: Mapping[str, Any], path: Path, run_id: str | None) -> None:
    place = path / MANIFEST
    if manifest.get("format") != FORMAT:
        what = f"format {manifest.get('format')!r} is not known"
        raise CheckpointError("FORMAT", place, what, f"this version reads format {FORMAT}")
    for key, kind in _MANIFEST_TYPES.items():
        if not isinstance(manifest.get(key), kind):
            raise CheckpointError("DAMAGED", place, f"{key} is not a {kind.__name__}")
    for name in _payloads(manifest):
        if not isinstance(manifest["files"].get(name), dict):
            raise CheckpointError("DAMAGED", place, f"lists no {name}")
    named = _step_of(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise CheckpointError("DAMAGED", place, f"belongs to step {manifest['step']}")
    if run_id is not None and manifest["run"] != run_id:
        what = f"belongs to run {manifest['run']!r}, not to {run_id!r}"
        raise CheckpointError("OTHER-RUN", place, what)


def _payload(path: Path, claim: Mapping[str, Any]) -> bytes:
    size = path.stat().st_size if path.is_file() else None
    if size is not None and size != claim.get("bytes"):  # before reading what may be huge
        what = f"has {size} bytes, its manifest says {claim.get('bytes')}"
        raise CheckpointError("DAMAGED", path, what)
    data = _read(path)
    if digest(data) != claim.get("sha256"):
        raise CheckpointError("DAMAGED", path, "does not match its sha256 in " + MANIFEST)
    return data


def _read(path: Path) -> bytes:
    if not path.is_file():  # also keeps a FIFO from blocking
        raise CheckpointError("MISSING", path, "is not there")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError("UNREADABLE", path, error.strerror or str(error)) from error


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Copy ``tensors`` into ``model``; CheckpointError unless names and shapes match exactly."""
    own = model.state_dict()
    wrong = {
        "missing": [name for name in own if name not in tensors],
        "unknown": sorted(name for name in tensors if name not in own),
        "of another shape": [n for n in own if n in tensors and own[n].shape != tensors[n].shape],
    }
    if any(wrong.values()):
        counts = "; ".join(
            f"{len(names)} {how} ({', '.join(names[:3])})" for how, names in wrong.items() if names
        )
        fix = "the model must be the one that was saved: same head, backbone and classes"
        raise CheckpointError("MISMATCH", where, f"{counts} of {len(own)} tensors", fix)
    model.load_state_dict(tensors)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by parameter name; learning rates are not state here."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    where: object,
) -> None:
    """Give ``optimizer`` the state saved by ``optimizer_state``, in the parameters' own layout.

    Raises CheckpointError if a tensor fits no parameter, or a trained parameter has none.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    owners = {name: p for name, p in model.named_parameters() if id(p) in held}
    for full, tensor in tensors.items():
        name, _, key = full.rpartition(".")
        parameter = owners.get(name)
        if parameter is None or tensor.shape not in (parameter.shape, ()):
            raise CheckpointError("OPTIMIZER", where, f"{full} fits no trained parameter")
        optimizer.state[parameter][key] = _like(parameter, tensor)
    bare = [name for name, p in owners.items() if tensors and p not in optimizer.state]
    if bare:
        raise CheckpointError("OPTIMIZER", where, f"no state for {', '.join(bare[:3])}")


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
