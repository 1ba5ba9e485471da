"""What ``segkit eval`` hands to its ``report.html``: pictures, settings, where it was computed."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import segkit
from segkit.data.loader import Dataset
from segkit.engine.evaluate import Score
from segkit.engine.team import Alone
from segkit.errors import without_secrets
from segkit.metrics.derived import quotient
from segkit.metrics.per_image import image_miou
from segkit.record import environment_now
from segkit.report.contents import Document
from segkit.report.gallery import Exhibit, Group, Spool, choose, exhibit
from segkit.report.log_lines import log_lines
from segkit.report.page import page
from segkit.restored import Trained
from segkit.stored import PLACES
from segkit.whole_files import write_whole

# Where and how fast, not what: a page is the same wherever it was made, and names no folder.
_UNSHOWN = (*PLACES, "out", "ckpt", "rank_timeout")


def write_report(
    out: Path,
    document: Mapping[str, Any],
    line: str,
    *,
    trained: Trained,
    values: Mapping[str, Any],
    colours: Sequence[Sequence[int]],
    gallery: Sequence[Group],
    device: torch.device,
) -> Path:
    """Write ``report.html`` beside the ``score.json`` whose content is ``document``."""
    choices = {"choices": trained.config.choices}
    path = out / "report.html"
    content = Document(
        title=trained.run.name,
        score=document,
        line=line,
        colours=colours,
        gallery=gallery,
        settings={
            "This evaluation": settings(values),
            "The training": settings({**choices, **trained.config.values}),
        },
        environment=environment_now(device),
        training=log_lines(trained.run / "metrics.jsonl", trained.step),
        version=segkit.__version__,
    )
    write_whole(path, page(content))
    return path


def settings(values: Mapping[str, Any]) -> str:
    """A config as text, without what ``_UNSHOWN`` names and without secrets."""
    shown: Any = copy.deepcopy(dict(values))
    for key in _UNSHOWN:
        *nodes, name = key.split(".")
        node = shown
        for part in nodes:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(name, None)
    return yaml.safe_dump(_told(shown), sort_keys=False, allow_unicode=True, width=math.inf)


def _told(value: Any) -> Any:
    """Plain data whose texts are without secrets: YAML's quoting would hide them from a search."""
    if isinstance(value, Mapping):
        return {without_secrets(str(k)): _told(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_told(v) for v in value]
    return without_secrets(value) if isinstance(value, str) else value


# -- the gallery -----------------------------------------------------------------------------------


def gallery_of(score: Score, dataset: Dataset, spool: Spool, team: Alone) -> list[Group]:
    """The worst, median and best images; every process of the team has to ask, rank 0 is answered.

    Images are read again; predictions come from the ``spool`` of the process that made them.
    """
    per_image = score.counts["per_image"]
    mious = [image_miou(row) for row in per_image]
    groups = choose([math.nan if miou is None else miou for miou in mious])
    chosen = [index for group in groups.values() for index in group]
    kept = _gathered([spool.taken(index) for index in chosen], team)
    if not team.leads:
        return []
    predictions = dict(zip(chosen, kept, strict=True))
    shown = {title: [i for i in group if predictions[i]] for title, group in groups.items()}
    return [
        Group(
            title,
            [_exhibit(dataset, i, per_image[i], predictions[i]) for i in shown[title]],
            left_out=len(group) - len(shown[title]),
        )
        for title, group in groups.items()
    ]


def _exhibit(dataset: Dataset, index: int, counts: Tensor, prediction: bytes) -> Exhibit:
    rgb, label = dataset.read(index)
    right, _, missed = counts.sum(0).tolist()
    return exhibit(
        str(dataset.ids[index]),
        rgb,
        label,
        prediction,
        miou=image_miou(counts) or 0.0,
        accuracy=quotient(right, right + missed) or 0.0,
        colours=dataset.labels.colours,
        ignore=dataset.labels.ignore_label,
    )


def _gathered(mine: Sequence[bytes], team: Alone) -> list[bytes]:
    """Each entry as the one process has it that made it; empty where none has."""
    if not mine:
        return []
    lengths = team.sum(torch.tensor([len(data) for data in mine])).tolist()
    bytes_of = torch.zeros((len(mine), max(lengths)), dtype=torch.uint8)
    for row, data in zip(bytes_of, mine, strict=True):
        row[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    total = team.sum(bytes_of)  # all others have zeros there
    return [bytes(row[:n].tolist()) for row, n in zip(total, lengths, strict=True)]
