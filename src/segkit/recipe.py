"""Whether a recipe is one for this network: what a schedule and a loss take for granted of it.

Before any data is read. The networks are those of the stages, on the meta device.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from segkit import parts
from segkit.errors import CheckpointError, ConfigError
from segkit.models.segmenter import Segmenter
from segkit.models.weights import Origin
from segkit.optim import Rule, assign, parameter_kind

_PROBE = 257  # every stride up to 256 leaves two positions at least


def check(values: parts.Values, nets: Sequence[Segmenter]) -> None:
    """Raise ``ConfigError`` for the recipe of another network, or one that could not learn.

    CFG-RECIPE (batch norm frozen or ruled where there is none, or not ruled where there is),
    CFG-PARAM-UNRULED and CFG-RULE-UNUSED (multipliers that fit no parameter), CFG-SHRINK (labels at
    another stride than the scores), CFG-PRETRAINED (see ``check_loaded``).
    """
    check_norms(values, nets[0])
    assign(nets[0], parts.rules_of(values))  # another model's multipliers would find nothing here
    for number, net in enumerate(nets):
        check_shrink(values, net, number)
    if values["pretrained"] == "imagenet" and (left := list(standing(values, nets[0]))):
        what = f"imagenet: {left[0]} stands still (rate 0) and no classifier of ImageNet is it"
        fix = f"{way(values)}; pretrained=none tries it from random"
        raise ConfigError("PRETRAINED", "pretrained", what, fix)


def check_norms(values: parts.Values, net: Segmenter) -> None:
    """A VGG's recipe knows no batch norm, a ResNet's of v2 stands on frozen ones."""
    has_norms = "norm" in parameter_kind(net).values()
    named = f"{net.backbone.name} with this model"
    for number, stage in enumerate(parts.stages_of(values)):
        if stage["bn"] != "train" and not has_norms:
            key = f"schedule.stages.{number}.bn"
            what = f"{stage['bn']}, but {named} has no batch norm: this is a ResNet's recipe"
            fix = f"schedule=v2 is VGG's (model=v2_vgg has it), or {key}=train"
            raise ConfigError("RECIPE", key, what, fix)
    if has_norms and all(rule.kind not in ("any", "norm") for rule in parts.rules_of(values)):
        what = f"no rule covers the batch norm of {named}: this is a VGG's recipe"
        fix = "schedule=v2_resnet is v2's for a ResNet; v3 and v3plus have their own"
        raise ConfigError("RECIPE", "schedule.rules", what, fix)


@torch.no_grad()
def check_shrink(values: parts.Values, net: Segmenter, number: int) -> None:
    """Subsampled labels meet the scores where these are: only there nothing is resized."""
    shrink = values["loss"].get("shrink")
    if shrink is None:
        return
    with torch.device("meta"):
        side = net.eval().scores(torch.empty(1, 3, _PROBE, _PROBE))["out"].shape[-1]
    stride = (_PROBE - 1) // (side - 1)
    if stride != shrink:
        keys = f"loss.shrink, os, schedule.stages.{number}.os"
        what = f"labels at every {shrink}th pixel, but the scores are {stride} apart"
        raise ConfigError("SHRINK", keys, what, f"loss.shrink={stride}, or loss=ce at full size")


def check_loaded(values: parts.Values, net: Segmenter, origin: Origin) -> None:
    """Refuse a file without the classifier where the schedule trains none (v1's MSc).

    ``pretrained_strict=false`` and ``pretrained=none`` go on with a random one, and say so.
    """
    still = list(standing(values, net))
    left = [name for name in still if origin.kind == "none" or name in origin.not_loaded]
    if not left:
        return
    if origin.kind == "none" or not values["pretrained_strict"]:
        print(f"from random, and never trained (rate 0): {', '.join(left)}")
        return
    own = net.state_dict()
    named = ", ".join(f"{name} {list(own[name].shape)}" for name in left)
    what = f"holds no {named}, which stand still here (rate 0)"
    fix = f"{way(values)}; pretrained_strict=false goes on from random"
    raise CheckpointError("WEIGHTS-MISMATCH", values["pretrained"], what, fix)


def standing(values: parts.Values, net: Segmenter) -> Iterator[str]:
    """The classifier's parameters that keep the values they begin with."""
    ruled: Mapping[str, Rule] = assign(net, parts.rules_of(values))
    names = (name for name in ruled if name.startswith(net.classifier_prefixes))
    yield from (name for name in names if ruled[name].lr == 0)


def way(values: Mapping[str, Any]) -> str:
    """What to type to have a trained classifier."""
    base = str(values["model"].get("name", "")).removesuffix("_msc")
    data = values["dataset"]["name"]
    return (
        f"train it first (segkit train model={base} dataset={data} name=first), "
        "then type pretrained=runs/first"
    )
