"""SGD with the papers' parameter rules.

A rule says for which parameters, how much of the base learning rate and of the weight decay.
Rules are read in order and the first match wins; a parameter that no rule covers is an error,
and so is a rule that covers nothing: both have silently ruined training runs elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from segkit.errors import ConfigError

Kind = Literal["weight", "depthwise", "bias", "norm"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)


@dataclass(frozen=True)
class Rule:
    """Multipliers of learning rate and weight decay for parameters named like ``pattern``.

    ``pattern`` is a shell pattern over the full parameter name (``classifier.*``).
    """

    pattern: str = "*"
    kind: Kind | Literal["any"] = "any"
    lr: float = 1.0
    decay: float = 1.0

    def covers(self, name: str, kind: Kind) -> bool:
        return self.kind in ("any", kind) and fnmatchcase(name, self.pattern)


# v3 and v3+: biases at twice the rate, decay on convolution kernels only, and not on depthwise
# ones (the released TensorFlow code; neither paper says).
V3_RULES = (
    Rule(kind="bias", lr=2.0, decay=0.0),
    Rule(kind="norm", decay=0.0),
    Rule(kind="depthwise", decay=0.0),
    Rule(),
)


def parameter_kind(model: nn.Module) -> dict[str, Kind]:
    """The kind of every parameter of ``model``, by name, judged by the module that holds it."""
    names = dict(model.named_parameters())
    return {
        name: _kind(module, own)
        for prefix, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if (name := f"{prefix}.{own}" if prefix else own) in names
    }


def _kind(module: nn.Module, name: str) -> Kind:
    if isinstance(module, _NORMS):
        return "norm"
    if name == "bias":
        return "bias"
    if isinstance(module, _CONVOLUTIONS) and module.groups == module.in_channels > 1:
        return "depthwise"
    return "weight"


def assign(model: nn.Module, rules: Sequence[Rule]) -> dict[str, Rule]:
    """The rule of every parameter, frozen ones included.

    Raises ConfigError naming the parameters without a rule, or the rules without a parameter.
    """
    ruled: dict[str, Rule] = {}
    unruled: list[str] = []
    for name, kind in parameter_kind(model).items():
        rule = next((rule for rule in rules if rule.covers(name, kind)), None)
        if rule is None:
            unruled.append(f"{name} ({kind})")
        else:
            ruled[name] = rule
    if unruled:
        raise ConfigError(
            "PARAM-UNRULED",
            "schedule.rules",
            f"no rule covers {len(unruled)} parameters: {_some(unruled)}",
            'end the list with a rule for pattern "*"',
        )
    idle = [rule for rule in rules if rule.pattern != "*" and rule not in ruled.values()]
    if idle:
        raise ConfigError(
            "RULE-UNUSED",
            "schedule.rules",
            f"no parameter is left for {_some([f'{r.pattern} ({r.kind})' for r in idle])}",
            f"parameters are called {_some(list(ruled))}",
        )
    return ruled


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def sgd(
    model: nn.Module,
    rules: Sequence[Rule],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float,
    nesterov: bool = False,
) -> torch.optim.SGD:
    """SGD over the trainable parameters, one group per rule, each with its ``lr_multiplier``.

    Call it with the model on its device: on a GPU the update is fused, and then skips itself
    where its ``found_inf`` is 1, without asking the host. On the CPU it is fused, too, but where
    torch is asked for deterministic algorithms: the plain one differs from it in the last bit.
    """
    ruled = assign(model, rules)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ConfigError("PARAM-NONE", "schedule", "no parameter is trainable")
    groups = []
    for rule in dict.fromkeys(rules):
        own = [parameter for name, parameter in parameters.items() if ruled[name] == rule]
        if own:
            group = {"params": own, "lr": lr * rule.lr, "lr_multiplier": rule.lr}
            groups.append(group | {"weight_decay": weight_decay * rule.decay})
    kinds = {parameter.device.type for parameter in parameters.values()}
    fused = kinds == {"cuda"} or (
        kinds == {"cpu"} and not torch.are_deterministic_algorithms_enabled()
    )
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, base: float) -> None:
    """Give every group ``base`` times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["lr_multiplier"]
