"""Evaluation as VOC's scores are made: OS8, six scales, flip, 500x375 padded to 513.

    python benchmarks/evaluation.py [--rounds 3] [--device cpu] [--out docs/results/evaluation.json]

Ours is the predictor of ``segkit eval``. Theirs is the same protocol as ports of the papers write
it: one view after another, one image at a time, fp32 in NCHW, a full-size softmax of every view
added up. Where the CRF comes behind it, theirs is pydensecrf on one core. Before anything is timed
both must give the same labels on ``AGREE`` of the pixels, in fp32. The network is drawn, with its
batch norms taken from the pictures. On the CPU each side has a process of its own, theirs with
plain Python's settings; on CUDA theirs has cuDNN's search for kernels.
"""

import copy
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from common import Row, Work, compared, grown, in_fresh_process, not_measured, paired, run
from sides import apart
from torch import Tensor, nn
from torch.nn import functional as F

from segkit import parts
from segkit.config import compose
from segkit.data.normalise import Normalise
from segkit.inference.crf import DenseCrf, labels_of
from segkit.inference.crf_stage import has_pydensecrf
from segkit.inference.predictor import Predictor, resolve_pad, scaled_size
from segkit.models.segmenter import Segmenter
from segkit.protocol import asking, crf_stage, memory_of, scales_of

TITLE = "evaluation, OS8, six scales and flip, 500x375"
SECONDS = 45
AGREE = 0.999
HEIGHT, WIDTH, PAD, CLASSES = 375, 500, 513, 21
CPU_NETWORK = ("model=v3_mnv2", "backbone=mnv2")  # R50 takes half a minute an image
CUDA_NETWORK = ("model=v3", "backbone=r50")
CUDA_IMAGES = 8
PLAIN, REFINED = "views one by one", "views one by one, pydensecrf on one core"


@dataclass(frozen=True, eq=False)
class Photo:
    id: str
    rgb: np.ndarray


def rows(rounds: int, device: str) -> list[Row]:
    """MobileNetV2 on the CPU; R50 on CUDA, with and without CRF."""
    if device == "cpu":
        return [on_cpu(rounds)]
    if not torch.cuda.is_available():
        return [
            not_measured("v3 R50", PLAIN, least=4.0),
            not_measured("v3 R50, CRF", REFINED, least=8.0),
        ]
    return on_cuda(rounds)


def on_cpu(rounds: int) -> Row:
    """One image at a time, as ``eval.batch`` is there."""
    agreed = in_fresh_process(agreed_on_cpu)
    times = compared(*apart((ours_on_cpu,), (theirs_on_cpu,), rounds=rounds))
    peaks = [in_fresh_process(growth_of, side) for side in ("ours", "theirs")]
    memory = {"peak": peaks[0], "their_peak": peaks[1]}
    note = f"same labels on {100 * agreed:.3f} % of the pixels"
    return Row("v3 MobileNetV2", PLAIN, **times, **memory, least=1.0, note=note)  # type: ignore[arg-type]


def growth_of(side: str) -> int:
    """Bytes of resident memory that the labels of one image take."""
    return grown(ours_on_cpu() if side == "ours" else theirs_on_cpu())


def agreed_on_cpu() -> float:
    values, net = values_of(CPU_NETWORK, "cpu"), network(CPU_NETWORK)
    return agreement(predictor(net, values), Port(net, scales_of(values)), [photo(0)])


def ours_on_cpu() -> Work:
    ours, image = predictor(network(CPU_NETWORK), values_of(CPU_NETWORK, "cpu")), photo(0)
    return lambda: ours.labels([image])


def theirs_on_cpu() -> Work:
    scales = scales_of(values_of(CPU_NETWORK, "cpu"))
    theirs, image = Port(network(CPU_NETWORK), scales), photo(0)
    return lambda: theirs.labels(image)


