"""``segkit eval``: a checkpoint and a protocol -> score.json and one signed line."""

import json
import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import segkit
from segkit import parts, restored
from segkit.config import Composed, digest
from segkit.data.colour_baseline import colour_miou
from segkit.data.loader import Dataset, EvalSample, eval_samples
from segkit.engine.evaluate import Score, evaluate
from segkit.engine.signals import Stop, StopRequested, stopping
from segkit.errors import ConfigError, ExitCode
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_pool import CrfPool
from segkit.inference.multiscale import Predictor
from segkit.metrics import iou, mean_iou
from segkit.report.names import prediction_path, write_whole
from segkit.report.pictures import encode_png, palette_png, panel
from segkit.report.signature import Signature, score_document, score_line
from segkit.report.tables import print_class_table
from segkit.restored import Trained


def main(composed: Composed) -> int:
    """Evaluate; the signed score is the last line on stdout."""
    values = composed.values
    device = parts.device_of(values)
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.load(path, os=values["os"], device=device, config_dir=composed.config_dir)
    values = restored.inherit(composed, trained.config)
    check_protocol(values, trained)
    split = values["eval"]["split"] or values["dataset"]["val_split"]
    dataset = parts.dataset_of(values, split)
    check_labels(dataset, trained)
    out = Path(values["out"]) if values["out"] else trained.run / "scores" / slug(values, split)
    out.mkdir(parents=True, exist_ok=True)

    with stopping() as stop:
        try:
            score = run(dataset, trained, values, device, out, stop)
        except StopRequested:
            raise stop.interrupted(out, "evaluation stopped, no score written") from None
    baseline = colour_baseline(dataset, values) if values["eval"]["colour_baseline"] else None
    signature = sign(score, split, trained, values, device)
    report(score, signature, dataset, baseline, out)
    return ExitCode.OK


# -- the evaluation ----------------------------------------------------------------------------


def run(
    dataset: Dataset,
    trained: Trained,
    values: parts.Values,
    device: torch.device,
    out: Path,
    stop: Stop,
) -> Score:
    """One pass over the data set; with ``crf=true`` the CRF pool works beside the network."""
    predictor = predictor_of(trained, values, device)
    limit = values["eval"]["limit"]
    total = min(len(dataset), limit or len(dataset))
    with ExitStack() as stack:
        samples = eval_samples(
            Head(dataset, total),
            mean=trained.net.pixels.mean,
            std=trained.net.pixels.std,
            workers=parts.workers_of(values),
            should_stop=stop,
        )
        bar = stack.enter_context(tqdm(total=total, unit="img", disable=not sys.stderr.isatty()))
        pool = stack.enter_context(crf_pool(values)) if values["crf"] else None
        pictures = Pictures(dataset, values, out)

        def done(sample: EvalSample, prediction: Tensor) -> None:
            bar.update()
            pictures(sample, prediction)

        return evaluate(
            samples,
            lambda sample: predictor(sample.image),
            num_classes=trained.labels.num_classes,
            ignore_label=dataset.labels.ignore_label,
            device=device,
            refine=pool,
            on_image=done,
            should_stop=stop,
        )


