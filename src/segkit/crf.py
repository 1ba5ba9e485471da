"""``segkit crf tune``: the papers' search for the dense CRF's parameters, on one run's answers."""

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from segkit import parts, restored
from segkit.config import Composed
from segkit.data.bars import bar, size
from segkit.data.dataset import Dataset
from segkit.data.loader import eval_samples
from segkit.data.views import Chosen
from segkit.engine.signals import Stop, StopRequested, stopping
from segkit.errors import ConfigError, ExitCode
from segkit.eval import check_labels
from segkit.finished import digest_of
from segkit.inference import crf_presets
from segkit.lock import Lock
from segkit.protocol import crf_of, crf_stage, mean_field_of, predictor_of, sign
from segkit.record import notice
from segkit.report.names import make_folder
from segkit.report.tables import printable
from segkit.restored import Trained
from segkit.segmenting import protocol_digest, refuse_several_processes
from segkit.tuning.grid import FIXED, NEIGHBOURS, SEARCHED, search_for, spread
from segkit.tuning.probabilities import Probabilities
from segkit.tuning.record import Record
from segkit.tuning.search import Tuning, best, coarse_to_fine, points_left
from segkit.tuning.table import Result, write_result
from segkit.whole_files import refuse_links


def main(composed: Composed) -> int:
    """Search, and write the table, the YAML and the words to type."""
    values = composed.values
    refuse_several_processes(values, "crf tune")
    if values["inputs"] != ["tune"]:
        found = " ".join(values["inputs"]) or "nothing"
        raise ConfigError("USAGE", "crf", f"{found} asked for", "type segkit crf tune ckpt=RUN")
    device = parts.device_of(values)
    parts.deterministic(values["deterministic"])
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.asked_for(composed, path, device)
    values = with_fixed(restored.inherit(composed, trained.config), composed)
    scored = parts.scored_set(values)
    dataset = Chosen(scored, spread(len(scored), values["n"]))
    check_labels(dataset, trained)
    asked = protocol_digest(trained, {**values, "crf": False}, device)
    network = digest_of([asked, facts(dataset)])
    out = Path(values["out"]) if values["out"] else trained.run / "crf" / network[:8]
    if not values["out"]:
        refuse_links(trained.run, out)
    make_folder(out)
    lock = Lock(out / ".lock", "OUT-LOCKED", "wait for it, or choose another out=")
    try:
        with stopping() as stop:
            try:
                result = stop.wait(tune, dataset, trained, values, device, out, network[:12], stop)
            except StopRequested:
                fix = "the same command goes on"
                raise stop.interrupted(out, "search stopped; what is done is kept", fix) from None
    finally:
        lock.release()
    for line in write_result(out, result):
        print(printable(line, sys.stdout))
    return ExitCode.OK


def with_fixed(values: dict[str, Any], composed: Composed) -> dict[str, Any]:
    """``values`` with what the papers' search holds fixed, unless it was typed."""
    typed = restored.typed_keys(composed)
    for name in SEARCHED:
        if f"densecrf.{name}" in typed:
            what = "is what the search looks for"
            raise ConfigError("USAGE", f"densecrf.{name}", what, "leave it out")
    typed = crf_presets.keys_of(typed)
    kept = {name: value for name, value in FIXED.items() if f"densecrf.{name}" not in typed}
    return {**values, "densecrf": {**values["densecrf"], **kept}}


def facts(dataset: Dataset) -> dict[str, Any]:
    """What the search looks at."""
    return {"ids": list(map(str, dataset.ids)), "classes": list(dataset.labels.names)}


def tune(
    dataset: Dataset,
    trained: Trained,
    values: dict[str, Any],
    device: torch.device,
    out: Path,
    network: str,
    stop: Stop,
) -> Result:
    """Ask the network once, then score every point."""
    probabilities = Probabilities(out, network, dataset, trained.labels.num_classes)
    ask_network(probabilities, dataset, trained, values, device, stop)
    crf, search = crf_of(values), search_for(str(trained.config.values["model"]["name"]))
    with crf_stage(values, device, stop) as stage:
        backend = stage.taken.words()
        record = Record(out, digest_of([network, probabilities.seen, asdict(crf), backend]))
        left = points_left(search, record)
        images = left * len(dataset)
        seconds = seconds_for_one(dataset, probabilities, values, device) if left else 0.0
        at_once = parts.crf_workers() if backend == "pydensecrf" else 1
        about = f": about {duration(seconds * images / at_once)}" if left else ""
        every = len(search.coarse()) + NEIGHBOURS
        notice(
            f"{left} of {every} points x {len(dataset)} images{about} ({search.paper}: {search};"
            " then half the steps around the best)"
        )
        with bar("crf tune", images, "img") as advance:
            tuning = Tuning(
                dataset,
                probabilities,
                record,
                crf=crf,
                stage=stage,
                should_stop=stop,
                on_image=lambda: advance(1),
            )
            alone = tuning.alone()
            rows = coarse_to_fine(tuning, search)
    asked = sign(trained, {**values, "crf": False}, device, images=len(dataset))
    words = words_to_type({**asdict(crf), **asdict(best(rows).point)}, values, trained)
    return Result(str(asked), search, backend, crf, alone, rows, words)


def ask_network(
    probabilities: Probabilities,
    dataset: Dataset,
    trained: Trained,
    values: dict[str, Any],
    device: torch.device,
    stop: Stop,
) -> None:
    """Make the probabilities that are not there yet."""
    missing = []
    for index, is_missing in probabilities.missing():
        stop.check()
        missing += [index] if is_missing else []
    if not missing:
        notice(f"the network's answers to {len(dataset)} images are there from before")
        return
    predictor = predictor_of(trained, values, device)
    workers, timeout = parts.workers_of(values), values["worker_timeout"]
    samples = eval_samples(
        Chosen(dataset, missing), workers=workers, timeout=timeout, should_stop=stop
    )
    with bar("network", len(missing), "img") as advance:
        for sample in samples:
            found = predictor(sample.image).cpu().numpy()
            if sample.index == 0:
                total = size(2 * found.size * len(missing))
                notice(f"keeping the network's answers to {len(missing)} images: about {total}")
            probabilities.keep(missing[sample.index], sample.rgb, found)
            advance(1)
    stop.check()  # the wait for samples ends early at a stop


def seconds_for_one(
    dataset: Dataset, probabilities: Probabilities, values: dict[str, Any], device: torch.device
) -> float:
    """How long the CRF takes for the first image, here and now."""
    rgb, _ = dataset.read(0)
    given, count = probabilities.load(0), crf_of(values).iterations
    began = time.perf_counter()
    mean_field_of(values, device).steps(rgb, given, [count])
    return time.perf_counter() - began


def words_to_type(node: Mapping[str, Any], values: Mapping[str, Any], trained: Trained) -> str:
    """The evaluation of the whole split with what was found."""
    asked = {"ckpt": shlex.quote(str(trained.path)), "os": values["os"]}
    asked |= {name: str(values[name]).lower() for name in ("ms", "flip") if values[name]}
    asked |= {"crf": "true", **{f"densecrf.{k}": v for k, v in node.items()}}
    words = (
        f"{k}={f'{v:g}' if isinstance(v, float) else v}" for k, v in asked.items() if v is not None
    )
    return f"segkit eval {' '.join(words)}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
