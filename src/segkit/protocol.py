"""A protocol: how a trained network is asked, and the words that sign what came out."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

import segkit
from segkit import parts
from segkit.data.normalise import Normalise
from segkit.errors import without_secrets
from segkit.identity import flatten
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_pool import CrfPool
from segkit.inference.crf_stage import CrfStage, MeanField, backend_text
from segkit.inference.memory import Memory
from segkit.inference.predictor import Predictor
from segkit.inference.windows import Window
from segkit.models.folding import CannotFold, folded, strangers
from segkit.models.segmenter import Segmenter
from segkit.ranks import place
from segkit.record import notice
from segkit.report.signature import Signature
from segkit.restored import Trained
from segkit.schema import FEEDING_KEYS


def predictor_of(trained: Trained, values: parts.Values, device: torch.device) -> Predictor:
    """The network under the protocol of ``values``."""
    return asking(
        trained.net,
        values,
        device,
        memory_of(values, device),
        scales=scales_of(values),
        flip=values["flip"],
        fusion=values["tta"]["fusion"],
    )


def asking(
    net: Segmenter, values: parts.Values, device: torch.device, memory: Memory, **views: Any
) -> Predictor:
    """``net`` as ``eval.*`` says; without ``views`` (scales, flip, fusion) once and unscaled.

    It is asked with the weights that it has now.
    """
    return Predictor(
        quickest(net),
        output_stride=net.output_stride,
        pad=values["eval"]["pad"],
        window=window_of(values),
        device=device,
        precision=parts.precision_of(values, device),
        normalise=Normalise(net.pixels.mean, net.pixels.std),
        memory=memory,
        **views,
    )


def quickest(net: Segmenter) -> Segmenter:
    """``net`` with its batch norms folded, unless exact kernels are asked for or it cannot be.

    A network with modules of the user's own is asked as it is (``folding.strangers``).
    """
    if torch.are_deterministic_algorithms_enabled() or strangers(net):
        return net
    try:
        return folded(net)
    except CannotFold as reason:
        _say_unfolded(str(reason))
        return net


@functools.cache
def _say_unfolded(reason: str) -> None:
    """Once, not at every validation."""
    if place().rank == 0:
        notice(f"batch norms stay as they are ({reason}); results are the same, later")


def memory_of(values: parts.Values, device: torch.device) -> Memory:
    """How many images or windows go through the network at once, until memory runs short."""
    return Memory(device, values["eval"]["batch"] or (8 if device.type == "cuda" else 1))


def window_of(values: parts.Values) -> Window | None:
    window = values["eval"]["window"]
    return Window(**window) if window["size"] else None


def scales_of(values: parts.Values) -> tuple[float, ...]:
    return tuple(values["tta"]["scales"]) if values["ms"] else (1.0,)


def crf_of(values: parts.Values) -> DenseCrf:
    node = values["densecrf"]
    return DenseCrf(**{f.name: node[f.name] for f in fields(DenseCrf)})


def crf_stage(
    values: parts.Values, device: torch.device, should_stop: Callable[[], bool]
) -> CrfStage[Any]:
    """The refining stage of ``crf=true``; what is taken is told on stderr."""

    def make_pool() -> CrfPool[Any]:
        return CrfPool(
            crf_of(values),
            workers=parts.crf_workers(),
            timeout=values["worker_timeout"],
            should_stop=should_stop,
        )

    return CrfStage(
        crf_of(values),
        values["densecrf"]["backend"],
        device,
        make_pool=make_pool,
        should_stop=should_stop,
        say=notice if place().rank == 0 else lambda _: None,
    )


def mean_field_of(values: parts.Values, device: torch.device) -> MeanField:
    """What gives the states of mean field, for the papers' strip."""
    return MeanField(crf_of(values), values["densecrf"]["backend"], device)


