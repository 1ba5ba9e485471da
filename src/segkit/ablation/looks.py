"""What ``segkit table`` shows without starting anything: tables, plan, status."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from segkit.ablation.book import Table
from segkit.ablation.jobs import Job, Plan
from segkit.ablation.scale import composed
from segkit.ablation.state import GONE, Standing, has_weights, is_trained, standing, weights_said
from segkit.ablation.work import commands, typed
from segkit.errors import EnvironmentFault

if TYPE_CHECKING:  # it counts on torch's meta device: for --plan alone
    from segkit.ablation.estimate import Estimate


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


def plan_text(plan: Plan, *, keep_weights: bool) -> str:
    """Every run: whom it serves, how large it is, how it stands, hours, memory, its commands."""
    lines, left, bases = [], Left(keep_weights), set()
    for number, job in enumerate(plan.jobs, 1):
        stands, takes = standing(job), estimated(job)
        left.add(job, stands, takes)
        bases.add(takes.basis if takes else "unknown, for there is no such device here")
        about = (
            f"; from the start {clock(takes.seconds)}, {gib(takes.memory_bytes)}" if takes else ""
        )
        lines += [
            f"[{number}/{len(plan.jobs)}] {served(job)}",
            f"    {size(job)}; {state_words(job, stands)}{about}",
            *(f"    {typed(command)}" for command in commands(job)),
        ]
        if any(evaluation.tune for evaluation in job.evaluations):
            lines.append("    (the evaluation after a search also gets the words that it finds)")
    lines += [f"{table} {row}: {why}" for (table, row), why in plan.blocked.items()]
    lines += unpublished(plan)
    return "\n".join([*lines, left.text(plan), *(f"hours: {basis}" for basis in sorted(bases))])


def unpublished(plan: Plan) -> list[str]:
    """A line for each backbone whose ImageNet weights nobody has published as a torch file."""
    asking: dict[str, Job] = {}
    for job in plan.jobs:
        training = composed(job.words, job.config_dir)
        if training.values["pretrained"] == "imagenet" and not is_trained(job.run):
            asking.setdefault(training.choices["backbone"], job)
    if not asking:
        return []
    from segkit.model_weights import rows

    return [
        f"{name} ({served(job)}): {row.note}; type -- pretrained=FILE"
        for name, job in asking.items()
        for row in rows(name, job.config_dir)
        if row.file is None
    ]


class Left:
    """What the jobs that are not done add up to."""

    def __init__(self, keep_weights: bool) -> None:
        self.keep_weights = keep_weights
        self.jobs, self.seconds, self.memory, self.disk = 0, 0.0, 0, 0

    def add(self, job: Job, stands: Standing, takes: "Estimate | None") -> None:
        """Of a training under way the updates that are left."""
        if stands.state == "done":
            return
        self.jobs += 1
        if takes is None:
            return
        begun = 1.0 if is_trained(job.run) and has_weights(job.run) else stands.percent / 100
        self.seconds += (1 - begun) * takes.seconds_training + takes.seconds_evaluation
        self.memory = max(self.memory, takes.memory_bytes)
        together = (self.disk, takes.disk_bytes)
        self.disk = sum(together) if self.keep_weights else max(together)

    def text(self, plan: Plan) -> str:
        scores = sum(len(job.evaluations) for job in plan.jobs)
        all_of_it = f"{count(len(plan.jobs), 'training')}, {count(scores, 'score')}"
        if not self.jobs:
            return f"{all_of_it}: nothing to do"
        if not self.seconds:
            return f"{all_of_it}; {self.jobs} to do"
        return (
            f"{all_of_it}; {self.jobs} to do: about {clock(self.seconds)} one after another,"
            f" without the seconds in which each program starts; at most {gib(self.memory)} of"
            f" memory each, {gib(self.disk)} of disk"
        )


def estimated(job: Job) -> "Estimate | None":
    """What ``job`` takes from its beginning on the device that its words name; None without it."""
    from segkit.ablation.estimate import estimate
    from segkit.ablation.rate import rate_of
    from segkit.parts import cores, device_of, precision_of
    from segkit.planning.remembered import Remembered
    from segkit.planning.speed import Speed

    training = composed(job.words, job.config_dir)
    try:
        rate = rate_of(training.values, job.run.parent, job.config_dir)
    except EnvironmentFault:
        return None
    device = device_of(training.values)
    speed = Speed(device, precision_of(training.values, device), Remembered(device))
    return estimate(
        training, job.evaluations, rate, cores=cores(), config_dir=job.config_dir, speed=speed
    )


def size(job: Job) -> str:
    """``30000 steps x 16 of 513, 2 scores``: updates, batch, crop."""
    values = composed(job.words, job.config_dir).values
    schedule, crop = values["schedule"], values["augment"]["crop"]
    stages = " + ".join(
        f"{stage['steps']} steps x {stage['batch'] or schedule['batch']}"
        for stage in schedule["stages"]
    )
    return f"{stages} of {crop}, {count(len(job.evaluations), 'score')}"


def gib(number: float) -> str:
    return f"{number / 2**30:.1f} GiB"


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
        again = ": trains again" if weights_said(job) == GONE else ""
        gone = "" if has_weights(job.run) else f", weights gone{again}"
        return f"{stands.state}, trained, {scores}{gone}"
    if stands.step:
        return f"{stands.state} {stands.percent} %"
    return stands.state


# -- words -----------------------------------------------------------------------------------------


def served(job: Job) -> str:
    """``v3.t5 mg111, mg121; v3.t6 os16``: the rows of a job, by table, and a seed that is not 0."""
    rows = "; ".join(f"{table} {', '.join(rows)}" for table, rows in _by_table(job.rows).items())
    seed = next((word for word in job.words if word.startswith("seed=")), "")
    return f"{rows} ({seed})" if seed else rows


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
