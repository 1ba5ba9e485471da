"""What has to run for some tables: a job for each training, with every score read off it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Evaluation:
    """One score of a trained network: ``words`` of ``segkit eval``, and the folder it goes to.

    ``tune``: the CRF's parameters are searched on so many val images before.
    """

    name: str
    words: tuple[str, ...]
    folder: Path
    tune: int | None = None

    @property
    def score(self) -> Path:
        return self.folder / "score.json"


@dataclass(frozen=True)
class Job:
    """One training and its evaluations. ``run`` is its folder; ``rows`` are those that use it.

    ``begins`` is the run whose trained network it starts from: its job comes before, and may be
    there for that alone, without an evaluation.
    """

    run: Path
    words: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    rows: tuple[str, ...]
    config_dir: str | None = None
    trust: tuple[str, ...] = ()
    begins: Path | None = None

    @property
    def name(self) -> str:
        return self.run.name


@dataclass(frozen=True)
class Place:
    """Where one number comes from: the job's run and the score in it."""

    run: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Plan:
    """The jobs of some tables, in the order in which they are started.

    ``places`` maps (table, row, column, seed) to where its number will stand; what is blocked or
    computed has no place. ``blocked`` maps (table, row) to the reason.
    """

    jobs: tuple[Job, ...]
    places: dict[tuple[str, str, str, int], Place] = field(default_factory=dict)
    blocked: dict[tuple[str, str], str] = field(default_factory=dict)


def start_of(words: Sequence[str]) -> str:
    """What the words of a training begin it with, as typed; "" where that is left to the config."""
    begins = [word.partition("=")[2] for word in words if word.startswith("pretrained=")]
    return begins[-1] if begins else ""
