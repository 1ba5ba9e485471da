"""A plan in words, and as JSON."""

import dataclasses
import json
from typing import TYPE_CHECKING

from segkit.ablation.looks import clock
from segkit.data.bars import size as shown
from segkit.planning.proposal import Proposal, Way

if TYPE_CHECKING:
    from segkit.plan import Plan


def as_json(made: "Plan") -> str:
    """Every field, ``seconds`` of it all, and each stage's ``peak``, the process included."""
    facts = dataclasses.asdict(made)
    for stage in facts["stages"]:
        stage["peak"] = made.process + stage["memory"]
    return json.dumps(facts | {"seconds": made.seconds}, indent=1)


def text(made: "Plan") -> str:
    """A line a stage, then validations, saves, what fits, hours, what it goes by."""
    lines = [*stage_lines(made)]
    if made.validations:
        lines.append(
            f"validations  {made.validations} of {made.validation_images} images: "
            f"{shown(made.process + made.validation_memory)}, {clocked(made.validation_seconds)}"
        )
    lines.append(
        f"checkpoints  {made.saves} of {shown(made.checkpoint_bytes)}, at most "
        f"{shown(made.disk_bytes)} on disk: {clocked(made.save_seconds)}"
    )
    if made.proposal:
        lines += advice(made.proposal, made.process, made.free or 0)
    if made.seconds is not None:
        lines.append(f"all of it: {clocked(made.seconds)}")
    where = "of the process" if made.device == "cpu" else "of the card"
    lines.append(f"{made.device}, {made.precision}; memory {where}; {made.basis}")
    if made.assumed:
        lines.append(made.assumed)
    return "\n".join(lines)


def stage_lines(made: "Plan") -> list[str]:
    head = f"{'stage':<12} {'updates':>8} {'batch':>8} {'crop':>5} {'os':>3} {'memory':>9}"
    lines = [f"{head} {'s/update':>9} {'images/s':>9} {'time':>8}"]
    for one in made.stages:
        speed = f"{figure(one.seconds):>9} {figure(one.images_per_second):>9}"
        batch = f"{one.parts}x{one.images}" if one.parts > 1 else f"{one.batch}"
        took = None if one.seconds is None else one.steps * one.seconds
        lines.append(
            f"{one.name[:12]:<12} {one.steps:>8} {batch:>8} {one.crop:>5} {one.os:>3}"
            f" {shown(made.process + one.memory):>9} {speed} {clocked(took):>8}"
        )
    return lines


def advice(found: Proposal, process: int, free: int) -> list[str]:
    """Whether it fits, else what to type: one of the lines."""
    if found.fits:
        return [f"fits {shown(free)} as it is, with a tenth to spare"]
    head = f"does not fit {shown(free)}, of which a tenth should stay free"
    if not found.ways:
        return [f"{head}; nor does less at a time: lower augment.crop, os=16, a smaller backbone"]
    typed = [" ".join(way.words) for way in found.ways]
    wide = max(map(len, typed))
    return [
        f"{head}; one of these does:",
        *(
            f"  {words:<{wide}}  {shown(process + way.peak):>9}{each(way)}  {brings(way)}"
            for words, way in zip(typed, found.ways, strict=True)
        ),
    ]


def each(way: Way) -> str:
    return " each" if any(word.startswith("devices=") for word in way.words) else ""


def brings(way: Way) -> str:
    """What changes beside the memory."""
    longer = f"about {100 * way.longer:.0f} % more work" if way.longer > 0.005 else "no more work"
    if way.batch_norm is None:
        return f"{longer}, and batch norm is frozen: the result stays"
    return f"{longer}, batch norm sees {way.batch_norm} images at a time"


def figure(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def clocked(seconds: float | None) -> str:
    return "not measured" if seconds is None else clock(seconds)
