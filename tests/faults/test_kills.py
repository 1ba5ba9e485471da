"""K1, B1: the real command, killed at random moments and resumed, ends in the same bits."""

import itertools
import json
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import figures
import pytest
from sandbox import TINY, Sandbox, outcome

RUN = (
    *(*TINY, "resume=true", "eval.every=4", "checkpoint.every=3"),
    *("schedule.stages.0.steps=14", "schedule.stages.1.steps=10"),
)
STEPS = 24
# What changes the bits, and what must not.
BITS = (
    (*RUN, "schedule.accumulate=1"),
    (*RUN, "schedule.accumulate=2"),
    (*RUN, "schedule.accumulate=2", "precision=bf16"),
)
WORKERS = (0, 2)

# The rest of the family, in one stage: v1 with a whole VGG behind it, v2 at three scales with its
# own loss and fixed batch norms, v3+ with its decoder.
SHORT_STEPS = 8
STAGE = "schedule.stages=[{{name: a, steps: {}, lr: 0.0001, bn: {}}}]"
SHORT = (
    *("train", "name=x", "dataset=shapes", "dataset.size=33", "dataset.count=8"),
    *("dataset.val.count=2", "augment.crop=33", "schedule.batch=2", "pretrained=none"),
    *("eval.every=4", "checkpoint.every=3", "log.every=1", "log.images=0"),
    *("log.tensorboard=false", "resume=true"),
)
FAMILY = {
    "v1": ("model=v1", "model.channels=8", STAGE.format(SHORT_STEPS, "train")),
    "v2": ("model=v2", "backbone=r_tiny", "model.msc=true", STAGE.format(SHORT_STEPS, "frozen")),
    "v3plus": (
        *("model=v3plus", "backbone=r_tiny", "model.channels=16", "model.refine_channels=16"),
        STAGE.format(SHORT_STEPS, "train"),
    ),
}


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: how it ended, and how long it took."""

    outcome: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory, server: object
) -> Callable[[Sequence[str]], Whole]:
    """The uninterrupted run of some words, made once."""
    made: dict[tuple[str, ...], Whole] = {}

    def find(words: Sequence[str]) -> Whole:
        if tuple(words) not in made:
            box = Sandbox(tmp_path_factory.mktemp("whole") / "box", server)
            seconds = box.ok(*words).seconds
            made[tuple(words)] = Whole(outcome(box.run_folder), seconds)
        return made[tuple(words)]

    return find


@dataclass
class Count:
    steps: int = STEPS
    trials: int = 0
    kills: int = 0
    in_a_save: int = 0
    different: int = 0

    def compare(self, box: Sandbox, whole: Whole) -> None:
        """The run in ``box`` came to its end: it is looked at and thrown away."""
        self.different += outcome(box.run_folder) != whole.outcome
        rows = map(json.loads, (box.run_folder / "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, self.steps + 1))
        shutil.rmtree(box.run_folder)


def trial(
    box: Sandbox, words: Sequence[str], whole: Whole, kills: int, draw: random.Random, count: Count
) -> None:
    """Start, kill, resume, kill ... and compare the end with the uninterrupted run's.

    A run that is faster than its kill is compared, too, and the next one begins afresh.
    """
    hits = 0
    while hits < kills:
        running = box.start(*words, f"workers={draw.choice(WORKERS)}")
        running.wait_for(lambda: False, draw.uniform(0, whole.seconds))
        if running.poll() is None:
            running.kill()
        result = running.wait()
        if result.code == 0:
            count.compare(box, whole)
            continue
        assert result.code == -signal.SIGKILL, result.err
        hits += 1
        count.in_a_save += any(box.run_folder.rglob(".*.tmp"))
    box.ok(*words, f"workers={draw.choice(WORKERS)}")
    count.compare(box, whole)
    count.trials += 1
    count.kills += hits


def trials(number: int, box: Sandbox, whole: Callable[[Sequence[str]], Whole], seed: int) -> Count:
    draw, count = random.Random(seed), Count()
    for words in itertools.islice(itertools.cycle(BITS), number):
        trial(box, words, whole(words), 3, draw, count)
    return count


@pytest.mark.faults
def test_thirty_runs_killed_three_times_each(
    box: Sandbox, whole: Callable[[Sequence[str]], Whole]
) -> None:
    found = trials(30, box, whole, seed=1)
    figures.keep("B1", **figures_of(found))
    assert found.different == 0
    assert found.kills >= 90
    assert found.in_a_save > 0, "no kill came in the middle of a save"


def figures_of(found: Count) -> dict[str, int]:
    return {name: value for name, value in vars(found).items() if name != "steps"}


@pytest.mark.faults
@pytest.mark.parametrize("model", FAMILY)
def test_the_rest_of_the_family_killed_twice(
    model: str, box: Sandbox, whole: Callable[[Sequence[str]], Whole]
) -> None:
    words = (*SHORT, *FAMILY[model])
    count = Count(SHORT_STEPS)
    trial(box, words, whole(words), 2, random.Random(model), count)
    figures.keep("B1", **{f"{model}_kills": count.kills, f"{model}_different": count.different})
    assert count.different == 0
    assert count.kills == 2


@pytest.mark.long
def test_two_hundred_runs_killed_three_times_each(
    box: Sandbox, whole: Callable[[Sequence[str]], Whole]
) -> None:
    found = trials(200, box, whole, seed=2)
    figures.keep("B1", **{f"long_{name}": n for name, n in figures_of(found).items()})
    assert found.different == 0
    assert found.kills >= 600
