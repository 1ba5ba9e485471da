"""``segkit model import FILE``: another project's checkpoint -> a run with one checkpoint.

The file gives tensors and nothing else: names and shapes tell which network they are, what they do
not tell is typed as config. The run is for eval and predict; there is nothing to resume.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit import parts
from segkit.config import Composed, compose
from segkit.data.labels import CAMVID, CITYSCAPES, MAX_CLASSES, VOC, LabelSet, label_set
from segkit.engine import checkpoint
from segkit.errors import CheckpointError, ConfigError, ExitCode, without_secrets
from segkit.identity import run_name
from segkit.models.foreign.classifiers import train_words
from segkit.models.foreign.source import Source
from segkit.models.foreign.sources import SOURCES, guess, unprefixed
from segkit.models.segmenter import Segmenter
from segkit.models.weight_files import read
from segkit.models.weights import load_segmenter
from segkit.randomness import integer
from segkit.record import open_run
from segkit.restored import typed_path
from segkit.rules import check

USAGE = f"""\
segkit model import FILE [--from NAME] [key=value ...]

Turns another project's weights into a run for segkit eval ckpt=runs/NAME and segkit predict.
Of a classifier there is no run: it says what segkit train pretrained=FILE takes it with.
FILE is torch's (a state dict, or a training script's checkpoint with one), .safetensors or .npz
(arrays by Keras layer names): tensors only. Model and backbone are guessed from it.
Projects: {", ".join(SOURCES)}

  --from NAME          whose file it is (default: guessed from its keys)
  --config-dir DIR     your own config groups, searched beside the shipped ones
  num_classes=N        classes of the file (default: counted; 21 are VOC's)
  dataset=NAME         whose classes they are
  model=... backbone=... os=... name=... and every other key of segkit train"""

# The class tables that can be had without their data.
_LABELS = {
    "voc": VOC,
    "voc_aug": VOC,
    "camvid": CAMVID,
    "cityscapes": CITYSCAPES,
    "cityscapes_coarse": CITYSCAPES,
}


@dataclass
class Call:
    """The command line, taken apart."""

    file: str | None = None
    source: str | None = None
    config_dir: str | None = None
    num_classes: int | None = None
    overrides: list[str] = field(default_factory=list)

    def typed(self, key: str) -> bool:
        return any(o.partition("=")[0].lstrip("+~") == key for o in self.overrides)


@dataclass(frozen=True)
class Imported:
    """A network filled from a file, what describes it, and the file's keys by what became of them.

    ``missing`` names what the file does not hold and therefore starts from random.
    """

    net: Segmenter
    composed: Composed
    labels: LabelSet
    source: Source
    file: str
    sha256: str
    used: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def origin(self) -> dict[str, Any]:
        """What every score's signature says of where the weights are from."""
        return {
            "kind": "import",
            "format": self.source.name,
            "file": self.file,
            "sha256": self.sha256,
            "keys_loaded": len(self.used),
            "keys_unused": list(self.unused),
            "not_loaded": list(self.missing),
        }


def main(argv: Sequence[str]) -> int:
    """The command; ``argv`` is what stands behind ``segkit model import``."""
    if any(word in ("-h", "--help") for word in argv):
        print(USAGE)
        return ExitCode.OK
    call = parse(argv)
    imported = import_file(call)
    folder = write(imported)
    report(imported, guessed=call.source is None)
    print(f"run: {folder}")
    print(f"next: {next_command(imported, call, folder)}")
    return ExitCode.OK


def parse(argv: Sequence[str]) -> Call:
    """Take the words apart; ``ConfigError`` CFG-USAGE names what is not understood."""
    call, rest = Call(), iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--from", "--config-dir"):
            given = value if equals else next(rest, None)
            if not given:
                raise ConfigError("USAGE", name, "needs a value", f"type {name} VALUE")
            setattr(call, "source" if name == "--from" else "config_dir", given)
        elif word.startswith("--"):
            raise ConfigError("USAGE", word, "no such option", "see segkit model import --help")
        elif name == "num_classes" and equals:
            call.num_classes = class_count(value)
        elif call.file is None and (not equals or typed_path(word).exists()):
            call.file = word
        else:
            call.overrides.append(word)
    if call.file is None:
        raise ConfigError("USAGE", "model import", "no file", "type segkit model import FILE")
    if call.source is not None and call.source not in SOURCES:
        what = f"{call.source!r} is no known project"
        raise ConfigError("USAGE", "--from", what, f"one of {', '.join(SOURCES)}")
    if call.typed("resume"):
        raise ConfigError("USAGE", "resume", "there is nothing to resume", "leave it out")
    return call


def class_count(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= MAX_CLASSES:
        raise ConfigError("RANGE", "num_classes", f"found {text!r}", f"2 to {MAX_CLASSES}")
    return int(text)


# -- the file and the network --------------------------------------------------------------------


def import_file(call: Call) -> Imported:
    """Read the file, compose the network it is of, and fill it; nothing is written.

    Raises ``CheckpointError`` CKPT-WEIGHTS-MISSING, -UNREADABLE, -FORMAT, -MISMATCH, -NONFINITE,
    ``RefusedError`` SAFE-PICKLE and SAFE-ARCHIVE, ``ConfigError`` for what was typed.
    """
    path = typed_path(str(call.file))
    found, digest = tensors_of(path)
    theirs = unprefixed(found)
    source = source_of(theirs, call.source, path)
    if reason := source.refuses(theirs):
        raise CheckpointError("WEIGHTS-FORMAT", path, f"{source.name}: {reason}")
    composed = composed_for(source.overrides(theirs), call)
    check(composed.values)
    parts.check_network(composed.values)
    labels = labels_of(composed, call, source.rename(theirs).get(source.classifier))
    net = network(composed.values, labels.num_classes)
    unused = left_out(theirs, source, net)
    ours = source.rename({key: t for key, t in theirs.items() if key not in unused})
    fill(net, ours, source, path)
    return Imported(
        net=net,
        composed=composed,
        labels=labels,
        source=source,
        file=without_secrets(path.name),
        sha256=digest,
        used=tuple(key for key in theirs if key not in unused),
        unused=unused,
        missing=tuple(k for k in net.state_dict() if k not in ours and not is_count(k)),
    )


def is_count(key: str) -> bool:
    """Batch norm counts its batches for momentum=None only; old files do not have it."""
    return key.endswith("num_batches_tracked")


def tensors_of(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        return read(path)
    except CheckpointError as fault:
        if fault.name != "WEIGHTS-MISSING":
            raise
        fix = "type segkit model import /path/to/file"
        raise CheckpointError(fault.name, fault.where, fault.what, fix) from fault


def source_of(tensors: Mapping[str, Tensor], named: str | None, path: Path) -> Source:
    """Whose file it is: as named, if the keys do not speak against it, else by the keys."""
    first = ", ".join(list(tensors)[:3]) or "none"
    if named is None:
        found = guess(tensors)
        if found is None and (words := train_words(tensors)):
            what = "its keys are a classifier's, which has no head to ask"
            fix = f"it starts a training: segkit train {words} pretrained={path}"
            raise CheckpointError("WEIGHTS-FORMAT", path, what, fix)
        if found is None:
            what = f"its keys are of no known project, the first are {first}"
            raise CheckpointError("WEIGHTS-FORMAT", path, what, f"known are {', '.join(SOURCES)}")
        return found
    if not SOURCES[named].recognises(tensors):
        other = guess(tensors)
        fix = f"it looks like --from {other.name}" if other else f"known are {', '.join(SOURCES)}"
        what = f"its keys are not {named}'s, the first are {first}"
        raise CheckpointError("WEIGHTS-FORMAT", path, what, fix)
    return SOURCES[named]


def composed_for(told: Sequence[str], call: Call) -> Composed:
    """The config that the file tells, under what was typed.

    What the file tells of a model is left out where another model is typed.
    """
    kept = [
        o for o in told
        if not call.typed(o.partition("=")[0])
        and not (call.typed("model") and o.partition("=")[0].split(".")[0] in ("model", "loss"))
    ]  # fmt: skip
    # Not a path that a run could begin from again: what it is of stands in the weights' origin.
    return compose("train", [*kept, *call.overrides, "pretrained=imported"], call.config_dir)


def labels_of(composed: Composed, call: Call, classifier: Tensor | None) -> LabelSet:
    """The classes: those of the data set that was typed, else as many as the file has.

    Raises ``ConfigError`` where ``num_classes`` and ``dataset`` disagree.
    """
    if call.typed("dataset"):
        labels = _LABELS.get(composed.choices["dataset"])
        if labels is None:
            values = composed.values
            labels = parts.dataset_of(values, values["dataset"]["val_split"]).labels
        if call.num_classes not in (None, labels.num_classes):
            what = f"{call.num_classes}, but dataset={labels.name} has {labels.num_classes}"
            raise ConfigError("RANGE", "num_classes", what, "leave one out")
        return labels
    in_file = VOC.num_classes if classifier is None or not classifier.ndim else len(classifier)
    count = call.num_classes or in_file
    if count == VOC.num_classes:
        return VOC
    return label_set("imported", [f"class {number}" for number in range(count)])


def network(values: parts.Values, num_classes: int) -> Segmenter:
    """The network, whose random start (of what the file lacks) is a function of the seed."""
    torch.manual_seed(integer(values["seed"], "init"))
    return parts.network_of(values, num_classes, parts.stages_of(values)[-1]["os"])


def left_out(theirs: Mapping[str, Tensor], source: Source, net: Segmenter) -> tuple[str, ...]:
    """The file's keys that no network here has, or that this config leaves out on purpose."""
    own = net.state_dict()
    absent = tuple(t for t, here in source.optional if not any(k.startswith(here) for k in own))
    prefixes = source.unused + absent
    return tuple(key for key in theirs if prefixes and key.startswith(prefixes))


def fill(net: Segmenter, tensors: Mapping[str, Tensor], source: Source, path: Path) -> None:
    """Every key must fit the network, or its backbone where the file is of nothing else."""
    try:
        if source.backbone_only:
            backbone = {k.removeprefix("backbone."): t for k, t in tensors.items()}
            load_segmenter(net.backbone, backbone, where=str(path))
        else:
            load_segmenter(net, tensors, where=str(path))
    except CheckpointError as fault:
        if fault.name != "WEIGHTS-MISMATCH":
            raise
        fix = "type the model=, backbone= and num_classes= (or dataset=) it was trained with"
        raise CheckpointError(fault.name, fault.where, fault.what, fix) from fault


# -- what is said and written --------------------------------------------------------------------


def report(imported: Imported, *, guessed: bool) -> None:
    """What became of the file's keys, on stdout."""
    how = ", guessed from its keys" if guessed else ""
    choices = imported.composed.choices
    print(f"format: {imported.source.name}{how}")
    print(
        f"network: model={choices['model']} backbone={choices['backbone']} "
        f"os={imported.net.output_stride}, {imported.labels.num_classes} classes "
        f"({imported.labels.name})"
    )
    if imported.source.assumed:
        print(f"not in the file: {imported.source.assumed}")
    print(f"keys used: {len(imported.used)}")
    print(f"keys unused: {named(imported.unused)}")
    print(f"keys missing: {named(imported.missing)}")


def next_command(imported: Imported, call: Call, folder: Path) -> str:
    """What to type now: with a head from random a training, for there is nothing to predict by."""
    own = ["--config-dir", call.config_dir] if call.config_dir else []
    if not imported.source.backbone_only:
        return shlex.join(["segkit", "predict", "photos/", f"ckpt={folder}", *own])
    choices = imported.composed.choices
    network = [f"{key}={choices[key]}" for key in ("model", "backbone")]
    typed = [o for o in call.overrides if o.partition("=")[0] not in ("model", "backbone", "name")]
    return shlex.join(["segkit", "train", *network, *typed, f"pretrained={folder}", *own])


def named(keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > 3 else ""
    return f"{len(keys)} ({', '.join(keys[:3])}{more})" if keys else "0"


def write(imported: Imported) -> Path:
    """The run folder with its one checkpoint, at step 0, and a record that says finished."""
    composed = imported.composed
    name = composed.values["name"] or f"{run_name(composed)}-{imported.sha256[:8]}"
    folder = typed_path(composed.values["runs"]) / str(name)
    cpu = torch.device("cpu")
    try:
        opened = open_run(folder, composed, imported.labels, imported.origin, cpu)
    except ConfigError as fault:
        if fault.name != "RUN-EXISTS":
            raise
        fix = "give the import another name=..."  # resume=true is none: an import trains nothing
        raise ConfigError(fault.name, fault.where, fault.what, fix) from fault
    with opened as run:
        run.begin(0)
        saved = checkpoint.save(
            run.checkpoints,
            run=run.id,
            step=0,
            stage=len(parts.stages_of(composed.values)) - 1,
            model=imported.net.state_dict(),
            optimizer={},
            config=run.config,
            labels=run.labels,
        )
        checkpoint.mark_latest(saved)
        run.progress(step=0, last_checkpoint=saved.name)
        run.finish(0)
    return folder
