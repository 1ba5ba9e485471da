"""Ids of a small VOC test split, and how a network is barely trained."""

from pathlib import Path

from segkit import cli

TEST = ["2008_000004", "2008_000006", "2010_000002"]
TINY = (
    *("experiment=quickstart", "log.tensorboard=false", "workers=0", "device=cpu"),
    *("augment.crop=17", "schedule.batch=2", "eval.every=null"),
    *("schedule.stages.0.steps=2", "schedule.stages.1.steps=1"),
)


def train(runs: Path, name: str, *words: str) -> Path:
    """A run of three steps on ``words``, a data set; it finds several classes."""
    assert cli.main(["train", *TINY, f"runs={runs}", f"name={name}", *words]) == 0
    return runs / name
