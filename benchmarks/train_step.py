"""A training step: ours, and the same network in the plain step of torchvision's references.

    python benchmarks/train_step.py [--rounds 4] [--device cpu] [--out docs/results/train_step.json]

Ours is what ``segkit train`` runs for the words of a case: bytes come in, the network is channels
last, the loss is checked before the update; on CUDA bf16 and a fused update. Theirs is fp32 in NCHW
with the images already normalised, and on CUDA its own AMP (fp16, gradient scaler). Both have the
same network, without auxiliary head: with our weights in theirs the scores agree (``steps.AGREE``).
To full size each resizes by its own convention; torchvision does not align corners. smp takes no
side that its output stride does not divide: there both get 16 k, where ours would rather have
16 k + 1. On the CPU each side has a process of its own, theirs with plain Python's settings.

Memory on the CPU is what the resident set of a fresh process grows by in two steps; on CUDA it is
the peak of what is allocated, weights included. The bf16 rate of a card is measured in the same
run, on a large product of matrices; a step is counted as three forwards (docs/performance.md).
"""

import gc
import statistics
import sys
import time
from dataclasses import dataclass, replace

import torch
from common import Row, compared, grown, in_fresh_process, not_measured, run
from sides import apart
from steps import OurStep, ReferenceStep, Size, require_same, smp_v3plus, torchvision_v3

from segkit import parts
from segkit.config import compose
from segkit.models.cost import inference_cost

TITLE = "a training step"
SECONDS = 90
V3 = ("model=v3_torchvision", "model.auxiliary=false", "loss=ce")
NAMES = {"r50": "R50", "r101": "R101", "mnv2": "MobileNetV2"}
WARM, STEPS = 5, 5  # on CUDA: updates before the first round, and in each


@dataclass(frozen=True)
class Case:
    """One network, and who else has it."""

    model: str  # v3, of torchvision; v3plus, of smp
    backbone: str
    output_stride: int
    size: Size
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        model = {"v3": "v3", "v3plus": "v3+"}[self.model]
        shown = f"{model} {NAMES[self.backbone]} OS{self.output_stride}"
        return f"{shown}, {self.size.batch}x{self.size.crop}"

    @property
    def rival(self) -> str:
        return {"v3": "torchvision", "v3plus": "smp"}[self.model]

    @property
    def words(self) -> tuple[str, ...]:
        model = V3 if self.model == "v3" else ("model=v3plus_smp",)
        return (*model, f"backbone={self.backbone}", f"os={self.output_stride}", *self.extra)

    def ours(self, device: str = "cpu") -> OurStep:
        return OurStep(self.words, self.size, device)

    def theirs(self, device: str = "cpu") -> ReferenceStep:
        make = torchvision_v3 if self.model == "v3" else smp_v3plus
        torch.manual_seed(0)
        net = make(self.backbone, self.output_stride, self.size.classes)
        return ReferenceStep(net, self.size, device)


CPU_CASES = (
    Case("v3", "r50", 16, Size(321, 2)),
    Case("v3", "mnv2", 16, Size(321, 4)),
    Case("v3plus", "r50", 16, Size(320, 2)),
)
CUDA_CASES = tuple(
    Case(model, backbone, output_stride, Size(513 if model == "v3" else 512, 16))
    for model in ("v3", "v3plus")
    for backbone in ("r50", "r101")
    for output_stride in (16, 8)
)
COMPILED = [case for case in CUDA_CASES if (case.backbone, case.output_stride) == ("r50", 16)]


def rows(rounds: int, device: str) -> list[Row]:
    """On the CPU, or on CUDA; where there is no card its rows say so."""
    if device == "cpu":
        return [*(on_cpu(case, rounds) for case in CPU_CASES), half_on_cpu(CPU_CASES[0], rounds)]
    if not torch.cuda.is_available():
        bars = {"least": 1.5, "most_memory": 0.8}
        return [not_measured(case.name, case.rival, **bars) for case in CUDA_CASES]
    rate = matrix_rate()
    return [row for case in CUDA_CASES for row in on_cuda(case, rounds, rate)]


# -- CPU ---------------------------------------------------------------------------------------


