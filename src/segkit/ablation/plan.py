"""From tables to jobs: what has to be trained and scored, each thing once."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from segkit.ablation import scale as scales
from segkit.ablation.book import Column, Row, Table, merged
from segkit.ablation.jobs import Evaluation, Job, Place, Plan, start_of
from segkit.ablation.scale import composed
from segkit.conf_files import nearest
from segkit.errors import CheckpointError, ConfigError
from segkit.identity import run_name
from segkit.schema import ROOTS

# What the table itself says of every training: typed behind --, it would make one run of many.
OWN = ("name", "runs", "resume", "seed")
# Where and how fast, and nothing of the result: the same score on another machine is that score.
PLACES = ("device", "devices", "workers", "worker_timeout", "rank_timeout", "eval.batch")
# What an evaluation does unless told otherwise, so that a score asked for with it is the same.
IDLE = ("eval.boundaries=true",)
# What an evaluation takes from its run: typed behind --, it is said to the training alone.
OF_THE_RUN = ("os", "dataset", "eval.every", "eval.colour_baseline")
COCO = "{coco}"


def plan_of(
    tables: Sequence[Table],
    values: Mapping[str, Any],
    *,
    extra: Sequence[str] = (),
    config_dir: str | None = None,
    trust: Sequence[str] = (),
) -> Plan:
    """Every job of ``tables``, in their order, as ``values`` (the root ``table``) makes them.

    ``extra`` are words for every training, and for the evaluations as far as those know them.
    Raises ConfigError for a row whose words do not compose, naming the table and the row.
    """
    check_extra(extra)
    making = _Making(values, tuple(extra), config_dir, tuple(trust))
    for table in tables:
        for row in table.rows:
            try:
                making.take(table, row)
            except ConfigError as error:
                where = f"{table.id} {row.key}: {error.where}"
                raise ConfigError(error.name, where, error.what, error.fix) from error
    return Plan(tuple(making.jobs.values()), making.places, making.blocked)


def only(plan: Plan, tables: Sequence[Table], keys: Collection[str]) -> Plan:
    """Of ``plan`` the jobs and scores that the rows ``keys`` need, those they are compared with
    included; all of it for no keys. ConfigError for a key that no table has."""
    if not keys:
        return plan
    known = [row.key for table in tables for row in table.rows]
    for key in keys:
        if key not in known:
            fix = "rows: " + ", ".join(dict.fromkeys(known)) + nearest(key, known)
            raise ConfigError("UNKNOWN-CHOICE", "--only", f"{key!r} is no row", fix)
    wanted = {(table.id, key) for table in tables for key in _with_theirs(table, keys)}
    places = [place for key, place in plan.places.items() if key[:2] in wanted]
    needed = {(place.run, place.evaluation.name) for place in places}
    begun = _begun_from(plan, {place.run for place in places})
    jobs = []
    for job in plan.jobs:
        kept = tuple(e for e in job.evaluations if (job.run, e.name) in needed)
        if kept or job.run in begun:
            rows = tuple(r for r in job.rows if tuple(r.split(" ", 1)) in wanted)
            jobs.append(replace(job, evaluations=kept, rows=rows or job.rows))
    return Plan(tuple(jobs), plan.places, plan.blocked)


def _with_theirs(table: Table, keys: Collection[str]) -> Iterator[str]:
    for row in table.rows:
        if row.key in keys:
            yield row.key
            if row.against is not None:
                yield row.against


def _begun_from(plan: Plan, runs: Collection[Path]) -> set[Path]:
    """The runs whose networks those in ``runs`` start from, and those behind them."""
    begins = {job.run: job.begins for job in plan.jobs}
    found: set[Path] = set()
    for run in runs:
        before = begins[run]
        while before is not None:
            found.add(before)
            before = begins[before]
    return found


def check_varied(tables: Sequence[Table], extra: Sequence[str], keys: Collection[str]) -> None:
    """ConfigError for a word behind ``--`` in which the rows asked for (``keys``, or all) differ:
    it would make one training of rows whose labels say that they are several."""
    for table in tables:
        rows = [row for row in table.rows if not keys or row.key in keys]
        said = {row.key: dict(word.split("=", 1) for word in row.train) for row in rows}
        for word in extra:
            key = word.partition("=")[0]
            if len({words.get(key) for words in said.values()}) > 1:
                row, value = next((r, w[key]) for r, w in said.items() if key in w)
                what = f"the rows of {table.id} differ in it ({row} has {key}={value})"
                fix = "ask for one row with --only, or write a table of your own (--config-dir)"
                raise ConfigError("USAGE", f"-- {word}", what, fix)


def check_coco(plan: Plan, coco: str | None) -> None:
    """ConfigError if networks of several backbones are to begin with the one file ``coco``,
    CheckpointError if there is none of that name."""
    if coco and not Path(coco).expanduser().exists():
        raise CheckpointError("WEIGHTS-MISSING", "coco", f"{coco} does not exist")
    begun = [job for job in plan.jobs if coco and start_of(job.words) == coco]
    chosen = {composed(job.words, job.config_dir).choices["backbone"]: job for job in begun}
    if len(chosen) > 1:
        rows = "; ".join(f"{backbone} for {job.rows[0]}" for backbone, job in chosen.items())
        fix = "a file fits one backbone: ask for their tables one at a time, or for rows by --only"
        raise ConfigError("USAGE", "coco", f"one file for several backbones ({rows})", fix)


def check_extra(extra: Sequence[str]) -> None:
    """ConfigError for words behind ``--`` that are no words for every training."""
    for word in extra:
        key, equals, _ = word.partition("=")
        if not equals:
            raise ConfigError(
                "USAGE", word, "is no key=value", "behind -- go words of segkit train"
            )
        if key in OWN:
            what = "is what the table says of each training"
            fix = "type seeds=[0,1] before the --" if key == "seed" else "type it before the --"
            raise ConfigError("USAGE", f"-- {word}", what, fix if key != "name" else "leave it out")


class _Making:
    """The jobs so far, by run folder."""

    def __init__(
        self,
        values: Mapping[str, Any],
        extra: tuple[str, ...],
        config_dir: str | None,
        trust: tuple[str, ...],
    ) -> None:
        self.values, self.config_dir, self.trust = values, config_dir, trust
        self.runs = Path(values["runs"]).expanduser()
        placed = _placed(values)
        self.extra = merged(placed, extra)
        self.asked = merged(placed, [w for w in extra if _evaluation_knows(w.partition("=")[0])])
        self.jobs: dict[Path, Job] = {}
        self.taken: set[tuple[str, str]] = set()
        self.runs_of: dict[tuple[str, str, int], Path] = {}
        self.places: dict[tuple[str, str, str, int], Place] = {}
        self.blocked: dict[tuple[str, str], str] = {}

    def take(self, table: Table, row: Row) -> None:
        """All trainings of ``row``, those it begins with before it."""
        if (table.id, row.key) in self.taken:
            return
        self.taken.add((table.id, row.key))
        before = next((other for other in table.rows if other.key == row.begins), None)
        if before is not None:
            self.take(table, before)
        if reason := self.reason(row) or self.blocked.get((table.id, row.begins or "")):
            self.blocked[table.id, row.key] = reason
            return
        columns = [column for column in table.columns if not column.computed]
        for seed in self.values["seeds"] if columns else ():
            begins = self.runs_of.get((table.id, row.begins or "", seed))
            words = self.words(table, row, seed, begins)
            run = self.runs / run_name(composed(words, self.config_dir))
            self.runs_of[table.id, row.key, seed] = run
            for column in columns:
                evaluation = self.evaluation(row, column, run)
                self.add(run, words, evaluation, f"{table.id} {row.key}", begins)
                self.places[table.id, row.key, column.name, seed] = Place(run, evaluation)

    def words(self, table: Table, row: Row, seed: int, begins: Path | None) -> tuple[str, ...]:
        """Of the training. Where it begins is what the row is about: no scale changes it, and no
        word typed for all trainings."""
        coco = str(self.values["coco"] or "")
        train = tuple(word.replace(COCO, coco) for word in row.train)
        start = [word for word in train if row.needs and word.startswith("pretrained=")]
        start += [f"pretrained={begins}"] if begins else []
        return scales.train_words(
            replace(row, train=train),
            table,
            self.values["scale"],
            seed=seed,
            extra=merged(self.extra, start),
            config_dir=self.config_dir,
        )

    def reason(self, row: Row) -> str | None:
        if row.blocked is None and row.needs == "coco" and self.values["coco"] is None:
            return "begins with weights pretrained on MS-COCO: coco=/path"
        return row.blocked

    def evaluation(self, row: Row, column: Column, run: Path) -> Evaluation:
        words = merged(scales.eval_words(row, column.evaluate, self.values["scale"]), self.asked)
        asked, typed = column.tune or row.tune, self.values["scale"]["tune"]
        tune = (asked if typed is None else typed) or None if asked else None
        name = name_of(words, tune)
        return Evaluation(name, words, run / "scores" / name, tune)

    def add(
        self,
        run: Path,
        words: tuple[str, ...],
        evaluation: Evaluation,
        row: str,
        begins: Path | None,
    ) -> None:
        job = self.jobs.get(run) or Job(run, words, (), (), self.config_dir, self.trust, begins)
        if start_of(job.words) != start_of(words):  # a run's name says only that it is a path
            what = f"{row} and {job.rows[0]} are one run, and begin with different weights"
            fix = "type coco= and -- pretrained= in calls of their own, each with its own runs="
            raise ConfigError("TABLE", "pretrained", what, fix)
        others = {e.name: e for e in job.evaluations}
        evaluations = tuple((others | {evaluation.name: evaluation}).values())
        rows = tuple(dict.fromkeys([*job.rows, row]))
        self.jobs[run] = replace(job, evaluations=evaluations, rows=rows)


def name_of(words: Sequence[str], tune: int | None) -> str:
    """A folder for a score: ``ablation-os8-ms-flip-1a2b3c``; the digits are over all that counts.

    The order of the words does not.
    """
    counted = sorted(w for w in words if w.partition("=")[0] not in PLACES and w not in IDLE)
    exact = hashlib.sha256("\n".join([*counted, f"tune={tune}"]).encode()).hexdigest()[:6]
    said = dict(word.split("=", 1) for word in words)
    flags = [flag for flag in ("ms", "flip", "crf") if said.get(flag) == "true"]
    stride = [f"os{said['os']}"] if said.get("os", "null") != "null" else []
    return "-".join(["ablation", *stride, *flags, *(["tuned"] if tune else []), exact])


def _placed(values: Mapping[str, Any]) -> list[str]:
    """The root's words about the machine, where they say something."""
    untold = {"device": "auto", "devices": 1, "workers": None, "precision": "auto"}
    return [f"{key}={values[key]}" for key, default in untold.items() if values[key] != default]


def _evaluation_knows(key: str) -> bool:
    node = key.partition(".")[0]
    if key in OF_THE_RUN or node in OF_THE_RUN:
        return False
    return all(node in {f.name for f in fields(ROOTS[root])} for root in ("train", "eval"))
