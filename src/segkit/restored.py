"""A trained network out of a run: which checkpoint, which config, whose data."""

import copy
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from segkit import parts
from segkit.config import Composed
from segkit.data.labels import LabelSet
from segkit.engine import checkpoint
from segkit.engine.record import read_status
from segkit.errors import CheckpointError, ConfigError
from segkit.identity import digest
from segkit.inference import crf_presets
from segkit.models.segmenter import Segmenter
from segkit.models.weights import load_segmenter
from segkit.ranks import place
from segkit.record import notice
from segkit.rules import check, idle
from segkit.stored import restore, with_places

# What an evaluation takes from the run unless it is typed: the data set's own protocol.
INHERITED = ("tta", "densecrf", "eval")


@dataclass(frozen=True)
class Trained:
    """A network with its weights, its config, its labels and where all of it came from.

    ``scored`` says which weights these are where the checkpoint has an average beside the raw ones.
    """

    net: Segmenter
    config: Composed
    labels: LabelSet
    path: Path
    run: Path
    step: int
    train_os: tuple[int, ...]
    weights: Mapping[str, Any]
    digest: str
    scored: Literal["average", "raw"] | None

    @property
    def kind(self) -> str:
        """``last`` or ``best`` where the checkpoint is that of its run, else ``step``."""
        found = checkpoint.steps(self.path.parent)
        if found and found[0] == self.path:
            return "last"
        with suppress(CheckpointError):
            return "best" if checkpoint.best(self.run) == self.path else "step"
        return "step"


def find(ckpt: str | None, runs: str, kind: str) -> Path:
    """The checkpoint folder meant by ``ckpt`` (a run or a checkpoint; null: newest finished run).

    Raises ``CheckpointError`` with what to type when there is none.
    """
    home = typed_path(runs)
    run = newest_finished(home) if ckpt is None else typed_path(ckpt)
    if re.match(r"\w+://", str(ckpt)):
        raise CheckpointError("MISSING", ckpt, "is an address; checkpoints are read from disk only")
    if run.is_file() and run.name == checkpoint.MANIFEST:
        run = run.parent
    if (run / checkpoint.MANIFEST).exists():
        return run
    if run.is_file():
        fix = "ckpt= takes a run or checkpoint folder; foreign weights go to pretrained="
        raise CheckpointError("FORMAT", run, "is a file, not a checkpoint folder", fix)
    if not run.is_dir():
        known = [p.name for p in sorted(home.glob("*")) if (p / "run.json").exists()]
        fix = f"runs in {runs}: {', '.join(known[-5:]) or 'none'}"
        raise CheckpointError("MISSING", run, "no such run", fix)
    return checkpoint.best(run) if kind == "best" else checkpoint.newest(run)


def typed_path(text: str) -> Path:
    """A path as typed: a shell leaves the ~ of ``runs=~/here`` alone."""
    with suppress(RuntimeError):  # ~ of nobody known here
        return Path(text).expanduser()
    return Path(text)


def newest_finished(runs: Path) -> Path:
    """The run with the latest ``finished_at`` among those that finished."""
    ended = {
        run: str(status.get("finished_at", ""))
        for run in sorted(runs.glob("*"))
        if (status := read_status(run)).get("state") == "finished"
    }
    if not ended:
        fix = "train one (segkit train ...) or type ckpt=/path/to/run"
        raise CheckpointError("NO-RUN", runs, "holds no finished run", fix)
    return max(ended, key=lambda run: ended[run])


def load(
    path: Path,
    *,
    os: int | None,
    device: torch.device,
    config_dir: str | None,
    weights: str | None = None,
) -> Trained:
    """Rebuild the network of the checkpoint ``path`` at output stride ``os`` (null: its own).

    The network is in eval mode on ``device``. ``weights`` is ``auto``, ``average`` or ``raw``
    (null: what the run validated); ConfigError CFG-AVERAGE for an average that is not there.
    """
    saved = checkpoint.load(path)
    stored = with_places(saved.config, path.parent.parent)
    config = restore(stored, config_dir, path / checkpoint.MANIFEST)
    check_values(config, path / checkpoint.MANIFEST)
    labels = LabelSet.from_dict(saved.labels)
    train_os = tuple(int(stage["os"]) for stage in parts.stages_of(config.values))
    net = parts.network_of(config.values, labels.num_classes, os or train_os[-1])
    scored, tensors = chosen(weights or config.values["eval"]["weights"], saved)
    load_segmenter(net, tensors, where=str(path))
    net.eval()
    if blank := blank_head(saved.config.get("weights") or {}):
        notice(f"{path}: {blank} and nothing has trained it: its predictions mean nothing")
    return Trained(
        net=net.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        config=config,
        labels=labels,
        path=path,
        run=path.parent.parent,
        step=saved.step,
        train_os=train_os,
        weights=saved.config.get("weights") or {},
        # Over the values as stored: a key that segkit gained since is no part of that run.
        digest=digest(saved.config["values"]),
        scored=scored,
    )