class Head:
    """The first ``count`` samples of a data set."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.labels, self.ids, self.read = dataset.labels, dataset.ids[:count], dataset.read

    def __len__(self) -> int:
        return len(self.ids)


def predictor_of(trained: Trained, values: parts.Values, device: torch.device) -> Predictor:
    """The network under the protocol of ``values``."""
    return Predictor(
        trained.net,
        output_stride=trained.net.output_stride,
        scales=scales_of(values),
        flip=values["flip"],
        fusion=values["tta"]["fusion"],
        pad=values["eval"]["pad"],
        device=device,
        precision=parts.precision_of(values, device),
    )


def scales_of(values: parts.Values) -> tuple[float, ...]:
    return tuple(values["tta"]["scales"]) if values["ms"] else (1.0,)


def crf_of(values: parts.Values) -> DenseCrf:
    node = values["densecrf"]
    return DenseCrf(**{f.name: node[f.name] for f in fields(DenseCrf)})


def crf_pool(values: parts.Values) -> CrfPool[Any]:
    return CrfPool(crf_of(values), workers=parts.cores())


def colour_baseline(dataset: Dataset, values: parts.Values) -> float:
    """mIoU of a per-pixel RGB histogram classifier fitted on the training images."""
    train = parts.dataset_of(values, values["dataset"]["train_split"])
    miou, _ = colour_miou(train, dataset)
    return miou


# -- what must agree ---------------------------------------------------------------------------


def check_protocol(values: parts.Values, trained: Trained) -> None:
    """Say what is unusual, refuse what cannot be."""
    if values["crf"] and trained.config.values["model"]["name"].startswith("v3"):
        print("note: the v3 and v3+ papers use no CRF", file=sys.stderr)


def check_labels(dataset: Dataset, trained: Trained) -> None:
    """A data set other than the run's own must have the run's classes."""
    mine, theirs = trained.labels.names, dataset.labels.names
    if mine != theirs:
        pairs = [f"{a}/{b}" for a, b in zip(mine, theirs, strict=False) if a != b]
        found = f"{len(theirs)} classes, the checkpoint has {len(mine)}"
        raise ConfigError(
            "CLASSES", "dataset", found + (f": {', '.join(pairs[:3])}" if pairs else "")
        )


# -- the report --------------------------------------------------------------------------------


def slug(values: parts.Values, split: str) -> str:
    """A folder name for a protocol: ``val-os8-ms-flip-crf``."""
    flags = [name for name in ("ms", "flip", "crf") if values[name]]
    own = [f"os{values['os']}"] if values["os"] else []
    best = ["best"] if values["ckpt_kind"] == "best" else []
    data = [values["dataset"]["name"]] if values["dataset"] else []
    return "-".join([*data, split, *own, *flags, *best])


def sign(
    score: Score, split: str, trained: Trained, values: parts.Values, device: torch.device
) -> Signature:
    """Everything that could change the number."""
    config, net = trained.config, trained.net
    crf = {k: v for k, v in values["densecrf"].items() if v is not None} if values["crf"] else None
    origin = trained.weights
    named = [origin.get("file"), str(origin.get("sha256") or "")[:8]]
    return Signature(
        dataset=values["dataset"]["name"],
        split=split,
        images=score.images,
        model=config.choices["model"],
        backbone=config.choices["backbone"],
        train_os=trained.train_os,
        eval_os=net.output_stride,
        multi_grid=net.multi_grid,
        pad=values["eval"]["pad"],
        scales=scales_of(values),
        fusion=values["tta"]["fusion"],
        flip=values["flip"],
        crf=crf,
        weights=":".join([str(origin.get("kind", "unknown")), *(n for n in named if n)]),
        checkpoint=values["ckpt_kind"],
        step=trained.step,
        seed=config.values["seed"],
        precision=parts.precision_of(values, device),
        device=device.type,
        segkit=segkit.__version__,
        torch=torch.__version__,
        config=digest(config.values),
    )


def report(
    score: Score, signature: Signature, dataset: Dataset, baseline: float | None, out: Path
) -> None:
    """``score.json``, the per-class table, and the signed score last."""
    miou = mean_iou(score.matrix)
    per_class = dict(zip(dataset.labels.names, iou(score.matrix), strict=True))
    document = score_document(
        signature,
        miou=miou,
        iou=per_class,
        images=score.images,
        pixels=score.pixels,
        confusion=score.matrix.tolist(),
        seconds=score.seconds,
    )
    if baseline is not None:
        document["colour_baseline"] = baseline
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_whole(out / "score.json", text.encode())
    print_class_table(per_class, miou)
    print(f"score: {out / 'score.json'}")
    if baseline is not None:
        print(f"RGB histogram classifier fitted on the same images: mIoU {100 * baseline:.2f}")
    print(score_line(miou, signature), flush=True)


class Pictures:
    """Panels of the first images, and every prediction as an index PNG where asked for."""

    def __init__(self, dataset: Dataset, values: parts.Values, out: Path) -> None:
        self.labels, self.out = dataset.labels, out
        self.left = values["eval"]["pictures"]
        self.save = values["eval"]["save_predictions"]

    def __call__(self, sample: EvalSample, prediction: Tensor) -> None:
        labels = prediction.cpu().numpy()
        if self.save:
            path = prediction_path(self.out / "predictions", sample.id)
            palette_png(path, labels, self.labels.colours, self.labels.ignore_label)
        if self.left > 0:
            self.left -= 1
            write_whole(
                prediction_path(self.out / "pictures", sample.id),
                encode_png(
                    panel(
                        np.asarray(sample.label),
                        labels,
                        image=sample.rgb,
                        colours=self.labels.colours,
                        names=self.labels.names,
                        ignore=self.labels.ignore_label,
                        title=sample.id,
                    )
                ),
            )