def on_cpu(case: Case, rounds: int, memory: bool = True) -> Row:
    """Ours against theirs in pairs; the peaks, each in a process of its own."""
    in_fresh_process(sameness, case)
    times = compared(*apart((Case.ours, case), (Case.theirs, case), rounds=rounds))
    peaks = {}
    if memory:
        peaks["peak"] = in_fresh_process(growth_of, case, "ours")
        peaks["their_peak"] = in_fresh_process(growth_of, case, "theirs")
    return Row(f"{case.name}, fp32", case.rival, **times, **peaks, least=1.05)  # type: ignore[arg-type]


def half_on_cpu(case: Case, rounds: int) -> Row:
    """bf16 of ours against fp32 of ours: no bar, for it depends on what the CPU can do."""
    half = replace(case, extra=("precision=bf16",))
    sides = (Case.ours, half), (Case.ours, case)
    times = compared(*apart(*sides, rounds=max(2, rounds // 2), as_command=(True, True)))
    return Row(f"{case.name}, bf16", "segkit, fp32", **times)  # type: ignore[arg-type]


def sameness(case: Case) -> None:
    """See ``require_same``; on the CPU, whose fp32 is no TF32."""
    small = replace(case, size=replace(case.size, batch=2))
    aligned = case.model == "v3plus"
    require_same(small.ours().net, small.theirs().net, case.size.crop, aligned)


def growth_of(case: Case, side: str) -> int:
    """Bytes of resident memory that two steps take; the first makes the optimiser's state."""
    step = case.ours() if side == "ours" else case.theirs()
    return grown(lambda: (step(), step()))


# -- CUDA --------------------------------------------------------------------------------------


def on_cuda(case: Case, rounds: int, rate: float) -> list[Row]:
    """One side after the other, for the larger networks would not fit twice on a smaller card."""
    in_fresh_process(sameness, case)
    mine, my_peak = alone_on_cuda(case, "ours", rounds)
    others, their_peak = alone_on_cuda(case, "theirs", rounds)
    bars = {"least": 1.5, "most_memory": 0.8}
    peaks = {"peak": my_peak, "their_peak": their_peak}
    work = multiply_adds(case) * 3 * 2
    share = work / statistics.median(mine) / rate
    note = f"{100 * share:.0f} % of {rate / 1e12:.0f} TFLOP/s"
    found = [Row(case.name, case.rival, **compared(mine, others), **peaks, **bars, note=note)]  # type: ignore[arg-type]
    if case in COMPILED:
        fast, fast_peak = alone_on_cuda(replace(case, extra=("compile=true",)), "ours", rounds)
        share = work / statistics.median(fast) / rate
        peaks["peak"] = fast_peak
        note = f"{100 * share:.0f} % of {rate / 1e12:.0f} TFLOP/s"
        times = compared(fast, others)
        found.append(Row(f"{case.name}, compiled", case.rival, **times, **peaks, note=note))  # type: ignore[arg-type]
    return found


def alone_on_cuda(case: Case, side: str, rounds: int) -> tuple[list[float], int]:
    """Seconds of a step in every round, peak bytes."""
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    step = case.ours("cuda") if side == "ours" else case.theirs("cuda")
    seconds = []
    try:
        for _ in range(WARM):
            step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            torch.cuda.synchronize()
            seconds.append((time.perf_counter() - began) / STEPS)
        peak = torch.cuda.max_memory_allocated()
    finally:
        del step
        gc.collect()
        torch.cuda.empty_cache()
        torch.backends.cudnn.benchmark = before[0]
        torch.set_float32_matmul_precision(before[1])
    return seconds, peak


def multiply_adds(case: Case) -> int:
    """Of the forward of a whole batch."""
    values = compose("train", ["pretrained=none", *case.words]).values
    with torch.device("meta"):
        net = parts.network_of(values, case.size.classes, case.output_stride)
    return case.size.batch * inference_cost(net, (case.size.crop, case.size.crop)).macs


def matrix_rate(side: int = 8192, times: int = 20) -> float:
    """Floating-point operations a second of a bf16 product of two square matrices."""
    one, other = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        one @ other
    torch.cuda.synchronize()
    return 2 * side**3 * times / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=4))