def on_cuda(rounds: int) -> list[Row]:
    """Seconds of one image; ours sees ``CUDA_IMAGES`` at a time, as ``eval.batch`` is there."""
    values = values_of(CUDA_NETWORK, "cuda")
    net = network(CUDA_NETWORK, "cuda")
    photos = [photo(number) for number in range(CUDA_IMAGES)]
    theirs = Port(net, scales_of(values), "cuda")
    with cudnn("allow_tf32", False):  # TF32 is not fp32
        exactly = predictor(net, {**values, "precision": "fp32"}, "cuda")
        agreed = agreement(exactly, theirs, photos[:2])
        del exactly
    ours = predictor(net, values, "cuda")
    mine, others = paired(
        waited(lambda: ours.labels(photos)),
        waited(lambda: [theirs.labels(image) for image in photos]),
        rounds=rounds,
    )
    note = f"same labels on {100 * agreed:.3f} % of the pixels in fp32"
    peaks = [peak(lambda: ours.labels(photos)), peak(lambda: theirs.labels(photos[0]))]
    memory = {"peak": peaks[0], "their_peak": peaks[1]}
    times = compared(each(mine), each(others))
    plain = Row("v3 R50", PLAIN, **times, **memory, least=4.0, note=note)  # type: ignore[arg-type]
    return [plain, with_crf(ours, theirs, values, photos)]


def with_crf(
    ours: Predictor, theirs: "Port", values: parts.Values, photos: Sequence[Tensor]
) -> Row:
    """The CRF of one image on one core takes seconds: one round, of two images of theirs."""
    if not has_pydensecrf():
        return Row("v3 R50, CRF", REFINED, least=8.0, note="not measured: no pydensecrf")
    crf, samples = DenseCrf(), [Photo(str(i), rgb_of(image)) for i, image in enumerate(photos)]

    def refine() -> None:
        for sample, found in zip(samples, ours.probabilities(photos), strict=True):
            stage.submit(sample, found)
        list(stage.results())

    def port(number: int) -> None:
        found = theirs.probabilities(photos[number]).cpu().numpy()
        labels_of(crf.refine(samples[number].rgb, found))

    device = torch.device("cuda")
    with crf_stage(values, device, lambda: False) as stage:
        refine()
        mine = [seconds_of(waited(refine)) / len(photos) for _ in range(2)]
    others = [seconds_of(lambda number=number: port(number)) for number in range(2)]
    return Row("v3 R50, CRF", REFINED, **compared(mine, others), least=8.0)  # type: ignore[arg-type]


# -- ours --------------------------------------------------------------------------------------


def values_of(words: Sequence[str], device: str) -> parts.Values:
    """Of an evaluation, with what it would take from a run on VOC."""
    asked = ("ms=true", "flip=true", "crf=true", f"device={device}", f"eval.pad={PAD}")
    trained = compose("train", ["dataset=voc", "pretrained=none", *words]).values
    return {**compose("eval", asked).values, "tta": trained["tta"]}


