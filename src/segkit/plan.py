"""``segkit plan``: memory, seconds and hours of a training before it runs, and what batch fits."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from segkit.config import Composed
    from segkit.planning.proposal import Proposal
    from segkit.planning.schedule import Stage

OPTIONS = ("--json", "--fresh", "--card-memory", "--config-dir", "--trust", "--help")

USAGE = """\
segkit plan [key=value ...]: what a training will take on this device, before it runs
segkit plan table ID... [key=value ...]: the same of a table's trainings and scores

key=value as for segkit train (segkit train --help lists them). No step of that size is run: memory
is counted, time measured on smaller crops and fewer images, and remembered for the next plan.

  --json               the same for programs
  --fresh              measure again what is remembered
  --card-memory GIB    memory on a CUDA card of so many GiB, which need not be here; no times
  --config-dir DIR     your own config groups, searched beside the shipped ones
  --trust MODULE       let class paths in configs point into MODULE

  segkit plan model=v3 backbone=r50 augment.crop=321 schedule.batch=8
  segkit plan model=v3plus backbone=r101 --card-memory 24
  segkit plan table v3.t5 scale=camvid_cpu"""

GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """Bytes and seconds; None is "not measured". ``free`` is what the device has left."""

    device: str
    precision: str
    stages: "tuple[Stage, ...]"
    process: int
    free: int | None
    proposal: "Proposal | None"
    validations: int
    validation_images: int
    validation_memory: int
    validation_seconds: float | None
    saves: int
    checkpoint_bytes: int
    disk_bytes: int
    save_seconds: float | None
    basis: str
    assumed: str | None = None

    @property
    def training_seconds(self) -> float | None:
        known = [(one.steps, one.seconds) for one in self.stages]
        return sum(n * (s or 0) for n, s in known) if all(s is not None for _, s in known) else None

    @property
    def seconds(self) -> float | None:
        found = (self.training_seconds, self.validation_seconds, self.save_seconds)
        return None if None in found else sum(one or 0.0 for one in found)


@dataclass(frozen=True)
class Asked:
    """The words, taken apart."""

    overrides: tuple[str, ...]
    config_dir: str | None
    trust: tuple[str, ...]
    json: bool
    fresh: bool
    card: float | None


def main(argv: Sequence[str]) -> int:
    """Print the plan. Raises what ``segkit train`` raises for the same words before it begins."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    if argv and argv[0] == "table":
        return table(argv[1:])
    asked = parsed(argv)
    made = plan(composed(asked), card=asked.card, fresh=asked.fresh)
    from segkit.planning.printed import as_json, text

    print(as_json(made) if asked.json else text(made))
    return ExitCode.OK


def parsed(argv: Sequence[str]) -> Asked:
    """Own words apart from those of ``train``; ConfigError CFG-USAGE for others."""
    from segkit import cli

    rest, card, words = [], None, iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--card-memory":
            card = gibibytes(value if equals else next(words, ""))
        elif word not in ("--json", "--fresh"):
            rest.append(word)
    call = cli.parse(["train", *rest])
    if call.multirun or call.show:
        raise ConfigError("USAGE", "plan", "takes neither -m nor --cfg", "leave it out")
    return Asked(
        tuple(call.overrides), call.config_dir, tuple(call.trust),
        "--json" in argv, "--fresh" in argv, card,
    )  # fmt: skip


def gibibytes(typed: str) -> float:
    try:
        found = float(typed)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ConfigError("VALUE", "--card-memory", f"{typed!r}", "GiB of a card: --card-memory 24")
    return found


def composed(asked: Asked) -> "Composed":
    """What ``train`` makes of the words, checked as there."""
    from segkit import instantiate, parts, recipe, rules
    from segkit.config import compose, placed

    found = compose("train", asked.overrides, asked.config_dir)
    rules.check(found.values)
    instantiate.trust(asked.trust)
    try:
        recipe.check(found.values, parts.check_network(found.values))
    except ConfigError as error:
        raise placed(error, asked.overrides) from error
    return found


def plan(training: "Composed", *, card: float | None = None, fresh: bool = False) -> Plan:
    """Of ``training`` on its device, or (memory alone) on a card of ``card`` GiB.

    Raises EnvironmentFault NO-CUDA where its device is not here.
    """
    import torch

    from segkit import parts
    from segkit.planning.proposal import proposal
    from segkit.planning.remembered import Remembered
    from segkit.planning.schedule import stages
    from segkit.planning.speed import Speed

    values = training.values
    here = torch.device("cuda") if card else parts.device_of(values)
    precision = str(parts.precision_of(values, here))
    memory = None if card else Remembered(here, fresh=fresh)
    speed = Speed(here, precision, memory) if memory else None
    # Memory first: what is measured then leaves this process larger than a training begins.
    counted = stages(training, None, device=here.type, precision=precision)
    process = 0 if here.type == "cuda" else resident() + snapshot(values)
    free = int(card * GIB) if card else free_of(here)
    advice = proposal(training, here.type, precision, free - process) if free else None
    timed = stages(training, speed, device=here.type, precision=precision) if speed else counted
    return dataclasses.replace(
        whole(training, timed, speed, here.type, precision),
        process=process,
        free=free,
        proposal=advice,
        basis=basis(memory.measured) if memory else "predicted for a card, not measured",
        assumed=assumed(training),
    )


