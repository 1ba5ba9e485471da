"""``segkit export``: a trained network as a file for ONNX or torch.export, checked first."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import segkit
from segkit import parts, restored
from segkit.config import Composed
from segkit.data.bars import size as bytes_text
from segkit.data.images import read_image
from segkit.data.normalise import Normalise
from segkit.engine.signals import Stop, StopRequested, stopping
from segkit.errors import CheckpointError, ConfigError, ExitCode, SegkitError
from segkit.limits import fault_of
from segkit.models import export as graphs
from segkit.protocol import origin_text
from segkit.record import notice
from segkit.report.names import prediction_path
from segkit.restored import Trained
from segkit.segmenting import tensor
from segkit.whole_files import refuse_links, write_whole

LONGEST_SIDE = 513  # of the image that is checked; the papers' own, and seconds on any machine


@dataclass(frozen=True)
class Format:
    """How a file is made, run again and called."""

    suffix: str
    make: Callable[[graphs.Answer, str], bytes]
    runner: Callable[[bytes], graphs.Runner]
    packages: tuple[str, ...]


FORMATS = {
    "onnx": Format(
        ".onnx", graphs.to_onnx, graphs.onnx_runner, ("onnx", "onnxscript", "onnxruntime")
    ),
    "torch": Format(".pt2", graphs.to_torch, graphs.torch_runner, ()),
}


@dataclass
class Checked:
    """What a file was compared on, and how far it was from the network at worst."""

    inputs: list[list[int]] = field(default_factory=list)
    image: str | None = None
    largest_difference: float = 0.0
    tolerance: float = graphs.TOLERANCE
    pixels: int = 0
    labels_equal: int = 0


def main(composed: Composed) -> int:
    """Write NAME.onnx and NAME.pt2 as asked, each with a NAME.*.json that says what it is."""
    values = composed.values
    kinds = list(FORMATS) if values["format"] == "both" else [values["format"]]
    check_out(values["out"])
    for package in packages_of(kinds):
        graphs.extra(package)  # an unchecked file is not delivered, so this is asked first
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.asked_for(composed, path, torch.device("cpu"))
    trained.net.to(memory_format=torch.contiguous_format)
    photo = photo_of(composed, trained)
    out = Path(values["out"]) if values["out"] else trained.run / "exports"
    if not values["out"]:
        refuse_links(trained.run, out)
    with stopping() as stop:
        try:
            for kind in kinds:
                stop.wait(export, kind, trained, values["outputs"], photo, out, stop)
        except StopRequested:
            raise stop.interrupted(out, "export stopped; what is written is whole") from None
    return ExitCode.OK


def packages_of(kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for kind in kinds for name in FORMATS[kind].packages)


def check_out(out: str | None) -> None:
    """Raise ``ConfigError`` for the name of a file: a folder would be made of it."""
    suffixes = [form.suffix for form in FORMATS.values()]
    if out and Path(out).suffix.lower() in suffixes and not Path(out).is_dir():
        what = f"{out!r} is the name of a file, and out= is the folder"
        raise ConfigError("OUT", "out", what, "type the folder; the run names the file")


def export(
    kind: str,
    trained: Trained,
    outputs: graphs.Outputs,
    photo: tuple[str, Tensor] | None,
    out: Path,
    stop: Stop,
) -> None:
    """One file and what is said of it; raises CheckpointError CKPT-EXPORT-CHECK."""
    form, begun = FORMATS[kind], time.monotonic()
    path = prediction_path(out, name_of(trained, outputs), form.suffix)
    about = description(trained, outputs)
    data = form.make(graphs.Answer(trained.net, outputs).eval(), json.dumps(about))
    stop.check()
    checked = Checked()

    def check(written: bytes) -> None:
        compare(path, form.runner(written), trained, photo, checked)
        if checked.largest_difference > graphs.TOLERANCE:
            what = f"differs from the network by {checked.largest_difference:.1e} of its largest"
            fix = f"allowed {graphs.TOLERANCE:.0e}; nothing was written"
            raise CheckpointError("EXPORT-CHECK", path, f"{what} score", fix)

    write_whole(path, data, check)
    file = {
        "file": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **({"opset": graphs.OPSET} if kind == "onnx" else {}),
    }
    document = {**about, **file, "checked": vars(checked)}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path.with_name(path.name + ".json"), text.encode())
    print(f"{path} ({bytes_text(len(data))}, {time.monotonic() - begun:.0f} s)")
    print(f"  {summary(checked)}", flush=True)


def name_of(trained: Trained, outputs: graphs.Outputs) -> str:
    """``camvid-step3000-os8``: another checkpoint, stride or output has another name."""
    parts_of_name = [trained.run.name, f"step{trained.step}", f"os{trained.net.output_stride}"]
    parts_of_name += [trained.scored] if trained.scored else []
    return "-".join([*parts_of_name, *(["labels"] if outputs == "labels" else [])])


def description(trained: Trained, outputs: graphs.Outputs) -> dict[str, Any]:
    """What somebody who has nothing but the file must know to use it."""
    net, labels = trained.net, trained.labels
    stride, pad = net.output_stride, trained.config.values["eval"]["pad"]
    return {
        "segkit": segkit.__version__,
        "torch": torch.__version__,
        "model": trained.config.choices["model"],
        "backbone": trained.config.choices["backbone"],
        "output_stride": stride,
        "run": trained.run.name,
        "step": trained.step,
        "weights": origin_text(trained.weights),
        "scored": trained.scored,
        "config": trained.digest,
        "input": "image: float32 [batch, 3, height, width], RGB, (bytes / 255 - mean) / std",
        "mean": list(net.pixels.mean),
        "std": list(net.pixels.std),
        "smallest_side": graphs.smallest_side(stride),
        "preferred_sides": graphs.preferred_sides(stride),
        "pad": "none" if pad is None else pad,  # or "fit", or the least side
        "output": output_text(outputs, labels.num_classes),
        "labels": labels.name,
        "classes": list(labels.names),
        "colours": [list(colour) for colour in labels.colours],
        "ignore_label": labels.ignore_label,
    }


def output_text(outputs: graphs.Outputs, num_classes: int) -> str:
    if outputs == "labels":
        kind = "uint8" if num_classes <= 256 else "int32"
        return f"labels: {kind} [batch, height, width], the class of each pixel"
    return f"logits: float32 [batch, {num_classes}, height, width], at the image's own size"


# -- the check ---------------------------------------------------------------------------------


def compare(
    path: Path,
    run: graphs.Runner,
    trained: Trained,
    photo: tuple[str, Tensor] | None,
    checked: Checked,
) -> None:
    """Ask the file and the network the same; what came out goes into ``checked``.

    Raises CheckpointError CKPT-EXPORT-CHECK for a file that cannot be asked.
    """
    images = [*graphs.probes(trained.net.output_stride, torch.Generator().manual_seed(0))]
    if photo is not None:
        checked.image = photo[0]
        images.append(photo[1])
    for x in images:
        with torch.no_grad():
            logits = trained.net(x)
        try:
            output = run(x)
        except Exception as fault:  # no two runtimes raise the same
            if limit := fault_of(fault):
                raise limit from fault
            reason = " ".join(str(fault).split())[:200]
            what = f"the file takes no {' x '.join(map(str, x.shape))} image ({reason})"
            fix = "nothing was written; the other format may be free of its size"
            raise CheckpointError("EXPORT-CHECK", path, what, fix) from fault
        found = graphs.difference(logits, output)
        checked.inputs.append(list(x.shape))
        checked.largest_difference = max(checked.largest_difference, found)
        if found <= graphs.TOLERANCE:
            same = logits.argmax(1) == graphs.labels_of(output)
            checked.pixels += same.numel()
            checked.labels_equal += int(same.sum())


def photo_of(composed: Composed, trained: Trained) -> tuple[str, Tensor] | None:
    """A real image and its name: ``check=IMAGE``, else the first one the run is scored on."""
    if composed.values["check"]:
        path = restored.typed_path(composed.values["check"])
        return path.name, prepared(read_image(path), trained)
    try:
        values = data_values(composed, trained)
        dataset = parts.dataset_of(values, values["dataset"]["val_split"])
        return str(dataset.ids[0]), prepared(dataset.read(0)[0], trained)
    except SegkitError as error:
        if any(key.startswith("dataset") for key in restored.typed_keys(composed)):
            raise
        notice(f"checked on random inputs alone ({error}); check=IMAGE adds a real one")
        return None


def data_values(composed: Composed, trained: Trained) -> Mapping[str, Any]:
    """The run's own data set, with what was typed about it; or the one that was typed."""
    if composed.values["dataset"] is not None:
        return composed.values
    dataset = restored.with_typed(dict(trained.config.values["dataset"]), composed.typed)
    return {**trained.config.values, "dataset": dataset}


def prepared(rgb: np.ndarray, trained: Trained) -> Tensor:
    """The middle of an image, ``LONGEST_SIDE`` at most and as large as the file is promised for."""
    least = graphs.smallest_side(trained.net.output_stride)
    for axis in (0, 1):
        side = rgb.shape[axis]
        first = max(0, (side - LONGEST_SIDE) // 2)
        places = np.arange(first, first + min(side, LONGEST_SIDE))
        rgb = rgb.take(np.pad(places, (0, max(0, least - side)), mode="edge"), axis)
    pixels = trained.net.pixels
    return Normalise(pixels.mean, pixels.std)(tensor(rgb)[None]).contiguous()


def summary(checked: Checked) -> str:
    """What the check found, in a line."""
    random = len(checked.inputs) - (checked.image is not None)
    seen = f"{random} random inputs" + (f" and {checked.image}" if checked.image else "")
    share = 100 * checked.labels_equal / checked.pixels
    return (
        f"checked on {seen}: scores differ by {checked.largest_difference:.1e} of the largest "
        f"(allowed {checked.tolerance:.0e}), {share:.3f} % of labels equal"
    )
