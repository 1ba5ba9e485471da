"""What ten iterations of the dense CRF cost: exact on CUDA, and pydensecrf as it is used elsewhere.

    python benchmarks/crf.py [--rounds 3] [--photo FILE] [--out docs/results/crf.json]

500×375, 21 classes, default parameters. ``pydensecrf, one core`` is what a user would pick instead.
Rows of one core are processor time of one thread, medians over rounds (what else runs on the
machine hardly counts). The pool's is elapsed time for each image, with as many processes as there
are cores. CUDA's is elapsed time with the copy of the labels to the host, after one image to warm
up; without a CUDA device it is not measured. On the CPU the exact sums are measured where they are
used: on small images.

The picture is drawn: clouds of four sizes with a grain. How many pairs of pixels matter to the
exact sums depends on the picture, and is told (11 to 28 % in six photos that were looked at).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from segkit.inference.bilateral import BilateralFilter
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_pool import CrfPool
from segkit.inference.exact_crf import ExactCrf

WIDTH, HEIGHT, CLASSES = 500, 375, 21
SMALL = ((72, 64), (160, 120))
BAR, STRETCH = 0.5, 0.15  # seconds for an image on a data-centre GPU


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


def read(path: Path, width: int, height: int) -> np.ndarray:
    found = cv2.imread(str(path))
    if found is None:
        raise SystemExit(f"{path} cannot be read")
    rgb = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def answers(width: int, height: int) -> np.ndarray:
    """Probabilities [C, H, W] as of a network: smooth, sure in places."""
    rng = np.random.default_rng(1)
    coarse = rng.standard_normal((24, 24, CLASSES), dtype=np.float32)
    logits = 4 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(logits).permute(2, 0, 1).softmax(0).contiguous().numpy()


def share_of_pairs(rgb: np.ndarray, crf: DenseCrf) -> float:
    return BilateralFilter(torch.from_numpy(rgb), crf.bilateral_xy, crf.bilateral_rgb).pairs


# -- measuring ---------------------------------------------------------------------------------


def one_core(work: Callable[[], object], rounds: int) -> float:
    """Median processor time of this thread."""
    work()
    seconds = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        seconds.append(time.thread_time() - began)
    return statistics.median(seconds)


def in_a_pool(crf: DenseCrf, rgb: np.ndarray, given: np.ndarray, workers: int) -> float:
    """Elapsed time for each of two images for every process."""
    images = 2 * workers
    with CrfPool(crf, workers) as pool:
        pool.submit(Photo("warm", rgb[:32, :32]), given[:, :32, :32])
        list(pool.results())
        began = time.perf_counter()
        for number in range(images):
            pool.submit(Photo(str(number), rgb), given)
        list(pool.results())
        return (time.perf_counter() - began) / images


def on_cuda(crf: DenseCrf, rgb: np.ndarray, given: np.ndarray, rounds: int) -> dict[str, object]:
    stage: ExactCrf[Photo] = ExactCrf(crf, "cuda")
    on_device = torch.from_numpy(given).cuda()

    def refine() -> float:
        began = time.perf_counter()
        stage.submit(Photo("x", rgb), on_device)
        list(stage.results())
        return time.perf_counter() - began

    refine()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = statistics.median(refine() for _ in range(max(5, rounds)))
    used = torch.cuda.max_memory_allocated() - before
    return {"seconds": round(seconds, 4), "gibibytes": round(used / 2**30, 2)}


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def rows_of(photo: Path | None, rounds: int) -> list[dict[str, object]]:
    def picture(width: int, height: int) -> np.ndarray:
        return read(photo, width, height) if photo else drawn(width, height)

    crf, workers = DenseCrf(), len(os.sched_getaffinity(0))
    rgb, given = picture(WIDTH, HEIGHT), answers(WIDTH, HEIGHT)
    full: dict[str, object] = {"size": f"{WIDTH}x{HEIGHT}", "pairs": share_of_pairs(rgb, crf)}
    alone = one_core(lambda: crf.refine(rgb, given), rounds)
    pool = in_a_pool(crf, rgb, given, workers)
    found: list[dict[str, object]] = [
        {**full, "row": "pydensecrf, one core", "seconds": alone},
        {**full, "row": f"pydensecrf, {workers} processes", "seconds": pool},
    ]
    cuda: dict[str, object] = {"seconds": None}
    if torch.cuda.is_available():
        cuda = on_cuda(crf, rgb, given, rounds)
    found.append({**full, "row": "exact, CUDA", "bar": BAR, "stretch": STRETCH, **cuda})
    for width, height in SMALL:
        found += small_rows(crf, picture(width, height), answers(width, height), rounds)
    return found


def small_rows(
    crf: DenseCrf, rgb: np.ndarray, given: np.ndarray, rounds: int
) -> list[dict[str, object]]:
    """Both backends on one core."""
    stage: ExactCrf[Photo] = ExactCrf(crf, "cpu")
    ways: dict[str, Callable[[], object]] = {
        "pydensecrf, one core": lambda: crf.refine(rgb, given),
        "exact, one core": lambda: stage.steps(rgb, given, [crf.iterations]),
    }
    size = {"size": f"{rgb.shape[1]}x{rgb.shape[0]}", "pairs": share_of_pairs(rgb, crf)}
    return [{**size, "row": name, "seconds": one_core(way, rounds)} for name, way in ways.items()]


def is_met(row: dict[str, object]) -> bool | None:
    """None where there is no bar, or nothing measured."""
    seconds, bar = row["seconds"], row.get("bar")
    if not isinstance(seconds, float) or not isinstance(bar, float):
        return None
    return seconds <= bar


def line(row: dict[str, object]) -> str:
    seconds, verdict = row["seconds"], ""
    if "bar" in row:
        verdict = (
            f"{row['bar']} {({True: 'met', False: 'MISSED'}).get(is_met(row), 'not measured')}"
        )
    shown = f"{seconds:7.3f}" if isinstance(seconds, float) else "      -"
    share = f"{100 * float(str(row['pairs'])):5.1f}%"
    return f"{row['row']:24} {row['size']:8} {share}  {shown}  {verdict}".rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photo", type=Path, help="a photo instead of the drawn picture")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_of(options.photo, options.rounds)
    print(f"{'':24} {'size':8} {'pairs':>6}  seconds  bar")
    for row in rows:
        print(line(row))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": machine(),
            "rounds": options.rounds,
            "classes": CLASSES,
            "rows": rows,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if any(is_met(row) is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
