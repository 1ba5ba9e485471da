"""A table of the tests' own: three rows of a tiny network on drawn shapes, two of one training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.ablation import book
from segkit.ablation.book import Table
from segkit.ablation.jobs import Plan
from segkit.ablation.plan import plan_of
from segkit.config import compose

TRAIN = (
    "model=v3, backbone=r_tiny, dataset=shapes, os=16, pretrained=none, dataset.size=48,"
    " dataset.count=4, dataset.val.count=2, augment.crop=33, schedule.batch=2, workers=0,"
    " schedule.stages.0.steps=2, eval.every=null, log.tensorboard=false, checkpoint.every=null,"
    " model.rates=[1,2], model.channels=8"
)
EVAL = "eval.report=false, eval.pictures=0, eval.boundaries=false, workers=0"
ROWS = """\
  - {key: plain, label: [plain], train: [multi_grid=none], paper: 70.00}
  - {key: flipped, label: [flipped], train: [multi_grid=none], eval: [flip=true], paper: 71.00}
  - {key: bare, label: [bare], train: [model.image_pooling=false], paper: 72.00, against: plain}
"""


def config_dir(folder: Path, rows: str = ROWS, name: str = "tiny.t1", columns: str = "") -> str:
    """A ``--config-dir`` with the table ``name``."""
    (folder / "ablation").mkdir(parents=True, exist_ok=True)
    text = (
        "title: Tiny\nsource: nowhere\nsetting: shapes\nlabels: [what]\n"
        f"train: [{_quoted(TRAIN)}]\neval: [{_quoted(EVAL)}]\n{columns}rows:\n{rows}"
    )
    (folder / "ablation" / f"{name}.yaml").write_text(text)
    return str(folder)


def _quoted(words: str) -> str:
    """Commas inside of brackets are no commas between words."""
    return ", ".join(f'"{word}"' for word in words.replace(", ", ";").split(";"))


def values_of(runs: Path, *words: str) -> dict[str, Any]:
    """The root ``table`` as composed; at the papers' scale a row is what its file says."""
    return compose("table", [f"runs={runs}", "engine.isolate=false", *words]).values


def planned(
    folder: Path, runs: Path, *words: str, extra: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[list[Table], Plan]:
    tables = [book.read(name, str(folder)) for name in names or ("tiny.t1",)]
    values = values_of(runs, *words)
    return tables, plan_of(tables, values, extra=extra, config_dir=str(folder))
