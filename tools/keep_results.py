"""Keep what a run and its evaluations measured under docs/results/, without the photos.

    segkit eval ckpt=runs/NAME eval.save_predictions=true
    python tools/keep_results.py runs/NAME docs/results/NAME [--pictures 4]

Copies every ``score.json`` of the run, draws its curve, writes ``run.json`` (command, minutes,
machine) and panels of truth, prediction and error in label colours for evenly spaced images of
every evaluation that saved its predictions.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from segkit import parts
from segkit.data.loader import Dataset
from segkit.report.curves import write_curve
from segkit.report.pictures import encode_png, panel
from segkit.whole_files import write_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--pictures", type=int, default=4)
    arguments = parser.parse_args()
    run, out = arguments.run, arguments.destination
    out.mkdir(parents=True, exist_ok=True)
    for score in sorted(run.glob("scores/*/score.json")):
        shutil.copyfile(score, out / f"score-{score.parent.name}.json")
    metrics = read_lines(run / "metrics.jsonl")
    write_curve(out / "curve.png", metrics, run.name)
    values = yaml.safe_load((run / "config.yaml").read_text())["values"]
    write_whole(out / "run.json", (json.dumps(record(run), indent=1) + "\n").encode())
    for folder in sorted(run.glob("scores/*/predictions")):
        keep_pictures(folder, values, out, arguments.pictures)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def record(run: Path) -> dict[str, Any]:
    """What it ran on and how long its updates took (validation and saves not counted)."""
    environment = json.loads((run / "environment.json").read_text())
    choices = yaml.safe_load((run / "config.yaml").read_text())["choices"]
    seconds = sum(row["seconds"] for row in read_lines(run / "timing.jsonl"))
    machine = f"{environment['cores']} cores, {environment['device']} {environment['card']}".strip()
    return {
        "command": f"segkit train experiment={choices['experiment']}",
        "minutes": round(seconds / 60, 1),
        "machine": machine,
        "environment": {k: v for k, v in environment.items() if k != "weights"},
        "weights": environment["weights"],
    }


def keep_pictures(predictions: Path, values: dict[str, Any], out: Path, count: int) -> None:
    dataset = parts.dataset_of(values, values["dataset"]["val_split"])
    for index in np.linspace(0, len(dataset) - 1, count).astype(int):
        name = str(dataset.ids[index])
        prediction = np.asarray(Image.open(predictions / f"{name}.png"))
        picture = labels_only(dataset, int(index), prediction)
        write_whole(out / f"{predictions.parent.name}-{name}.png", encode_png(picture))


def labels_only(dataset: Dataset, index: int, prediction: np.ndarray) -> Image.Image:
    labels = dataset.labels
    _, truth = dataset.read(index)
    return panel(
        truth,
        prediction,
        colours=labels.colours,
        names=labels.names,
        ignore=labels.ignore_label,
        title=str(dataset.ids[index]),
    )


if __name__ == "__main__":
    main()
