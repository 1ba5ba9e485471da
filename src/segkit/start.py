"""What a training begins from: public weights, a file, or the network of another run."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from segkit import parts, recipe
from segkit.config import Composed
from segkit.data.labels import LabelSet
from segkit.engine import checkpoint
from segkit.errors import CheckpointError, ConfigError
from segkit.identity import flatten
from segkit.models.segmenter import Segmenter
from segkit.models.weights import Origin, load_backbone, load_whole
from segkit.randomness import integer
from segkit.record import environment_before
from segkit.restored import Trained, find, load, typed_path

# Options of a backbone that no weight depends on: its name, and which of its maps is ``low``.
_WITHOUT_WEIGHT = ("name", "low")


def fresh_network(values: parts.Values, num_classes: int, output_stride: int) -> Segmenter:
    """A network whose random start is a function of the seed."""
    torch.manual_seed(integer(values["seed"], "init"))
    return parts.network_of(values, num_classes, output_stride)


def begin(folder: Path, net: Segmenter, composed: Composed, labels: LabelSet) -> dict[str, Any]:
    """Fill ``net`` with what ``pretrained`` names and say from where; the origin as plain data.

    The run in ``folder`` that has a checkpoint takes its weights from there and keeps its own word
    for their origin. One that was killed before its first checkpoint has nothing but a folder: it
    loads. Raises what ``load_backbone`` and ``restored.load`` raise; ``CheckpointError``
    CKPT-WEIGHTS-MISMATCH for a run with another backbone; ``ConfigError`` CFG-RESUME-CHANGED where
    this run began from something else.
    """
    values = composed.values
    known = environment_before(folder).get("weights")
    if values["resume"] and known and checkpoint.steps(folder / "checkpoints"):
        check_same_start(values, known)
        return dict(known)
    point = point_of(values["pretrained"], values["runs"])
    origin = (
        from_run(net, *point, composed, labels)
        if point
        else load_backbone(
            net.backbone,
            values["pretrained"],
            source=net.backbone.imagenet,
            head=net.head,
            strict=values["pretrained_strict"],
            download=True,
        )
    )
    tell(origin)
    recipe.check_loaded(values, net, origin)
    return origin.to_dict()


def tell(origin: Origin) -> None:
    if origin.sha256:
        count, digest = origin.keys_loaded, origin.sha256[:16]
        print(f"weights: {count} tensors of {origin.file} (sha256 {digest}...)")
    if left := origin.not_loaded:
        more = f", ... ({len(left)} in all)" if len(left) > 6 else ""
        print(f"not in {origin.file}, so from random: {', '.join(left[:6])}{more}")


def point_of(pretrained: str, runs: str) -> tuple[Path, str | None] | None:
    """The checkpoint that ``pretrained`` names, by its run, its folder or a file in it, and which
    of its weights (None: those that its run validated). None where it names no checkpoint."""
    path = typed_path(pretrained)
    if path.is_file() and (path.parent / checkpoint.MANIFEST).is_file():
        return path.parent, "average" if path.name == checkpoint.AVERAGE else "raw"
    if path.is_dir() or (path.parent.is_dir() and path.parent == typed_path(runs)):
        return find(pretrained, runs, "last"), None
    return None


def from_run(
    net: Segmenter, path: Path, weights: str | None, composed: Composed, labels: LabelSet
) -> Origin:
    """Fill ``net`` with the network of the checkpoint ``path``, as far as it is the same.

    The backbone must be the same with all its options, the range of pixels among them. Of the head
    comes what fits; with other classes its classifier stays behind.
    """
    theirs = load(
        path, os=None, device=torch.device("cpu"), config_dir=composed.config_dir, weights=weights
    )
    strict = composed.values["pretrained_strict"]
    if apart := backbone_differences(theirs.config.values, composed.values):
        what = f"{theirs.run.name} has another backbone: {', '.join(apart)}"
        if strict:
            fix = f"type backbone={theirs.config.choices['backbone']} and its options"
            fix += "; pretrained_strict=false takes what fits all the same"
            raise CheckpointError("WEIGHTS-MISMATCH", composed.values["pretrained"], what, fix)
        print(what)
    loaded, left = load_whole(
        net.backbone,
        net.head,
        theirs.net.state_dict(),
        where=str(path),
        strict=strict,
        new_classifier=theirs.labels.names != labels.names,
    )
    digest = digest_of(checkpoint.manifest(path), theirs.scored)
    return Origin("run", name_of(theirs), digest, loaded, tuple(left), theirs.weights)


def name_of(theirs: Trained) -> str:
    return f"{theirs.run.name}@{theirs.step}" + (f"-{theirs.scored}" if theirs.scored else "")


def digest_of(manifest: Mapping[str, Any], weights: str | None) -> str:
    """The SHA-256 of the weights of a checkpoint: the average where there is one, unless ``raw``
    ones are meant."""
    files = manifest["files"]
    average = checkpoint.AVERAGE in files and weights != "raw"
    return str(files[checkpoint.AVERAGE if average else checkpoint.PAYLOADS[0]].get("sha256"))


def backbone_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """``style: caffe there, beta here`` for every option that differs."""
    there, here = ({**values["backbone"]} for values in (theirs, ours))
    keys = sorted((there.keys() | here.keys()) - set(_WITHOUT_WEIGHT))
    return [
        f"{key.strip('_')}: {there.get(key)} there, {here.get(key)} here"
        for key in keys
        if there.get(key) != here.get(key)
    ]


def check_same_start(values: parts.Values, known: Mapping[str, Any]) -> None:
    """A run's name says only that it began from a path; which one, its record knows."""
    if values["pretrained"] in ("imagenet", "none") or "pretrained" in values["resume_allow"]:
        return
    now = present_digest(values["pretrained"], values["runs"])
    if now and known.get("sha256") and now != known["sha256"]:
        what = f"began from {known.get('file')} ({str(known['sha256'])[:8]}), this is {now[:8]}"
        fix = "take another name=..., or go on all the same with resume_allow=[pretrained]"
        raise ConfigError("RESUME-CHANGED", "pretrained", what, fix)


def present_digest(pretrained: str, runs: str) -> str | None:
    """The SHA-256 of the weights as they are now; None where they are gone, as they may be."""
    try:
        if point := point_of(pretrained, runs):
            path, weights = point
            manifest = checkpoint.manifest(path)
            stored = flatten(manifest["config"])
            return digest_of(manifest, weights or stored.get("values.eval.weights"))
        return sha256(typed_path(pretrained).read_bytes()).hexdigest()
    except (CheckpointError, OSError):
        return None
