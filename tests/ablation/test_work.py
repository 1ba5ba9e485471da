"""One job done: what is there is not made again, what fails is recorded, weights go when told."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Finished

from segkit.ablation import weights, work
from segkit.ablation.engines.local import in_this_process
from segkit.ablation.jobs import Job
from segkit.ablation.state import (
    PASSING,
    folder_of,
    has_weights,
    is_held,
    is_scored,
    lock_path,
    log_path,
    missing,
    other_start,
    read_record,
    say_weights,
    standing,
    weights_said,
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
    assert outcome.line == "error[TEST-3]: eval broke"
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
    say_weights(job, PASSING)
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
    say_weights(first, PASSING)
    assert do(first, Commands(), keep=False, among=[first, later]).state == "done"
    assert has_weights(first.run)
    weights.sweep_weights([first], [first, later])
    assert has_weights(first.run)
    weights.sweep_weights([first], [first])
    assert not has_weights(first.run)


def test_weights_that_somebody_keeps_stay(finished: Finished) -> None:
    """Trained by a call that keeps them, by hand, or by hand in the place of one that did not."""
    jobs = finished.plan.jobs
    for job in jobs:
        assert do(job, Commands(), keep=False).state == "done"
    folder_of(jobs[0]).joinpath(f"{jobs[1].name}.json").unlink()
    weights.sweep_weights(jobs, jobs)
    say_weights(jobs[0], PASSING)
    status = jobs[0].run / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_bytes()), "run": "another"}))
    assert weights_said(jobs[0]) == ""
    weights.sweep_weights(jobs, jobs)
    assert all(has_weights(job.run) for job in jobs)
    say_weights(jobs[0], PASSING)
    lock = Lock(lock_path(jobs[0]))
    weights.sweep_weights(jobs, jobs)
    assert has_weights(jobs[0].run), "another call works on it"
    lock.release()
    weights.sweep_weights(jobs, jobs)
    assert [has_weights(job.run) for job in jobs] == [False, True]


def test_what_a_call_trains_without_keeping_is_noted(finished: Finished) -> None:
    first = finished.plan.jobs[0]

    def train(words: Sequence[str], log: Path) -> int:  # noqa: ARG001
        job.run.mkdir()
        for name in ("run.json", "status.json"):
            (job.run / name).write_text('{"run": "r", "state": "interrupted"}')
        return 5

    for name, keep, said in (("mine", False, PASSING), ("kept", True, "")):
        job = replace(first, run=finished.runs / name)
        assert do(job, train, keep=keep).code == 5
        assert weights_said(job) == said
        assert do(job, Commands(lambda _: 5), keep=False).code == 5
        assert weights_said(job) == said, "who goes on with it does not own it"


def test_a_finished_training_whose_disk_is_away_is_left_alone(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    job.evaluations[0].score.unlink()
    told = {name: (job.run / name).read_bytes() for name in ("status.json", "metrics.jsonl")}
    checkpoints = job.run / "checkpoints"
    checkpoints.rename(finished.runs / "disk")
    checkpoints.symlink_to(finished.runs / "unmounted")
    for keep in (True, False):
        commands = Commands()
        outcome = do(job, commands, keep=keep)
        assert (outcome.state, outcome.code, commands.asked) == ("failed", 4, [])
        assert "is trained, and its weights are gone; bring " in outcome.line
        say_weights(job, "gone")
        assert do(job, Commands(), keep=keep).code == 4, "not through a link"
        say_weights(job, "")
    assert {name: (job.run / name).read_bytes() for name in told} == told
    checkpoints.unlink()
    (finished.runs / "disk").rename(checkpoints)
    assert do(job, Commands(real=True)).state == "done"


def test_a_training_again_that_cannot_begin_costs_no_score(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    say_weights(job, PASSING)
    weights.drop_weights(job)
    text = job.evaluations[1].score.read_bytes()
    job.evaluations[1].score.unlink()
    metrics = (job.run / "metrics.jsonl").read_bytes()
    assert do(job, Commands(), keep=True).code == 4, "this call keeps weights"
    assert do(job, Commands(lambda _: 3), keep=False).code == 3
    assert is_scored(job, job.evaluations[0])
    assert (job.run / "metrics.jsonl").read_bytes() == metrics
    weights.start_afresh(job.run)  # and killed there
    assert missing(job) == job.evaluations
    job.evaluations[1].score.write_bytes(text)
    assert do(job, Commands(), keep=False).what == "nothing to do"
    assert not (job.run / "before").exists()


def test_what_is_left_of_a_killed_removal_is_no_checkpoint(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished.plan.jobs[0]
    say_weights(job, PASSING)

    def killed(path: Path) -> None:
        raise OSError(path)

    monkeypatch.setattr(weights.shutil, "rmtree", killed)
    weights.drop_weights(job)
    assert list(job.run.glob("checkpoints/step-*"))
    assert not has_weights(job.run)


def test_a_run_that_began_with_another_file_is_not_the_jobs(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    config = job.run / "config.yaml"
    config.write_text(config.read_text().replace("pretrained: none", "pretrained: /a/coco"))
    words = tuple(word for word in job.words if not word.startswith("pretrained="))
    mine = replace(job, words=(*words, "pretrained=/a/../a/coco"))
    assert other_start(mine) is None
    assert standing(replace(mine, evaluations=())).state == "done"
    for theirs in (replace(job, words=(*words, "pretrained=/b/coco"), evaluations=()),):
        assert standing(theirs).state == "failed"
        commands = Commands()
        outcome = do(theirs, commands)
        assert (outcome.code, commands.asked) == (2, [])
        assert "began with /a/coco, and pretrained=/b/coco is asked for" in outcome.line
        assert standing(theirs).line == outcome.line
    assert not missing(replace(job, evaluations=())), "a row of its own start does not ask"
    config.write_text(config.read_text().replace("/a/coco", "elsewhere/first"))
    begins = Path("here/first")
    again = replace(job, words=(*words, f"pretrained={begins}"), begins=begins)
    assert other_start(again) is None, "a run is known by its name"


def test_another_machines_word_is_taken_for_half_an_hour(finished: Finished) -> None:
    job = finished.plan.jobs[0]
    record = {"host": "elsewhere", "state": "running"}
    assert is_held(job, record)
    long_ago = time.time() - 31 * 60
    for path in [*folder_of(job).iterdir(), *job.run.iterdir()]:
        os.utime(path, (long_ago, long_ago))
    assert not is_held(job, record)
    os.utime(log_path(job))
    assert is_held(job, record)


@pytest.mark.parametrize("text", [None, '{"densecrf": {"iter', "{}", "[]", '{"densecrf": 3}'])
def test_a_torn_search_fails_its_score_alone(finished: Finished, text: str | None) -> None:
    job = finished.plan.jobs[0]
    plain = job.evaluations[1]
    plain.score.unlink()
    tuned = replace(plain, words=("crf=true",), tune=100, folder=job.run / "scores/t")
    work.tuning_folder(tuned).mkdir(parents=True)
    if text is not None:
        (work.tuning_folder(tuned) / "tune.json").write_text(text)
    commands = Commands()
    outcome = do(replace(job, evaluations=(tuned, plain)), commands)
    assert commands.names == ["crf", "eval"]
    assert (outcome.state, outcome.code) == ("failed", 6)
    assert "tune.json: does not say what the search found" in outcome.line
    assert read_record(job)["state"] == "failed"


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