def signed_crf(values: parts.Values, taken: Tensor | None) -> dict[str, Any] | None:
    """The backend that was taken and the parameters; a preset is nothing but these."""
    if not values["crf"]:
        return None
    assert taken is not None, "the stage's counter was among the evaluation's"
    return {**asdict(crf_of(values)), "backend": backend_text(taken)}


def slug(values: parts.Values, trained: Trained) -> str:
    """A folder name for a protocol: ``camvid-val-os8-ms-flip-crf-1a2b3c``.

    The hash is over everything that can change the score, so that no score replaces another's.
    """
    flags = [name for name in ("ms", "flip", "crf") if values[name]]
    window = values["eval"]["window"]
    own = [f"os{values['os']}"] if values["os"] else []
    own += [f"window{window['size']}"] if window["size"] else []
    asked = {k: values[k] for k in ("tta", "densecrf", "eval", "dataset", "precision", "device")}
    free = ("weights", "batch", "boundaries", "report", *(() if window["size"] else ("window",)))
    asked["eval"] = {k: v for k, v in values["eval"].items() if k not in free}
    # A preset is nothing but its parameters, which stand beside it.
    asked["densecrf"] = {k: v for k, v in values["densecrf"].items() if k != "preset"}
    asked["dataset"] = {k: v for k, v in values["dataset"].items() if k not in FEEDING_KEYS}
    scored = [trained.step, *([trained.scored] if trained.scored else [])]
    if values["deterministic"]:  # one that is not keeps the name it has
        asked["deterministic"] = True
    exact = hashlib.sha256(json.dumps([asked, *scored], sort_keys=True, default=str).encode())
    data = [values["dataset"]["name"], parts.split_of(values)]
    return "-".join([*data, *own, *flags, exact.hexdigest()[:6]])


def data_name(values: parts.Values, trained: Trained) -> str:
    """The data set, with the arguments in which it differs from the run's own."""
    mine, own = flatten(values["dataset"]), flatten(trained.config.values["dataset"])
    free = ("name", "_target_", "root", "train_split", "val_split", *FEEDING_KEYS)
    changed = [
        f"{k}:{v}" for k, v in mine.items() if k.split(".")[0] not in free and v != own.get(k)
    ]
    return without_secrets(f"{mine['name']}({','.join(changed)})" if changed else mine["name"])


def origin_text(origin: Mapping[str, Any], longest: int = 8) -> str:
    """``run:first@200:35b12e12 < imagenet:file:9b1adaf0``: where weights come from, and those."""
    named = [origin.get("file"), str(origin.get("sha256") or "")[:8]]
    text = ":".join([str(origin.get("kind", "unknown")), *(str(n) for n in named if n)])
    before = origin.get("before")
    if not isinstance(before, Mapping) or longest < 2:
        return text
    return f"{text} < {origin_text(before, longest - 1)}"


def sign(
    trained: Trained,
    values: parts.Values,
    device: torch.device,
    *,
    images: int,
    taken: Tensor | None = None,
) -> Signature:
    """Everything that could change the number; ``taken`` are the counts of the CRF's backends."""
    config, net = trained.config, trained.net
    return Signature(
        dataset=data_name(values, trained),
        split=parts.split_of(values),
        images=images,
        model=config.choices["model"],
        backbone=config.choices["backbone"],
        train_os=trained.train_os,
        eval_os=net.output_stride,
        multi_grid=net.multi_grid,
        pad=values["eval"]["pad"],
        scales=scales_of(values),
        fusion=values["tta"]["fusion"],
        flip=values["flip"],
        crf=signed_crf(values, taken),
        weights=origin_text(trained.weights),
        checkpoint=trained.kind,
        step=trained.step,
        scored=trained.scored,
        seed=config.values["seed"],
        precision=parts.precision_of(values, device),
        device=device.type,
        segkit=segkit.__version__,
        torch=torch.__version__,
        config=trained.digest,
        window=values["eval"]["window"] if values["eval"]["window"]["size"] else None,
        deterministic=values["deterministic"],
    )