def assumed(training: "Composed") -> str | None:
    """What the plan goes by where the data set is not here; None where it is."""
    from segkit.ablation.asked import known
    from segkit.errors import SegkitError
    from segkit.parts import dataset_of
    from segkit.planning.schedule import validation

    dataset = training.values["dataset"]
    how, images = validation(training)
    try:
        dataset_of(training.values, dataset["val_split"])
    except SegkitError:
        (height, width), classes = how.picture, known(dataset).classes
        return (
            f"{dataset['name']} is not here: assumed are {classes} classes and, to validate on, "
            f"{images} pictures of {height}x{width}"
        )
    return None


def basis(measured: int) -> str:
    told = f"{measured} measured now" if measured else "remembered from an earlier plan"
    return f"smaller updates and pictures on this device ({told})"


def whole(
    training: "Composed", done: "tuple[Stage, ...]", speed: Any, device: str, precision: str
) -> Plan:
    """Stages with validations, saves and disk."""
    from segkit.ablation.estimate import disk
    from segkit.ablation.update import updates_of
    from segkit.planning import schedule

    values, half = training.values, precision == "bf16"
    steps = [one.steps for one in done]
    how, images = schedule.validation(training)
    times, written = schedule.validations(values, steps), schedule.saves(values, steps)
    updates = updates_of(values, half=half)
    one = updates[-1].state
    seconds = saving = None
    if speed:
        each = schedule.image_seconds(training, how, speed) if times else 0.0
        seconds = times * images * each / values["devices"]
        saving = written * one / schedule.write_rate(Path(values["runs"]))
    peak = 0
    if times:  # gradients and momentum lie beside the network that is asked
        peak = updates[-1].weights * updates[-1].copies
        peak += schedule.evaluation_step(training, how, device=device, half=half).peak
    return Plan(
        device, precision, done, 0, None, None, times, images, peak, seconds,
        written, one, disk(training, updates, []), saving, "",
    )  # fmt: skip


def snapshot(values: Mapping[str, Any]) -> int:
    """Bytes of the copy that is written while a training goes on (``checkpoint.background``)."""
    from segkit.ablation.update import updates_of

    return updates_of(values, half=False)[-1].state if values["checkpoint"]["background"] else 0


def resident() -> int:
    """Bytes of this process now, which has imported what a training imports."""
    import resource

    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def free_of(device: Any) -> int | None:
    """Bytes that ``device`` has left."""
    import torch

    from segkit.limits import free_memory

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = free_memory()
    return None if left is None else left + resident()


# -- a table ---------------------------------------------------------------------------------------


def table(argv: Sequence[str]) -> int:
    """Measure the networks that ``segkit table ... --plan`` is about, then show that."""
    from segkit import rules
    from segkit import table as tables
    from segkit.ablation import book
    from segkit.ablation.plan import only, plan_of
    from segkit.ablation.scale import composed as trained
    from segkit.config import compose

    if "--json" in argv:
        raise ConfigError("USAGE", "--json", "a table has none", "leave it out")
    own = [word for word in argv if word != "--fresh"]
    cut = own.index("--") if "--" in own else len(own)
    words = [*own[:cut], "--plan", *own[cut:]]
    asked = tables.parse(words)
    if asked.ids and asked.show == "--plan":
        values = compose("table", asked.overrides, asked.config_dir).values
        rules.check(values)
        ids = book.asked_for(asked.ids, asked.config_dir)
        found = [book.read(table_id, asked.config_dir) for table_id in ids]
        whole = plan_of(
            found, values, extra=asked.extra, config_dir=asked.config_dir, trust=asked.trust
        )
        for job in only(whole, found, asked.only).jobs:
            measured(trained(job.words, job.config_dir), fresh="--fresh" in argv)
    return tables.main(words)


def measured(training: "Composed", *, fresh: bool) -> None:
    """See to it that the pace of every stage is remembered."""
    from segkit import parts
    from segkit.planning.remembered import Remembered
    from segkit.planning.schedule import stages
    from segkit.planning.speed import Speed

    device = parts.device_of(training.values)
    precision = parts.precision_of(training.values, device)
    speed = Speed(device, precision, Remembered(device, fresh=fresh))
    stages(training, speed, device=device.type, precision=precision)
