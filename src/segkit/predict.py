"""``segkit predict INPUT...``: images and folders -> index PNGs and overlays."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segkit import parts, restored
from segkit.config import Composed
from segkit.data.images import read_image
from segkit.data.normalise import normalise
from segkit.engine.signals import Stop, StopRequested, stopping
from segkit.errors import ConfigError, DataError, ExitCode
from segkit.protocol import crf_pool, predictor_of
from segkit.report.names import prediction_path, relative_names
from segkit.report.pictures import encode_png, overlay, palette_png
from segkit.restored import Trained
from segkit.whole_files import refuse_links, write_whole

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Photo:
    """An input image and the name its results get."""

    id: str
    rgb: np.ndarray


def main(composed: Composed) -> int:
    """Write ``labels/NAME.png`` (class indices) and ``overlay/NAME.png`` for every input."""
    values = composed.values
    paths = images_of(values["inputs"])
    device = parts.device_of(values)
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.asked_for(composed, path, device)
    if trained.scored:
        print(f"weights: {trained.scored}", file=sys.stderr)
    values = restored.inherit(composed, trained.config)
    out = Path(values["out"]) if values["out"] else trained.run / "predictions"
    if not values["out"]:
        refuse_links(trained.run, out)
    with stopping() as stop:
        try:
            count = stop.wait(run, paths, trained, values, device, out, stop)
        except StopRequested:
            raise stop.interrupted(out, "prediction stopped; what is written is whole") from None
    print(f"{count} predictions in {out}")
    return ExitCode.OK


def images_of(inputs: Sequence[str]) -> list[Path]:
    """Files as given, folders searched; sorted within a folder."""
    if not inputs:
        raise ConfigError("INPUT", "predict", "no input", "type segkit predict FILE or FOLDER ...")
    found: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            if not inside:
                raise DataError(
                    "EMPTY", path, "holds no image", f"looked for {', '.join(SUFFIXES)}"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError("MISSING", path, "no such file or folder")
    return found


def run(
    paths: Sequence[Path],
    trained: Trained,
    values: dict[str, Any],
    device: torch.device,
    out: Path,
    stop: Stop,
) -> int:
    """Predict and write, one image at a time; the CRF works beside the network."""
    predictor = predictor_of(trained, values, device)
    colours, ignore = trained.labels.colours, trained.labels.ignore_label

    def write(photo: Photo, labels: np.ndarray) -> None:
        palette_png(prediction_path(out, f"labels/{photo.id}"), labels, colours, ignore)
        picture = Image.fromarray(overlay(photo.rgb, labels, colours, ignore=ignore))
        write_whole(prediction_path(out, f"overlay/{photo.id}"), encode_png(picture))

    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(paths), unit="img", disable=not sys.stderr.isatty())
        )
        pool = stack.enter_context(crf_pool(values, stop)) if values["crf"] else None
        for photo in photos(paths):
            stop.check()
            probabilities = predictor(tensor(photo.rgb, trained))
            if pool is None:
                write(photo, probabilities.argmax(0).cpu().numpy())
            else:
                pool.submit(photo, probabilities)
                for done, labels in pool.ready():
                    write(done, labels)
            bar.update()
        for done, labels in pool.results() if pool else ():
            write(done, labels)
        stop.check()  # the pool's waits end early at a stop
    return len(paths)


def photos(paths: Sequence[Path]) -> Iterator[Photo]:
    for path, name in zip(paths, relative_names(paths), strict=True):
        yield Photo(str(name), read_image(path))


def tensor(rgb: np.ndarray, trained: Trained) -> Tensor:
    pixels = trained.net.pixels
    image = normalise(rgb, pixels.mean, pixels.std).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(image))
