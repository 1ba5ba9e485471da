"""What ``segkit table`` shows without starting anything: tables, plan, status."""

import math
from collections.abc import Iterable, Sequence

from segkit.ablation.book import Table
from segkit.ablation.jobs import Job, Plan
from segkit.ablation.plan import composed
from segkit.ablation.state import Standing, has_weights, is_trained, standing
from segkit.ablation.work import commands, typed
from segkit.errors import EnvironmentFault


def listing(tables: Sequence[Table]) -> str:
    """A line for each table: id, rows, title, what of it cannot be run."""
    wide = max(len(table.id) for table in tables)
    return "\n".join(
        f"{table.id:<{wide}}  {len(table.rows):>2} rows  {table.title}{_but(table)}"
        for table in tables
    )


def _but(table: Table) -> str:
    if all(column.computed for column in table.columns):
        return " (computed: no training)"
    blocked = sum(row.blocked is not None for row in table.rows)
    coco = sum(row.needs == "coco" for row in table.rows)
    said = [f"{blocked} cannot be run"] if blocked else []
    said += [f"{coco} need coco=/path"] if coco else []
    return f" ({', '.join(said)})" if said else ""


# -- the plan --------------------------------------------------------------------------------------


def plan_text(plan: Plan) -> str:
    """Every run: whom it serves, how large it is, how it stands, hours, memory, its commands."""
    lines, hours, most, to_do = [], 0.0, 0.0, 0
    bases: dict[str, None] = {}
    for number, job in enumerate(plan.jobs, 1):
        stands = standing(job)
        seconds, memory, basis = estimated(job)
        bases[basis] = None
        lines += [
            f"[{number}/{len(plan.jobs)}] {served(job)}",
            f"    {size(job)}; {state_words(job, stands)}{cost(seconds, memory)}",
        ]
        lines += [f"    {typed(command)}" for command in commands(job)]
        if any(evaluation.tune for evaluation in job.evaluations):
            lines.append("    (after a search, the evaluation gets the words that it prints)")
        if stands.state != "done":
            to_do += 1
            hours += seconds / 3600 if not math.isnan(seconds) else 0
            most = max(most, memory if not math.isnan(memory) else 0)
    lines += [f"{table} {row}: {why}" for (table, row), why in plan.blocked.items()]
    scores = sum(len(job.evaluations) for job in plan.jobs)
    total = f"{count(len(plan.jobs), 'training')}, {count(scores, 'score')}; {to_do} to do"
    if hours:
        total += f": about {clock(3600 * hours)} one after another"
    if most:
        total += f", at most {most / 2**30:.1f} GiB each"
    if bases:
        total += f"\ntimes reckoned from {'; '.join(bases)}"
    return "\n".join([*lines, total])


def estimated(job: Job, rate: "Rate") -> "Estimate":
    """What ``job`` takes from its beginning."""
    from segkit.ablation.estimate import estimate
    from segkit.parts import cores

    training = composed(job.words, job.config_dir)
    return estimate(
        training, job.evaluations, rate, cores=cores(), config_dir=job.config_dir
    )


def size(job: Job) -> str:
    """``30000 steps x 16 of 513``."""
    values = composed(job.words, job.config_dir).values
    schedule, crop = values["schedule"], values["augment"]["crop"]
    stages = " + ".join(
        f"{stage['steps']} steps x {stage['batch'] or schedule['batch']}"
        for stage in schedule["stages"]
    )
    return f"{stages} of {crop}, {count(len(job.evaluations), 'score')}"


def cost(seconds: float, memory: float) -> str:
    known = [f"about {clock(seconds)}"] if not math.isnan(seconds) else []
    known += [f"{memory / 2**30:.1f} GiB"] if not math.isnan(memory) else []
    return "; " + ", ".join(known) if known else ""


# -- the status ------------------------------------------------------------------------------------


def status_text(plan: Plan) -> str:
    """A line for each job: how it stands, how far, hours so far, what failed."""
    lines, states = [], []
    for job in plan.jobs:
        stands = standing(job)
        states.append(stands.state)
        spent = f"  {stands.seconds / 3600:.2f} h" if stands.seconds else ""
        lines.append(f"{state_words(job, stands):<28}{spent:>9}  {served(job)}  {job.name}")
        if stands.state == "failed":
            lines.append(f"    code {stands.code}: {stands.line}")
    lines += [
        f"{'blocked':<37}  {table} {row}: {why}" for (table, row), why in plan.blocked.items()
    ]
    counted = [f"{states.count(s)} {s}" for s in dict.fromkeys(states)]
    return "\n".join([*lines, f"{count(len(states), 'training')}: {', '.join(counted)}"])


def state_words(job: Job, stands: Standing) -> str:
    scores = f"{stands.scores} of {stands.evaluations} scores"
    if stands.state == "done":
        return "done"
    if is_trained(job.run):
        gone = "" if has_weights(job.run) else ", weights gone: trains again"
        return f"{stands.state}, trained, {scores}{gone}"
    if stands.step:
        return f"{stands.state} {stands.percent} %"
    return stands.state


# -- words -----------------------------------------------------------------------------------------


def served(job: Job) -> str:
    """``v3.t5 mg111, mg121; v3.t6 os16``: the rows of a job, by table."""
    return "; ".join(f"{table} {', '.join(rows)}" for table, rows in _by_table(job.rows).items())


def _by_table(rows: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        table, _, key = row.partition(" ")
        found.setdefault(table, []).append(key)
    return found


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
