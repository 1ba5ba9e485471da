"""Config values -> the objects a task works with."""

import functools
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch

import segkit
from segkit import instantiate
from segkit.data.dataset import instances_of
from segkit.data.labels import LabelSet
from segkit.data.loader import Dataset
from segkit.engine.team import Alone, Team, silence
from segkit.errors import ConfigError, EnvironmentFault
from segkit.models.segmenter import Segmenter, build_segmenter
from segkit.optim import Rule
from segkit.ranks import place
from segkit.schedules import Policy

Values = Mapping[str, Any]


def device_of(values: Values) -> torch.device:
    """The device asked for; ``auto`` is CUDA where there is one, a card for each process."""
    name = str(values["device"])
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentFault("NO-CUDA", "device", "no CUDA device here", "type device=cpu")
    if name.startswith("cuda") and (here := place()).size > 1:
        cards = torch.cuda.device_count()
        if name != "cuda" or here.local_rank >= cards:
            what = f"{here.local_size} processes on this machine, device={name}, {cards} cards"
            raise ConfigError("DEVICES", "device", what, "one process for each card, device=cuda")
        name = f"cuda:{here.local_rank}"
        torch.cuda.set_device(here.local_rank)
    return torch.device(name)


def device_count(name: str) -> int | None:
    """The CUDA devices that ``device=name`` may use; None where it means the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return None
    return torch.cuda.device_count()


def team_of(values: Values) -> Alone:
    """This process among those that a launcher started; joins them."""
    here = place()
    if here.size == 1:
        return Alone()
    if here.rank:
        silence()
    return Team(here.rank, here.size, device_of(values), values["rank_timeout"])


def precision_of(values: Values, device: torch.device) -> Any:
    """``auto`` is bf16 on CUDA and fp32 on the CPU, where bf16 is slower on most machines.

    With ``deterministic=true`` it is fp32 everywhere.
    """
    if values["precision"] == "auto":
        return "bf16" if device.type == "cuda" and not values.get("deterministic") else "fp32"
    return values["precision"]


def workers_of(values: Values) -> int:
    """Loader processes; null is one per core, at most 8."""
    if values["workers"] is not None:
        return int(values["workers"])
    return min(crf_workers(), 8)


def crf_workers() -> int:
    """Processes of the CRF: this process's share of the cores."""
    return max(1, cores() // place().local_size)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dataset_of(values: Values, split: str) -> Dataset:
    """The data set's ``split``."""
    dataset: Dataset = instantiate.partial(dataset_node(values, split), "dataset")(split=split)
    return dataset


def dataset_node(values: Values, split: str) -> dict[str, Any]:
    """The data set's keys; what stands under ``dataset.val`` holds for the val split only."""
    node = dict(values["dataset"])
    own = node.get("val") or {}
    if not isinstance(own, Mapping):
        raise ConfigError("TYPE", "dataset.val", f"{own!r} is not a set of keys", "{count: 60}")
    if split == node.get("val_split"):
        node |= own
    return node


def scored_set(values: Values) -> Dataset:
    """What is evaluated: ``eval.split`` (null: the val split), cut to ``eval.limit`` images."""
    return limited(values, dataset_of(values, split_of(values)))


def limited(values: Values, dataset: Dataset) -> Dataset:
    """``dataset`` cut to ``eval.limit`` samples."""
    limit = values["eval"]["limit"]
    return dataset if limit is None else Head(dataset, min(limit, len(dataset)))


def split_of(values: Values) -> str:
    """The split that is evaluated."""
    return str(values["eval"]["split"] or values["dataset"]["val_split"])


def versions() -> dict[str, Any]:
    """What several processes must have in common, and a record should name."""
    return {"torch": torch.__version__, "segkit": segkit.__version__}


def digest_of(dataset: Dataset) -> str:
    """How many samples, and a checksum of their ids in order."""
    listed = "\n".join(map(str, dataset.ids)).encode()
    return f"{len(dataset)} ({zlib.crc32(listed):08x})"


class Head:
    """The first ``count`` samples of a data set."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.labels, self.ids, self.read = dataset.labels, dataset.ids[:count], dataset.read
        self.instances = functools.partial(instances_of, dataset)

    def __len__(self) -> int:
        return len(self.ids)


def network_of(values: Values, num_classes: int, output_stride: int) -> Segmenter:
    """A fresh network; the same weights fit it at any output stride."""
    return build_segmenter(
        instantiate.partial(values["backbone"], "backbone"),
        instantiate.partial(values["model"], "model"),
        num_classes=num_classes,
        output_stride=output_stride,
        multi_grid=values["multi_grid"],
    )


def loss_of(values: Values, labels: LabelSet) -> Any:
    """The loss, which must weigh every class where it weighs any."""
    weights = values["loss"].get("class_weights")
    if weights is not None and len(weights) != labels.num_classes:
        found = f"{len(weights)} weights for {labels.num_classes} classes"
        raise ConfigError("RANGE", "loss.class_weights", found, "one weight for each class")
    return instantiate.partial(values["loss"], "loss")(ignore_label=labels.ignore_label)


def rules_of(values: Values) -> list[Rule]:
    return [Rule(**rule) for rule in values["schedule"]["rules"]]


def policy_of(values: Values) -> Policy:
    schedule = values["schedule"]
    return Policy(
        name=schedule["policy"],
        power=schedule["power"],
        end=schedule["end_lr"],
        every=schedule["step_every"],
        factor=schedule["step_factor"],
        warmup=schedule["warmup_steps"],
        warmup_rate=schedule["warmup_lr"],
    )


def stages_of(values: Values) -> list[dict[str, Any]]:
    """The schedule's stages with what was left out filled in from the groups."""
    schedule = values["schedule"]
    groups = {
        "os": values["os"],
        "split": values["dataset"]["train_split"],
        "batch": schedule["batch"],
    }
    return [
        {k: groups[k] if v is None and k in groups else v for k, v in stage.items()}
        for stage in schedule["stages"]
    ]


def check_network(values: Values) -> list[Segmenter]:
    """Build every stage's network without memory, so that what cannot be fails before data is read.

    Gives the networks, on the meta device, for further questions (recipe.py).
    Raises ``ConfigError`` for unknown or mistyped arguments, an output stride or a multi-grid that
    the backbone cannot have, scores without a loss, and a batch too small to train batch norm.
    """
    instantiate.partial(values["dataset"], "dataset")
    loss = instantiate.partial(values["loss"], "loss")(ignore_label=255)
    with torch.device("meta"):
        nets = [network_of(values, 2, stage["os"]) for stage in stages_of(values)]
        check_batches(nets[-1], values)
    for net in nets:
        net.recompute(values["recompute"])
    check_auxiliary(nets[-1], values)
    check_scales(nets[-1], loss)
    return nets


def check_auxiliary(net: Segmenter, values: Values) -> None:
    """Refuse an auxiliary score that the loss leaves out, or one that it misses.

    Unused, its parameters would have no gradient, for which several processes wait forever.
    """
    weight = values["loss"].get("aux_weight") or 0
    if weight and not net.head.gives_aux:
        fix = "loss.aux_weight=0, or model=v3_torchvision"
        raise ConfigError("AUX", "loss.aux_weight", f"{weight}: the model has no aux score", fix)
    if net.head.gives_aux and not weight:
        fix = "loss.aux_weight=0.5, or model.auxiliary=false"
        raise ConfigError("AUX", "loss.aux_weight", "0 leaves out the model's aux score", fix)


def check_scales(net: Segmenter, loss: object) -> None:
    """Refuse scores of several input scales that the loss leaves out (v2's MSC, facts §2.8).

    A loss of the user's own that says nothing of ``reads_scales`` is trusted.
    """
    if len(net.head.input_scales) > 1 and not getattr(loss, "reads_scales", True):
        what = "leaves out the losses of the model's input scales (model.msc=true)"
        raise ConfigError("SCALES", "loss", what, "loss=msc, or model.msc=false")


def check_batches(net: Segmenter, values: Values) -> None:
    """Refuse a schedule whose smallest forward cannot train batch norm.

    Samples are a stream without a short last batch, so the smallest forward is batch/accumulate.
    """
    parts = values["schedule"]["accumulate"]
    # Batch norm over all devices sees the images of all of them.
    joined = values["sync_bn"] and device_count(values["device"]) is not None
    apart = 1 if joined else place().size
    for number, stage in enumerate(stages_of(values)):
        net.set_batch_norm(stage["bn"])
        images = stage["batch"] // (parts * apart)
        if images < net.min_train_batch:
            key = f"schedule.stages.{number}"
            among = f" on each of {apart} devices" if apart > 1 else ""
            found = f"{images} image at a time{among} leaves image pooling's batch norm one value"
            fix = f"raise schedule.batch, lower schedule.accumulate, or {key}.bn=frozen_stats"
            raise ConfigError("BATCH-NORM", f"{key}.batch", found, fix)


def deterministic(wanted: bool) -> None:
    """Slow exact kernels, where asked for: the same bits every time, and no TF32.

    torch's flag says it to all others: a faster path that changes a bit asks it and stays away.
    """
    if wanted:
        # Its default fills every fresh tensor, to show who reads it too early: a sixth of the time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
    else:
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = not wanted
    torch.use_deterministic_algorithms(wanted)


def compiler_of(values: Values, device: torch.device) -> Any:
    """``torch.compile`` where it is asked for and there is a CUDA device."""
    if not values["compile"] or device.type != "cuda":
        return None
    return functools.partial(torch.compile, dynamic=False)
