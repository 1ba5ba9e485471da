"""R16, R19: a loss that is not finite stops the run before the update, and can be looked at."""

import json

import numpy as np
import pytest
import torch
from sandbox import TINY, Sandbox
from seven_checks import check_all_seven, look

from segkit.data.shapes import Shapes
from segkit.data.transforms import TrainTransform
from segkit.engine import checkpoint
from segkit.engine.journal import digest
from segkit.models.contracts import IMAGENET_PIXELS


@pytest.mark.parametrize(
    ("rate", "workers"),
    [("1e6", 0), *(pytest.param(r, 2, marks=pytest.mark.faults) for r in ("1e6", "1e30"))],
)
def test_a_batch_of_a_non_finite_step_can_be_made_again(
    box: Sandbox, rate: str, workers: int
) -> None:
    """R16."""
    words = (*TINY, f"schedule.stages.0.lr={rate}", f"workers={workers}", "eval.every=100")
    before = look(box)
    result = box.run(*words, "schedule.stages.0.steps=40", "schedule.warmup_steps=0")
    check_all_seven(
        box, before, result, code=5, error="NUM-NON-FINITE", names="samples train-", status=True
    )
    state = checkpoint.load(checkpoint.newest(box.run_folder))
    assert all(bool(torch.isfinite(t).all()) for t in state.model.values() if t.is_floating_point())

    [path] = (box.run_folder / "logs").glob("non-finite-step-*.json")
    facts = json.loads(path.read_text())
    assert (facts["stage"], facts["step"]) == ("os16", box.steps_logged() + 1)
    assert {*facts["ids"]} <= {*Shapes(count=8, size=33).ids.tolist()}
    assert digest(*again(facts)) == facts["batch_sha256"]


def again(facts: dict[str, list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch, by what the file says and the run's config."""
    data = Shapes("train", size=33, count=8)
    augment = TrainTransform(
        crop=33, scale_min=0.75, scale_max=1.5, ignore_label=255, mean=IMAGENET_PIXELS.mean
    )  # fmt: skip
    pairs = [
        augment(*data.read(index), seed)
        for index, seed in zip(facts["indices"], facts["augment_seeds"], strict=True)
    ]
    images, labels = (np.stack(part) for part in zip(*pairs, strict=True))
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def test_large_logits_in_half_precision(box: Sandbox) -> None:
    """R19: the loss is computed in fp32, where 70 000 is a number like others."""
    result = box.run(*TINY, "precision=bf16", inject="logits:70000")
    assert result.code == 0, result.err
    rows = [json.loads(r) for r in (box.run_folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert max(losses) > 1000, "the logits were not large"
