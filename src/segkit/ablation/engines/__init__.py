"""Where jobs run. Each engine is a file with

run(jobs, values, *, stop, told) -> the outcome of each job, in the order of ``jobs``

``values`` is the composed root ``table``, ``stop`` is asked before anything is begun, and
``told(job, outcome)`` is called as each one ends. Whatever happens to one job, the others go on.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from segkit.ablation.jobs import Job
from segkit.ablation.work import Outcome
from segkit.conf_files import choices_of
from segkit.engine.signals import Stop
from segkit.errors import ConfigError

Told = Callable[[Job, Outcome], None]


class Engine(Protocol):
    """A file of this folder."""

    @staticmethod
    def run(
        jobs: Sequence[Job], values: Mapping[str, Any], *, stop: Stop, told: Told
    ) -> list[Outcome]: ...


def engine_of(values: Mapping[str, Any]) -> Engine:
    """The engine that ``values`` ask for; ConfigError for one that there is not."""
    name, known = values["engine"]["name"], choices_of("engine")
    if name not in known:
        raise ConfigError("CHOICE", "engine.name", f"{name!r}", "choices: " + ", ".join(known))
    return cast(Engine, importlib.import_module(f"segkit.ablation.engines.{name}"))