def network(words: Sequence[str], device: str = "cpu") -> Segmenter:
    """At OS8; batch norms and logits fit the pictures, so that there are classes to tell apart."""
    values = compose("train", ["dataset=voc", "pretrained=none", *words]).values
    torch.manual_seed(0)
    net = parts.network_of(values, CLASSES, 8)
    net.set_batch_norm("train", 1.0)
    normalise = Normalise(net.pixels.mean, net.pixels.std)
    last = [layer for layer in net.head.modules() if isinstance(layer, nn.Conv2d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        net.train()
        net.scores(normalise(torch.stack([photo(number, 257) for number in range(4)])))
        # Image pooling sees few values above: only as it will be asked are its logits known.
        seen = F.pad(normalise(photo(0)[None]), (0, PAD - WIDTH, 0, PAD - HEIGHT))
        spread, mean = torch.std_mean(net.eval().scores(seen)["out"], (0, 2, 3))
        last.bias.copy_((last.bias - mean) / spread)
        last.weight.div_(spread[:, None, None, None])
    return net.to(device)


def predictor(net: Segmenter, values: parts.Values, device: str = "cpu") -> Predictor:
    there = torch.device(device)
    views = {"scales": scales_of(values), "flip": True, "fusion": values["tta"]["fusion"]}
    return asking(copy.deepcopy(net), values, there, memory_of(values, there), **views)


# -- theirs ------------------------------------------------------------------------------------


class Port:
    """Every view's probabilities at the full size, in turn."""

    def __init__(self, net: Segmenter, scales: Sequence[float], device: str = "cpu") -> None:
        self._net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
        self._normalise = Normalise(net.pixels.mean, net.pixels.std)
        self._scales, self._device = scales, device

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """Of one image uint8 [3, H, W]."""
        height, width = image.shape[1:]
        full = resolve_pad(PAD, (height, width), 8)
        x = self._normalise(image[None].to(self._device)).contiguous()
        x = F.pad(x, (0, full[1] - width, 0, full[0] - height))
        total = torch.zeros(1, CLASSES, *full, device=self._device)
        for view, flipped in self._views(x, full):
            # Its search for kernels, which ours leaves alone in an evaluation.
            with cudnn("benchmark", self._device == "cuda"):
                scores = self._net.scores(view)["out"]
            logits = F.interpolate(scores, full, mode="bilinear", align_corners=True)
            found = logits.softmax(1)
            total += found.flip(-1) if flipped else found
        found = total / (2 * len(self._scales))
        return found[0, :, :height, :width]

    def labels(self, image: Tensor) -> Tensor:
        return self.probabilities(image).argmax(0)

    def _views(self, x: Tensor, full: tuple[int, int]) -> Iterator[tuple[Tensor, bool]]:
        for scale in self._scales:
            size = scaled_size(full, scale)
            resized = F.interpolate(x, size, mode="bilinear", align_corners=True)
            yield resized, False
            yield resized.flip(-1), True


# -- both --------------------------------------------------------------------------------------


def photo(seed: int, side: int = 0) -> Tensor:
    """Clouds of three sizes, uint8 [3, H, W]."""
    size = (side, side) if side else (HEIGHT, WIDTH)
    rng = torch.Generator().manual_seed(seed)
    picture = torch.full((1, 3, *size), 128.0)
    for cells, strength in ((4, 60), (16, 30), (80, 15)):
        coarse = strength * torch.randn(1, 3, cells, cells, generator=rng)
        picture += F.interpolate(coarse, size, mode="bicubic")
    return picture[0].clamp(0, 255).byte()


def rgb_of(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def agreement(ours: Predictor, theirs: Port, photos: Sequence[Tensor]) -> float:
    """The share of pixels with the same label; SystemExit below ``AGREE``, or of one class only."""
    mine = torch.stack([labels.cpu().long() for labels in ours.labels(photos)])
    others = torch.stack([theirs.labels(image).cpu() for image in photos])
    share = (mine == others).float().mean().item()
    classes = len(others.unique())
    if share < AGREE or classes < 2:
        raise SystemExit(f"same labels on {share:.5f} of the pixels, {classes} classes")
    return share


@contextmanager
def cudnn(flag: str, wanted: bool) -> Iterator[None]:
    """With ``torch.backends.cudnn``'s ``flag`` as ``wanted``."""
    before = getattr(torch.backends.cudnn, flag)
    setattr(torch.backends.cudnn, flag, wanted)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, flag, before)


def waited(work: Callable[[], object]) -> Callable[[], None]:
    def until_done() -> None:
        work()
        torch.cuda.synchronize()

    return until_done


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def each(seconds: Sequence[float]) -> list[float]:
    return [found / CUDA_IMAGES for found in seconds]


def peak(work: Callable[[], object]) -> int:
    """Bytes allocated at most, the network included."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=3))
