"""How far the dense CRF's backends are from the sums they stand for, and from one another.

    python tools/crf_agreement.py [--out docs/results/crf_agreement.json]

Ten iterations with the default parameters. The sums are those of tests/inference/exact_sums.py:
every pair of pixels, in float64. Scenes are drawn; with SEGKIT_DATA also pieces of the photos of
``densecrf/`` there, with probabilities drawn after their annotations. What tensor cores and half
precision make of the same attention is computed here by rounding as they do.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segkit.inference import bilateral
from segkit.inference.crf import NORMALIZATIONS, DenseCrf
from segkit.inference.exact_crf import ExactCrf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/inference"))

from exact_sums import cut, half, mean_field, scene, three_products  # noqa: E402

Case = tuple[str, np.ndarray, np.ndarray]
Refine = Callable[[DenseCrf, np.ndarray, np.ndarray], np.ndarray]

CLASSES = 21


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/crf_agreement.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, Refine] = {
        "exact": exact,
        "exact, products of TF32 as on CUDA": rounded(three_products),
        "the same in half precision": rounded(half),
        "pydensecrf": lambda crf, rgb, given: crf.refine(rgb, given),
    }
    small = list(cases(40, 44))
    rows = []
    for how in NORMALIZATIONS:
        crf = DenseCrf(normalization=how)
        wanted = [mean_field(rgb, given, crf) for _, rgb, given in small]
        for way, refine in ways.items():
            found = [refine(crf, rgb, given) for _, rgb, given in small]
            rows.append({"way": way, "normalization": how, **compared(found, wanted)})
            print(rows[-1], flush=True)
    hard = [("hard", *scene("hard", 64, 72, CLASSES))]
    photos = list(pieces(64, 96))
    lattice = [
        {"images": name, "size": size, "normalization": how, **apart(found, how)}
        for name, size, found in (("hard", "72x64", hard), ("photos", "96x64", photos))
        for how in NORMALIZATIONS
        if found
    ]
    for row in lattice:
        print(row, flush=True)
    document = {
        "classes": CLASSES,
        "size": "44x40",
        "cases": len(small),
        "against_the_sums": rows,
        "pydensecrf_against_exact": lattice,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def cases(height: int, width: int) -> Iterator[Case]:
    for kind in ("random", "flat", "hard"):
        for seed in range(2):
            yield (kind, *scene(kind, height, width, CLASSES, seed))
    yield from pieces(height, width)


def pieces(height: int, width: int) -> Iterator[Case]:
    """Two pieces of each photo, where they are."""
    folder = Path(os.environ.get("SEGKIT_DATA", "unset")) / "densecrf"
    for number in (1, 2, 3) if folder.exists() else ():
        rgb = np.asarray(Image.open(folder / f"im{number}.png").convert("RGB"))
        marks = np.asarray(Image.open(folder / f"anno{number}.png").convert("RGB"))
        for seed in range(2):
            yield ("photo", *cut(rgb, marks, height, width, CLASSES, seed))


def exact(crf: DenseCrf, rgb: np.ndarray, given: np.ndarray) -> np.ndarray:
    [state] = ExactCrf(crf, "cpu").steps(rgb, given, [crf.iterations])
    return state


def rounded(attention: Callable[..., torch.Tensor]) -> Refine:
    def refine(crf: DenseCrf, rgb: np.ndarray, given: np.ndarray) -> np.ndarray:
        with attending(attention):
            return exact(crf, rgb, given)

    return refine


@contextmanager
def attending(attention: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Inside, the filter calls ``attention`` instead of PyTorch's."""
    own = bilateral.F.scaled_dot_product_attention
    bilateral.F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        bilateral.F.scaled_dot_product_attention = own


def compared(found: list[np.ndarray], wanted: list[np.ndarray]) -> dict[str, float]:
    """The worst of all cases: difference in probability, and share of equal labels."""
    pairs = list(zip(found, wanted, strict=True))
    labels = [float((a.argmax(0) == b.argmax(0)).mean()) for a, b in pairs]
    return {
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "least_equal_labels": min(labels),
    }


def apart(found: list[Case], how: Any) -> dict[str, float]:
    """Equal labels of pydensecrf and exact: the mean over images, and the least."""
    crf = DenseCrf(normalization=how)
    equal = [
        float((crf.refine(rgb, given).argmax(0) == exact(crf, rgb, given).argmax(0)).mean())
        for _, rgb, given in found
    ]
    return {"equal_labels": float(np.mean(equal)), "least_equal_labels": min(equal)}


if __name__ == "__main__":
    sys.exit(main())