def blank_head(weights: Mapping[str, Any]) -> str:
    """What an import left at random in the head; empty where it left nothing."""
    missing = [str(name) for name in weights.get("not_loaded") or ()]
    head = [name for name in missing if name.startswith("head.")]
    if weights.get("kind") != "import" or not head:
        return ""
    return f"the imported file has no {head[0]}" + (
        f" (and {len(head) - 1} more)" if head[1:] else ""
    )


def asked_for(command: Composed, path: Path, device: torch.device) -> Trained:
    """The network of the checkpoint ``path`` as eval and predict were told to take it.

    An untyped ``eval.weights`` is left to the run, which has a word of its own.
    """
    values = command.values
    typed = "eval.weights" in typed_keys(command)
    return load(
        path,
        os=values["os"],
        device=device,
        config_dir=command.config_dir,
        weights=values["eval"]["weights"] if typed else None,
    )


def chosen(
    weights: str, saved: checkpoint.Checkpoint
) -> tuple[Literal["average", "raw"] | None, dict[str, Tensor]]:
    """The tensors that ``weights`` means, and which they are where there is a choice."""
    if saved.average is not None:
        return ("raw", saved.model) if weights == "raw" else ("average", saved.average)
    if weights == "average":
        what = f"{saved.path} holds no average of the weights"
        fix = "leave it at auto; training keeps an average with schedule.ema=0.999"
        raise ConfigError("AVERAGE", "eval.weights", what, fix)
    return None, saved.model


def check_values(config: Composed, where: Path) -> None:
    """The rules of a config, broken by a checkpoint."""
    try:
        check(config.values, to_run=False)
    except ConfigError as error:
        raise CheckpointError("CONFIG", where, f"{error.where}: {error.what}", error.fix) from error


def protocol(command: Composed, run: Composed) -> dict[str, Any]:
    """What ``inherit`` gives; stderr is told which of the words that were typed change nothing."""
    values = inherit(command, run)
    if place().rank == 0:
        for said in idle(values, typed_keys(command)):
            print(f"note: {said}", file=sys.stderr)
    return values


def inherit(command: Composed, run: Composed) -> dict[str, Any]:
    """The command's values; what was not typed about data and protocol comes from the run."""
    values = dict(command.values)
    if values.get("dataset") is not None:  # another data set brings its own protocol
        values["dataset"] = dict(values["dataset"]) | {"name": command.choices["dataset"]}
        return values
    typed = typed_keys(command)
    typed |= crf_presets.keys_of(typed)
    for node in INHERITED:
        values[node] = _with_the_runs(dict(values[node]), run.values[node], node, typed)
    values["dataset"] = with_typed(copy.deepcopy(run.values["dataset"]), command.typed)
    values["dataset"]["name"] = run.choices["dataset"]  # a label that a signature can trust
    return values


def _with_the_runs(
    mine: dict[str, Any], runs: Mapping[str, Any], key: str, typed: set[str]
) -> dict[str, Any]:
    """``mine`` with the run's values of what both have and nobody typed."""
    for name in mine.keys() & runs.keys():
        inner = f"{key}.{name}"
        if isinstance(mine[name], dict):
            mine[name] = _with_the_runs(dict(mine[name]), runs[name], inner, typed)
        elif inner not in typed:
            mine[name] = runs[name]
    return mine


def typed_keys(command: Composed) -> set[str]:
    return {override.split("=")[0].lstrip("+~") for override in command.typed}


def with_typed(dataset: dict[str, Any], typed: tuple[str, ...]) -> dict[str, Any]:
    """``dataset`` with the ``dataset.key=value`` overrides of this command.

    Unknown keys are named when the data set is made: only its signature knows them all.
    """
    for override in typed:
        key, _, text = override.partition("=")
        if not key.startswith("dataset."):
            continue
        *nodes, name = key.removeprefix("dataset.").split(".")
        node = dataset
        for part in nodes:
            node = node.setdefault(part, {})
        node[name] = yaml.safe_load(text)
    return dataset
