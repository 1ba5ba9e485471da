"""One job done: what is there is not made again, what fails is recorded, weights go when told."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Finished

from segkit.ablation import work
from segkit.ablation.engines.local import in_this_process
from segkit.ablation.jobs import Job
from segkit.ablation.state import (
    has_weights,
    is_scored,
    lock_path,
    log_path,
    missing,
    read_record,
    standing,
    write_record,
)
from segkit.ablation.work import Command, Outcome
from segkit.lock import Lock


class Commands:
    """Remembers what was asked for; fails what ``code`` says, and does the rest if ``real``."""

    def __init__(
        self, code: Callable[[Sequence[str]], int] = lambda _: 0, real: bool = False
    ) -> None:
        self.code, self.real, self.asked = code, real, list[Sequence[str]]()

    def __call__(self, words: Sequence[str], log: Path) -> int:
        self.asked.append(words)
        if code := self.code(words):
            with log.open("a") as file:
                file.write(f"working\nsegkit: error[TEST-{code}]: {words[0]} broke\n")
            return code
        return in_this_process(words, log) if self.real else 0

    @property
    def names(self) -> list[str]:
        return [words[0] for words in self.asked]


def do(job: Job, command: Command, keep: bool = True, among: Sequence[Job] = ()) -> Outcome:
    return work.do(job, command=command, keep_weights=keep, should_stop=lambda: False, among=among)


def test_what_is_done_is_not_touched(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.runs.rglob("*.json")}
    commands = Commands()
    for job in finished.plan.jobs:
        assert do(job, commands).state == "done"
        assert standing(job).state == "done"
    assert commands.asked == []
    assert {path: path.stat().st_mtime_ns for path in finished.runs.rglob("*.json")} == before


def test_a_missing_score_alone_is_made(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    plain, flipped = job.evaluations
    text = flipped.score.read_bytes()
    flipped.score.unlink()
    commands = Commands(real=True)
    assert do(job, commands).what == "1 score"
    assert commands.names == ["eval"]
    assert f"out={flipped.folder}" in commands.asked[0]
    mine, theirs = json.loads(flipped.score.read_bytes()), json.loads(text)
    assert mine["confusion"] == theirs["confusion"]
    assert is_scored(job, plain)


@pytest.mark.parametrize("key", ["step", "config", "flip"])
def test_a_score_of_something_else_is_made_again(finished: Finished, key: str) -> None:
    job = finished.plan.jobs[0]
    plain = job.evaluations[0]
    document = json.loads(plain.score.read_bytes())
    document["signature"][key] = {"step": 1, "config": "00000000", "flip": True}[key]
    plain.score.write_text(json.dumps(document))
    assert missing(job) == (plain,)
    commands = Commands()
    outcome = do(job, commands)
    assert commands.names == ["eval"]
    assert (outcome.state, outcome.code) == ("failed", 1), "the command left no score"


def test_a_failing_evaluation_leaves_the_others(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    for evaluation in job.evaluations:
        evaluation.score.unlink()
    plain, flipped = job.evaluations
    commands = Commands(lambda words: 0 if "flip=true" in words else 3, real=True)
    outcome = do(job, commands)
    assert (outcome.state, outcome.code) == ("failed", 3)
    assert outcome.line == "segkit: error[TEST-3]: eval broke"
    assert (is_scored(job, plain), is_scored(job, flipped)) == (False, True)
    record = read_record(job)
    assert (record["state"], record["code"], record["rows"]) == ("failed", 3, list(job.rows))
    assert record["failed"][plain.name]["command"].startswith("segkit eval ckpt=")
    stands = standing(job)
    assert (stands.state, stands.code, stands.line) == ("failed", 3, outcome.line)
    assert (stands.scores, stands.evaluations, stands.percent) == (1, 2, 100)
    assert do(job, Commands(real=True)).state == "done"
    assert standing(job).state == "done"


def test_after_a_failed_training_nothing_is_scored(finished: Finished, tmp_path: Path) -> None:
    job = replace(finished.plan.jobs[0], run=tmp_path / "other" / "run")
    commands = Commands(lambda _: 5)
    assert do(job, commands).code == 5
    assert commands.names == ["train"]
    assert standing(job).state == "failed"


def test_a_stop_begins_nothing_more(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    for evaluation in job.evaluations:
        evaluation.score.unlink()
    commands = Commands(lambda _: 143)
    outcome = do(job, commands)
    assert (outcome.state, outcome.code) == ("stopped", 143)
    assert commands.names == ["eval"]
    assert standing(job).state == "stopped"


def test_a_killed_job_reads_as_stopped(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    job.evaluations[0].score.unlink()
    write_record(job, "running")  # and nobody holds the lock
    assert standing(job).state == "stopped"
    lock = Lock(lock_path(job))
    try:
        assert standing(job).state == "running"
        assert do(job, Commands()).state == "busy"
    finally:
        lock.release()


def test_weights_go_after_the_last_score_and_come_back_for_a_new_one(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    assert do(job, Commands(), keep=False).state == "done"
    assert not has_weights(job.run)
    assert standing(job).state == "done"
    score = json.loads(job.evaluations[1].score.read_bytes())
    job.evaluations[1].score.unlink()
    commands = Commands(real=True)
    outcome = do(job, commands, keep=False)
    assert outcome.what == "trained again, for its weights were gone, 1 score"
    assert commands.names == ["train", "eval"]
    assert not has_weights(job.run)
    assert json.loads(job.evaluations[1].score.read_bytes())["confusion"] == score["confusion"]
    assert not missing(job), "what was scored before is of the same training"


def test_weights_stay_for_a_job_that_begins_with_them(finished: Finished, tmp_path: Path) -> None:
    first = finished.plan.jobs[0]
    later = replace(first, run=tmp_path / "later" / "run", begins=first.run)
    assert do(first, Commands(), keep=False, among=[first, later]).state == "done"
    assert has_weights(first.run)
    work.sweep_weights([first], [first, later])
    assert has_weights(first.run)
    work.sweep_weights([first], [first])
    assert not has_weights(first.run)


def test_a_search_feeds_the_evaluation(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    words = ("crf=true", "os=8", "devices=2", "densecrf.preset=v1_largefov")
    tuned = replace(job.evaluations[0], words=words, tune=100, folder=job.run / "scores/t")
    search = work.tuning(job, tuned)
    assert search[:5] == ("crf", "tune", f"ckpt={job.run}", "os=8", "n=100")
    assert not [word for word in search if word.startswith(("crf=", "densecrf", "devices"))]
    folder = work.tuning_folder(tuned)
    folder.mkdir(parents=True)
    node = {"iterations": 10, "bilateral_weight": 4.0, "bilateral_xy": 83.5}
    (folder / "tune.json").write_text(json.dumps({"densecrf": node}))
    commands = Commands()
    do(replace(job, evaluations=(tuned,)), commands)
    assert commands.names == ["crf", "eval"]
    found = {"densecrf.iterations=10", "densecrf.bilateral_weight=4", "densecrf.bilateral_xy=83.5"}
    assert found <= set(commands.asked[1])


def test_the_log_has_every_command_as_it_is_typed(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    typed = [line[2:] for line in log_path(job).read_text().splitlines() if line.startswith("$ ")]
    assert typed[0].startswith("segkit train ")
    assert "'model.rates=[1,2]'" in typed[0], "as a shell wants it"
    assert [line.split()[1] for line in typed] == ["train", "eval", "eval"]
