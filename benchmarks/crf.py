"""What ten iterations of the dense CRF cost: exact on CUDA, and pydensecrf in a pool of processes.

    python benchmarks/crf.py [--rounds 3] [--device cuda]

500×375, 21 classes, default parameters. The alternative is pydensecrf called in a loop, one image
after the other on one core, which is what every project that uses it does. The pool's time is
elapsed time for each image, with as many processes as there are cores. CUDA's is elapsed time with
the copy of the labels to the host. On the CPU the exact sums are measured where they are used: on
small images, in processor time of one thread.

The picture is drawn: clouds of four sizes with a grain. How many pairs of pixels matter to the
exact sums depends on the picture, and is told (11 to 28 % in six photos that were looked at).
"""

import os
import sys
import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from common import Row, compared, not_measured, paired, run

from segkit.inference.bilateral import BilateralFilter
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_pool import CrfPool
from segkit.inference.exact_crf import ExactCrf

WIDTH, HEIGHT, CLASSES = 500, 375, 21
SMALL = ((72, 64), (160, 120))
TITLE = "dense CRF, ten iterations"
SECONDS = 40
ALONE = "pydensecrf, one core"
LEAST = 10.0  # times as fast: exact on CUDA
MOST = 0.5  # seconds for an image on a data-centre GPU
SHARE = 0.9  # of what as many processes as cores could give


@dataclass(frozen=True, eq=False)
class Photo:
    id: str
    rgb: np.ndarray


# -- pictures ----------------------------------------------------------------------------------


def drawn(width: int, height: int) -> np.ndarray:
    """Clouds of grey with a little colour and a grain."""
    rng = np.random.default_rng(0)
    picture = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((3, 40), (10, 20), (40, 8), (120, 4)):
        grey = rng.standard_normal((cells, cells, 1), dtype=np.float32)
        colour = rng.standard_normal((cells, cells, 3), dtype=np.float32)
        coarse = strength * (grey + 0.25 * colour)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += 2 * rng.standard_normal((height, width, 3), dtype=np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def answers(width: int, height: int) -> np.ndarray:
    """Probabilities [C, H, W] as of a network: smooth, sure in places."""
    rng = np.random.default_rng(1)
    coarse = rng.standard_normal((24, 24, CLASSES), dtype=np.float32)
    logits = 4 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(logits).permute(2, 0, 1).softmax(0).contiguous().numpy()


def share_of_pairs(rgb: np.ndarray, crf: DenseCrf) -> float:
    return BilateralFilter(torch.from_numpy(rgb), crf.bilateral_xy, crf.bilateral_rgb).pairs


# -- rows --------------------------------------------------------------------------------------


def told(rgb: np.ndarray, crf: DenseCrf) -> str:
    return f"{100 * share_of_pairs(rgb, crf):.0f} % of the pairs matter"


def pooled(crf: DenseCrf, rgb: np.ndarray, given: np.ndarray, rounds: int) -> Row:
    """Each round three images for every process."""
    workers = len(os.sched_getaffinity(0))
    images = 3 * workers
    with CrfPool(crf, workers) as pool:

        def stream() -> float:
            began = time.perf_counter()
            for number in range(images):
                pool.submit(Photo(str(number), rgb), given)
            list(pool.results())
            return (time.perf_counter() - began) / images

        seconds = paired(stream, lambda: crf.refine(rgb, given), rounds=rounds)
    name = f"pydensecrf, {workers} processes, {WIDTH}x{HEIGHT}"
    return Row(name, ALONE, **compared(*seconds), least=SHARE * workers)


def on_cuda(crf: DenseCrf, rgb: np.ndarray, given: np.ndarray, rounds: int) -> Row:
    stage: ExactCrf[Photo] = ExactCrf(crf, "cuda")
    on_device = torch.from_numpy(given).cuda()

    def exact() -> None:
        stage.submit(Photo("x", rgb), on_device)
        list(stage.results())

    exact()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = paired(exact, lambda: crf.refine(rgb, given), rounds=rounds)
    peak = torch.cuda.max_memory_allocated() - before
    pair = compared(*seconds)
    return Row(CUDA, ALONE, **pair, peak=peak, least=LEAST, most=MOST, note=told(rgb, crf))


def small(crf: DenseCrf, width: int, height: int, rounds: int) -> Row:
    """Both backends on one core."""
    rgb, given = drawn(width, height), answers(width, height)
    stage: ExactCrf[Photo] = ExactCrf(crf, "cpu")
    seconds = paired(
        lambda: stage.steps(rgb, given, [crf.iterations]),
        lambda: crf.refine(rgb, given),
        rounds=rounds,
        clock=time.thread_time,
    )
    name = f"exact, one core, {width}x{height}"
    return Row(name, ALONE, **compared(*seconds), note=told(rgb, crf))


CUDA = f"exact, CUDA, {WIDTH}x{HEIGHT}"


def rows(rounds: int, device: str) -> list[Row]:
    torch.set_num_threads(1)
    crf, rgb, given = DenseCrf(), drawn(WIDTH, HEIGHT), answers(WIDTH, HEIGHT)
    there = torch.cuda.is_available()
    absent = [] if there else [not_measured(CUDA, ALONE, least=LEAST, most=MOST)]
    if device == "cuda":
        return [on_cuda(crf, rgb, given, rounds)] if there else absent
    found = [pooled(crf, rgb, given, rounds), *absent]
    return found + [small(crf, width, height, rounds) for width, height in SMALL]


if __name__ == "__main__":
    sys.exit(run(TITLE, rows, rounds=5))
