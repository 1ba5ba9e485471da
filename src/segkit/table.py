"""``segkit table``: the papers' tables, trained, scored and laid beside the printed numbers."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segkit.ablation import book
from segkit.ablation.book import Table
from segkit.ablation.jobs import Job, Plan
from segkit.ablation.weights import sweep_weights
from segkit.ablation.work import Outcome
from segkit.engine.signals import Stop
from segkit.errors import ConfigError, ExitCode, Interrupted, SegkitError


@dataclass
class Asked:
    """The command line taken apart."""

    ids: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    show: str = ""
    config_dir: str | None = None
    trust: list[str] = field(default_factory=list)


SHOWS = ("--help", "--list", "--plan", "--status", "--check", "--cfg")
VALUED = ("--only", "--config-dir", "--trust")


def main(argv: Sequence[str]) -> int:
    """Do what was asked; raises what ``check`` does after the tables are written."""
    asked = parse(argv)
    if asked.show == "--help":
        from segkit.cli import COMMANDS
        from segkit.help import command_help

        print(command_help("table", COMMANDS["table"], asked.config_dir))
        return ExitCode.OK
    from segkit import rules
    from segkit.config import compose

    values = compose("table", asked.overrides, asked.config_dir).values
    if asked.show == "--cfg":
        import yaml

        print(yaml.safe_dump(values, sort_keys=False), end="")
        return ExitCode.OK
    rules.check(values)
    if not asked.ids and asked.show != "--list":
        fix = "segkit table v3.t5; segkit table --list shows them"
        raise ConfigError("USAGE", "table", "names no table", fix)
    ids = book.asked_for(asked.ids or ["all"], asked.config_dir)
    if asked.show == "--list":
        return listed(ids, asked.config_dir)
    tables = [book.read(table_id, asked.config_dir) for table_id in ids]
    return shown(tables, values, asked)


def parse(argv: Sequence[str]) -> Asked:
    """Take the words apart; what comes after ``--`` is for the trainings."""
    asked, rest = Asked(), iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            asked.extra = list(rest)
        elif word in ("-h", "--help"):
            asked.show = "--help"
        elif name in VALUED or word in ("--cfg", "-c"):
            given = value if equals else next(rest, None)
            if not given:
                raise ConfigError("USAGE", name, "needs a value", f"type {name} VALUE")
            _take(asked, name, given)
        elif word in SHOWS:
            asked.show = asked.show or word
        elif word.startswith("-"):
            from segkit.conf_files import nearest

            known = nearest(word, (*SHOWS, *VALUED))
            fix = f"see segkit table --help{known}"
            raise ConfigError("USAGE", word, "no such option", fix)
        elif equals:
            asked.overrides.append(word)
        else:
            asked.ids.append(word)
    return asked


def _take(asked: Asked, name: str, given: str) -> None:
    if name == "--only":
        asked.only += given.split(",")
    elif name == "--config-dir":
        asked.config_dir = given
    elif name == "--trust":
        asked.trust.append(given)
    elif given != "job":
        raise ConfigError("USAGE", "--cfg", f"{given!r}", "the only choice is: job")
    else:
        asked.show = "--cfg"


def listed(ids: Sequence[str], config_dir: str | None) -> int:
    """A line for each table; one whose file is malformed hides no other, and is the error."""
    from segkit.ablation.looks import listing

    tables, broken = [], None
    for table_id in ids:
        try:
            tables.append(book.read(table_id, config_dir))
        except ConfigError as error:
            broken = broken or error
    if tables:
        print(listing(tables))
    if broken is not None:
        raise broken
    return ExitCode.OK


def shown(tables: Sequence[Table], values: Mapping[str, Any], asked: Asked) -> int:
    """A look, or the work."""
    from segkit.ablation import looks

    if asked.show == "--check":
        return derived_again(tables, values, asked)
    from segkit.ablation.plan import check_coco, check_varied, only, plan_of

    check_varied(tables, asked.extra, asked.only)
    whole = plan_of(
        tables, values, extra=asked.extra, config_dir=asked.config_dir, trust=asked.trust
    )
    plan = only(whole, tables, asked.only)
    check_coco(plan, values["coco"])
    if asked.show == "--plan":
        print(looks.plan_text(plan, keep_weights=values["scale"]["keep_weights"]))
        return ExitCode.OK
    if asked.show == "--status":
        print(looks.status_text(plan))
        return ExitCode.OK
    from segkit.engine.signals import stopping

    with stopping() as stop:
        outcomes = work(plan, values, stop)
        written(tables, whole, values, asked)
    check(len(plan.jobs), outcomes)
    return ExitCode.OK


def derived_again(tables: Sequence[Table], values: Mapping[str, Any], asked: Asked) -> int:
    """Each table as it was written, against the score files that it names."""
    from functools import partial
    from pathlib import Path

    from segkit.ablation import computed
    from segkit.ablation.rederive import check_table
    from segkit.ablation.written import changes, folder_of

    changed = changes(values, asked.overrides, asked.extra, asked.config_dir)
    for table in tables:
        path = folder_of(table, values, changed) / "table.json"
        again = partial(computed.number, table=table, config_dir=asked.config_dir)
        count = check_table(path, Path(values["runs"]).expanduser(), table, again)
        print(f"{path}: {count} numbers are those of their score files", flush=True)
    return ExitCode.OK


def written(tables: Sequence[Table], plan: Plan, values: Mapping[str, Any], asked: Asked) -> None:
    """The tables as they stand now: as files, and on stdout."""
    from segkit.ablation.written import changes, write
    from segkit.report.ablation_text import terminal
    from segkit.report.tables import printable

    words = [*asked.overrides, *(["--config-dir", asked.config_dir] if asked.config_dir else [])]
    words += [word for module in asked.trust for word in ("--trust", module)]
    words += ["--", *asked.extra] if asked.extra else []
    changed = changes(values, asked.overrides, asked.extra, asked.config_dir)
    for table in tables:
        document, folder = write(
            table, plan, values, words=words, config_dir=asked.config_dir, changed=changed
        )
        print(printable(f"\n{terminal(document)}\ntable: {folder}/table.html", sys.stdout))


# -- the work --------------------------------------------------------------------------------------


def work(plan: Plan, values: Mapping[str, Any], stop: Stop) -> list[Outcome]:
    """Do what is not done; one line on stdout for each job."""
    from segkit.ablation.engines import engine_of
    from segkit.ablation.state import is_begun_from, standing

    todo = [
        job for job in plan.jobs if standing(job).state != "done" or is_begun_from(job, plan.jobs)
    ]
    done = len(plan.jobs) - len(todo)
    if done:
        print(f"{done} of {len(plan.jobs)} trainings are done and scored", flush=True)
    try:
        told = Told(len(todo), [] if values["scale"]["keep_weights"] else plan.jobs)
        return engine_of(values).run(todo, values, stop=stop, told=told) if todo else []
    finally:
        if not values["scale"]["keep_weights"]:
            sweep_weights(plan.jobs, plan.jobs)


class Told:
    """A line for each job that ends. Weights that ``passing`` jobs began with go then."""

    def __init__(self, total: int, passing: Sequence[Job]) -> None:
        self.total, self.ended, self.passing = total, 0, passing

    def __call__(self, job: Job, outcome: Outcome) -> None:
        from segkit.ablation.looks import clock, served
        from segkit.report.tables import printable

        self.ended += outcome.state != "busy"
        number = f"[{self.ended}/{self.total}]" if outcome.state != "busy" else "[later]"
        what = outcome.what if outcome.state == "done" else f"{outcome.state}: {outcome.line}"
        text = f"{number} {served(job)}: {what} ({clock(outcome.seconds)}) {job.name}"
        print(printable(text, sys.stdout), flush=True)
        before = [other for other in self.passing if other.run == job.begins]
        sweep_weights(before, self.passing)


def check(total: int, outcomes: Sequence[Outcome]) -> None:
    """Raise what ends the command: Interrupted after a stop, else the first failed job's code."""
    failed = [outcome for outcome in outcomes if outcome.code]
    stopped = [outcome for outcome in failed if outcome.state == "stopped"]
    if stopped:
        name = "SIGINT" if stopped[0].code == ExitCode.SIGINT else "SIGTERM"
        raise Interrupted(name, "table", "stopped; what is done is kept", "type it again to go on")
    if failed:
        what = f"{len(failed)} of {total} trainings failed; the first: {failed[0].line}"
        error = JobsFailed("FAILED", "table", what, "--status shows all; type it again to go on")
        error.code = failed[0].code  # type: ignore[misc, assignment]
        raise error


class JobsFailed(SegkitError):
    """Some trainings failed; the exit code is that of the first one."""

    prefix = "TABLE"
