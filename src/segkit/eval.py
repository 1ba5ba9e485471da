"""``segkit eval``: a checkpoint and a protocol -> score.json and one signed line."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segkit import parts, restored
from segkit.config import Composed
from segkit.data.colour_baseline import colour_miou
from segkit.data.loader import Dataset, EvalSample, eval_samples
from segkit.engine.evaluate import Counter, Score, evaluate
from segkit.engine.signals import Stop, StopRequested, stopping
from segkit.engine.team import Alone
from segkit.errors import ConfigError, ExitCode
from segkit.eval_report import gallery_of, write_report
from segkit.former import drop_pictures, drop_score
from segkit.inputs import Input, scored_input
from segkit.measures import counters_of, images_text, measured
from segkit.metrics.confusion import iou, mean_iou
from segkit.protocol import crf_stage, predictor_of, sign, slug
from segkit.record import notice
from segkit.report.gallery import Spool
from segkit.report.names import make_folder, prediction_path
from segkit.report.pictures import encode_png, palette_png, panel
from segkit.report.signature import Signature, score_document, score_line
from segkit.report.summary import summary
from segkit.report.tables import print_class_table
from segkit.restored import Trained
from segkit.whole_files import refuse_links, write_whole


def main(composed: Composed) -> int:
    """Evaluate; the signed score is the last line on stdout."""
    with parts.team_of(composed.values) as team, team.guard():
        return work(composed, team)


def work(composed: Composed, team: Alone) -> int:
    """The part of this process in the evaluation: a share of the images."""
    values = composed.values
    device = parts.device_of(values)
    parts.deterministic(values["deterministic"])
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    if team.leads:
        print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.asked_for(composed, path, device)
    values = restored.protocol(composed, trained.config)
    if team.leads:
        check_protocol(values, trained)
    scored = input_of(values, composed, team)
    dataset = parts.limited(values, scored.dataset)
    check_labels(dataset, trained)
    out = Path(values["out"]) if values["out"] else trained.run / "scores" / slug(values, trained)
    team.compare(facts(values, trained, dataset, out))
    if not values["out"]:
        refuse_links(trained.run, out)
    make_folder(out)
    # Before the evaluation: an interruption here costs seconds, and none of its result.
    with_baseline = values["eval"]["colour_baseline"] and team.leads
    with team.phase("the colour baseline"):
        baseline = colour_baseline(dataset, values) if with_baseline else None

    counters = counters_of(values, dataset)
    with Spool() as spool, stopping(patient=team.size > 1) as stop:
        try:
            with team.phase("evaluating"):
                score = stop.wait(
                    run, dataset, trained, values, device, out, stop, team, spool, counters
                )
        except StopRequested:
            team.agree(stop)  # on the signal, where only another process got it
            raise stop.interrupted(out, "evaluation stopped, no score written") from None
        with_page = values["eval"]["report"]
        with team.phase("the report"):
            gallery = gallery_of(score, dataset, spool, team) if with_page else []
    if team.leads:
        taken = score.counts.get("crf")
        signature = sign(trained, values, device, images=score.images, taken=taken)
        signature = replace(signature, skipped=len(scored.skipped))
        if scored.skipped:
            print(scored)
        show = partial(
            write_report,
            out,
            trained=trained,
            values=values,
            colours=dataset.labels.colours,
            gallery=gallery,
            device=device,
        )
        drop_score(out)
        drop_pictures(out, Pictures(dataset, values, out).names())
        report(score, signature, dataset, baseline, out, show if values["eval"]["report"] else None)
    return ExitCode.OK


def facts(values: parts.Values, trained: Trained, dataset: Dataset, out: Path) -> dict[str, Any]:
    """What must be the same in every process for their counts to add up to one score."""
    keys = ("os", "ms", "flip", "crf", "precision", "deterministic", "tta", "densecrf", "eval")
    asked = {key: str(values[key]) for key in keys}
    own = {"config": trained.digest, "step": trained.step, "out": str(out)}
    listed = {"samples": parts.digest_of(dataset), "classes": ",".join(dataset.labels.names)}
    return asked | own | listed | parts.versions()


# -- the evaluation ----------------------------------------------------------------------------


def run(
    dataset: Dataset,
    trained: Trained,
    values: parts.Values,
    device: torch.device,
    out: Path,
    stop: Stop,
    team: Alone,
    spool: Spool,
    counters: Mapping[str, Counter] = MappingProxyType({}),
) -> Score:
    """One pass over the data set; with ``crf=true`` the CRF pool works beside the network."""
    predictor = predictor_of(trained, values, device)
    total = len(dataset)
    with ExitStack() as stack:
        samples = eval_samples(
            dataset,
            workers=parts.workers_of(values),
            rank=team.rank,
            world=team.size,
            timeout=values["worker_timeout"],
            should_stop=stop,
        )
        silent = not (team.leads and sys.stderr.isatty())
        bar = stack.enter_context(tqdm(total=total, unit="img", disable=silent))
        crf = stack.enter_context(crf_stage(values, device, stop)) if values["crf"] else None
        if crf is not None:
            counters = {**counters, "crf": crf.taken}
        pictures = Pictures(dataset, values, out)

        def done(sample: EvalSample, prediction: Tensor) -> None:
            bar.update(team.size)
            pictures(sample, prediction)
            if values["eval"]["report"]:
                spool.keep(sample.index, prediction)

        def ask(together: list[EvalSample]) -> Iterable[Tensor]:
            images = [sample.image for sample in together]
            if crf is not None:
                return predictor.probabilities(images)
            return predictor.labels(images, verify=False)

        score = evaluate(
            samples,
            ask,
            num_classes=trained.labels.num_classes,
            ignore_label=dataset.labels.ignore_label,
            device=device,
            batch=predictor.memory.batch,
            refine=crf,
            counters=counters,
            on_image=done,
            should_stop=stop,
            team=team,
        )
        predictor.verify()
        return score


def input_of(values: parts.Values, composed: Composed, team: Alone) -> Input:
    """What is scored. A score must not leave out images because a training did so: only a
    ``dataset.on_error=skip`` that was typed for this very command counts."""
    split = parts.split_of(values)
    dataset = parts.dataset_of(values, split)
    typed = "dataset.on_error" in restored.typed_keys(composed)
    if not typed or values["dataset"]["on_error"] != "skip":
        return Input(dataset, split, len(dataset))
    say = notice if team.leads else lambda _: None
    with team.phase("looking through the data"):
        return scored_input(values, split, dataset, say, lambda: False)


def colour_baseline(dataset: Dataset, values: parts.Values) -> float:
    """mIoU of a per-pixel RGB histogram classifier fitted on the training images."""
    train = parts.dataset_of(values, values["dataset"]["train_split"])
    miou, _ = colour_miou(train, dataset, limit=max(len(train), len(dataset)))
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


def report(
    score: Score,
    signature: Signature,
    dataset: Dataset,
    baseline: float | None,
    out: Path,
    show: Callable[[dict[str, Any], str], Path] | None = None,
) -> None:
    """``score.json``, the per-class table, the page that ``show`` makes, the signed score last."""
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
        measures=measured(score, dataset),
    )
    if baseline is not None:
        document["colour_baseline"] = baseline
    write_whole(out / "images.json", images_text(score, dataset).encode())
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_whole(out / "score.json", text.encode())
    print_class_table(per_class, miou)
    print(*summary(document), sep="\n")
    print(f"score: {out / 'score.json'}")
    if show is not None:
        print(f"report: {show(document, score_line(miou, signature))}")
    if baseline is not None:
        print(f"RGB histogram classifier fitted on the training images: mIoU {100 * baseline:.2f}")
    print(score_line(miou, signature), flush=True)


class Pictures:
    """Panels of the first images, and every prediction as an index PNG where asked for."""

    def __init__(self, dataset: Dataset, values: parts.Values, out: Path) -> None:
        self.labels, self.out = dataset.labels, out
        self.pictures = values["eval"]["pictures"]
        self.save = values["eval"]["save_predictions"]
        self.ids = [str(name) for name in dataset.ids]
        self.begun = False

    def names(self) -> set[str]:
        """All that there will be, relative to ``out`` and without a suffix."""
        saved = self.ids if self.save else []
        return {f"predictions/{name}" for name in saved} | {
            f"pictures/{name}" for name in self.ids[: self.pictures]
        }

    def __call__(self, sample: EvalSample, prediction: Tensor) -> None:
        if not self.save and sample.index >= self.pictures:
            return  # and do not wait for a GPU
        if not self.begun:
            drop_score(self.out)  # it is of other pictures
            self.begun = True
        labels = prediction.cpu().numpy()
        if self.save:
            path = prediction_path(self.out, f"predictions/{sample.id}")
            palette_png(path, labels, self.labels.colours, self.labels.ignore_label)
        if sample.index < self.pictures:  # not a count: the same ones on any number of processes
            write_whole(
                prediction_path(self.out, f"pictures/{sample.id}"),
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
