"""Documents for the page's tests: small, drawn, and with names that attack."""

from typing import Any

import numpy as np
import torch

from segkit.report.contents import Document
from segkit.report.gallery import Exhibit, Group, Spool, exhibit
from segkit.report.signature import Signature, score_document, score_line

LINE_SEPARATOR = "\u2028"
HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "</script><script>alert(2)</script>",
    '" onmouseover="alert(3)',
    "javascript:alert(4)",
    f"a{LINE_SEPARATOR}b<!--",
    "{{ 7 * 7 }}{% for %}",
    "</style><b>&amp;",
    "]]><svg onload=alert(5)>",
)
COLOURS = np.random.default_rng(0).integers(0, 256, (400, 3))


def signature(**changed: Any) -> Signature:
    known: dict[str, Any] = {
        "dataset": "shapes", "split": "val", "images": 3, "model": "v3", "backbone": "r_tiny",
        "train_os": (16, 8), "eval_os": 8, "multi_grid": None, "pad": "fit", "scales": (1.0,),
        "fusion": "mean", "flip": False, "crf": None, "weights": "none", "checkpoint": "last",
        "step": 100, "seed": 0, "precision": "fp32", "device": "cpu", "segkit": "0.1.0",
        "torch": "2.11.0",
    }  # fmt: skip
    return Signature(**known | changed)


def score_of(names: tuple[str, ...], matrix: np.ndarray, **changed: Any) -> dict[str, Any]:
    """What score.json holds for a confusion matrix."""
    right, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    iou = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    known = [value for value in iou if value is not None]
    return score_document(
        signature(**changed),
        miou=sum(known) / len(known) if known else None,
        iou=dict(zip(names, iou, strict=True)),
        images=3,
        pixels=int(matrix.sum()),
        confusion=matrix.tolist(),
        seconds={"total": 1.0},
    )


def random_matrix(classes: int) -> np.ndarray:
    drawn = np.random.default_rng(classes)
    return drawn.integers(0, 50, (classes, classes)) + np.diag([2000] * classes)


def picture(name: str, classes: int = 3, size: tuple[int, int] = (60, 80)) -> Exhibit:
    drawn = np.random.default_rng(len(name))
    truth = np.repeat(drawn.integers(0, classes, (size[0] // 10, size[1])), 10, 0)
    truth[:3] = 255
    found = np.where(drawn.random(truth.shape) < 0.9, truth, 0) % classes
    with Spool() as spool:
        spool.keep(0, torch.from_numpy(found))
        rgb = drawn.integers(0, 256, (*truth.shape, 3)).astype(np.uint8)
        return exhibit(
            name, rgb, truth, spool.taken(0),
            miou=0.5, accuracy=0.75, colours=COLOURS[:classes], ignore=255,
        )  # fmt: skip


def document(
    names: tuple[str, ...] = ("sky", "road", "tree"),
    *,
    images: tuple[str, ...] = ("one", "two"),
    title: str = "run",
    matrix: np.ndarray | None = None,
    trained: bool = False,
    **changed: Any,
) -> Document:
    """A page's content; only with ``trained`` the curve of a training, which takes a while."""
    found = score_of(names, random_matrix(len(names)) if matrix is None else matrix, **changed)
    found["trimap"] = {"around": "borders", "widths": [1, 2, 5, 10], "miou": [0.4, 0.5, 0.6, None]}
    found["trimap"]["pixel_accuracy"] = [0.5, 0.6, 0.7, None]
    found["boundary"] = {
        "iou": dict.fromkeys(names, 0.25), "miou": 0.25, "distance": 0.02,
        "f": dict.fromkeys(names, 0.75), "mean_f": 0.75, "tolerance": 0.0075,
    }  # fmt: skip
    found["categories"] = {"iou": {names[0]: 0.5, names[1]: None}, "miou": 0.5}
    found["iiou"] = {"classes": {names[0]: 0.4}, "mean": 0.4}
    found["iiou"] |= {"categories": {names[0]: 0.3}, "category_mean": 0.3}
    gallery = [Group("All images, worst first", [picture(name) for name in images])]
    log = [{"step": s, "stage": "os16", "lr": 0.1, "loss": 2.0 / s} for s in range(1, 30)]
    log.append({"step": 30, "validation": {"miou": 0.5}})
    return Document(
        title=title,
        score=found,
        line=score_line(found["miou"], signature(**changed)),
        colours=COLOURS[: len(names)],
        gallery=gallery if images else [],
        settings={"This evaluation": f"flip: false\nnote: {title}\n"},
        environment={"torch": "2.11.0", "weights": {"file": title}},
        training=log if trained else (),
        version="0.1.0",
    )
