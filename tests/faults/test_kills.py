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
    ("schedule.accumulate=1",),
    ("schedule.accumulate=2",),
    ("schedule.accumulate=2", "precision=bf16"),
)
WORKERS = (0, 2)


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
            seconds = box.ok(*RUN, *words).seconds
            made[tuple(words)] = Whole(outcome(box.run_folder), seconds)
        return made[tuple(words)]

    return find


@dataclass
class Count:
    trials: int = 0
    kills: int = 0
    in_a_save: int = 0
    different: int = 0

    def compare(self, box: Sandbox, whole: Whole) -> None:
        """The run in ``box`` came to its end: it is looked at and thrown away."""
        self.different += outcome(box.run_folder) != whole.outcome
        rows = map(json.loads, (box.run_folder / "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
        shutil.rmtree(box.run_folder)


def trial(
    box: Sandbox, words: Sequence[str], whole: Whole, kills: int, draw: random.Random, count: Count
) -> None:
    """Start, kill, resume, kill ... and compare the end with the uninterrupted run's.

    A run that is faster than its kill is compared, too, and the next one begins afresh.
    """
    hits = 0
    while hits < kills:
        running = box.start(*RUN, *words, f"workers={draw.choice(WORKERS)}")
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
    box.ok(*RUN, *words, f"workers={draw.choice(WORKERS)}")
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
    figures.keep("B1", **vars(found))
    assert found.different == 0
    assert found.kills >= 90
    assert found.in_a_save > 0, "no kill came in the middle of a save"


@pytest.mark.long
def test_two_hundred_runs_killed_three_times_each(
    box: Sandbox, whole: Callable[[Sequence[str]], Whole]
) -> None:
    found = trials(200, box, whole, seed=2)
    figures.keep("B1", **{f"long_{name}": value for name, value in vars(found).items()})
    assert found.different == 0
    assert found.kills >= 600
