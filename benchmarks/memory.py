"""The memory of a training step on a CUDA card, predicted: bytes counted, no card needed.

    python benchmarks/memory.py [--out docs/results/bench/cpu/memory.json]

The engine's own update, and the references' step with its AMP on the same network, are taken on the
meta device while the bytes of all living tensors are counted (what ``segkit plan --card-memory``
does); the peak is that of the second update, when the momentum is there. cuDNN's workspaces are in
neither. ``train_step --device cuda`` measures the same where there is a card.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from common import Row, run
from steps import VOID, smp_v3plus, torchvision_v3
from torch import nn
from torch.nn import functional as F
from train_step import CUDA_CASES, Case

from segkit import parts
from segkit.config import compose
from segkit.planning.live import Live, half_convolutions
from segkit.planning.update import CUDA_BLOCK, Size, simulated

TITLE = "memory of a step on CUDA, predicted"
RECOMPUTED = 0.4
META = torch.device("meta")


def rows(rounds: int, device: str) -> list[Row]:  # noqa: ARG001
    """Counting needs neither rounds nor a device."""
    return [row for case in CUDA_CASES for row in of(case)]


def of(case: Case) -> list[Row]:
    theirs = counted_reference(case)
    fast = counted(case)
    exact = counted(replace(case, extra=("deterministic=true",)))
    said = "predicted, not measured"
    recomputed = counted(replace(case, extra=(f"recompute={RECOMPUTED}",)))
    name = f"{case.name}, {100 * RECOMPUTED:.0f} % recomputed"
    return [
        Row(case.name, case.rival, peak=fast, their_peak=theirs, note=said),
        Row(name, case.rival, peak=recomputed, their_peak=theirs, note=said),
        Row(f"{case.name}, exact loss", case.rival, peak=exact, their_peak=theirs, note=said),
    ]


def counted(case: Case) -> int:
    """Peak bytes of ours in bf16."""
    words = [f"schedule.batch={case.size.batch}", f"augment.crop={case.size.crop}"]
    values = compose("train", ["pretrained=none", "device=cpu", *words, *case.words]).values
    (stage, *_) = parts.stages_of(values)
    size = Size(case.size.batch, 1, case.size.crop)
    step = simulated(values, stage, size, case.size.classes, device="cuda", precision="bf16")
    return step.peak


def counted_reference(case: Case) -> int:
    """Peak bytes of torchvision's or smp's network in the references' step."""
    make: Callable[[str, int, int], nn.Module]
    make = torchvision_v3 if case.model == "v3" else smp_v3plus
    with META:
        net = make(case.backbone, case.output_stride, case.size.classes)
    sides = (case.size.batch, case.size.crop, case.size.crop)
    with Live(CUDA_BLOCK) as live:
        live.hold(net.train().parameters())
        live.hold(net.buffers())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
        images = torch.empty(sides[0], 3, *sides[1:], device=META)
        labels = torch.zeros(sides, dtype=torch.int64, device=META)
        for _ in range(2):
            # What follows the last convolution stays as narrow, as under autocast.
            with half_convolutions():
                found = net(images)
            logits = found["out"] if isinstance(found, dict) else found
            loss = F.cross_entropy(logits.float(), labels, ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            del found, logits, loss
    gc.collect()
    return live.peak


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=1))
