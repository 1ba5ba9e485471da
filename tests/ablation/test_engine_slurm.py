"""engine=slurm against SLURM's commands as stubs, and submitit's own local executor (R20, S16)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stub_slurm import Slurm
from tiny import config_dir

from segkit.ablation import alone
from segkit.ablation.engines import clusters, slurm
from segkit.ablation.jobs import Evaluation, Job
from segkit.ablation.state import read_record, record_path, write_record
from segkit.ablation.work import Outcome
from segkit.cli import main
from segkit.engine.signals import Stop
from segkit.errors import ConfigError, EnvironmentFault

pytest.importorskip("submitit", reason="the slurm extra is not installed")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(slurm, "LAST_LOOK", 0.05)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(tmp_path / "slurm", monkeypatch)


def job(runs: Path, name: str, *words: str, begins: Path | None = None) -> Job:
    run = runs / name
    evaluation = Evaluation("e", ("ms=true",), run / "scores/e")
    return Job(run, words, (evaluation,), (f"v3.t5 {name}",), begins=begins)


def values(**options: Any) -> dict[str, Any]:
    return {
        "engine": {"name": "slurm", "options": {"wait": False, **options}},
        "scale": {"keep_weights": True},
        "device": "auto",
        "devices": 1,
    }


def run(
    jobs: list[Job], stop: Stop | None = None, **options: Any
) -> tuple[list[Outcome], list[str]]:
    """The outcomes, and the jobs in the order in which their end was told."""
    told: list[str] = []
    outcomes = slurm.run(
        jobs, values(**options), stop=stop or Stop(), told=lambda job, _: told.append(job.name)
    )
    return outcomes, told


def test_a_batch_job_for_each_training_and_none_of_them_twice(stub: Slurm, tmp_path: Path) -> None:
    jobs = [job(tmp_path / "runs", name) for name in ("a", "b", "c")]
    outcomes, told = run(jobs, partition="gpu", qos="low", mem_gb=32, timeout_min=90)
    assert [(o.state, o.code) for o in outcomes] == [("submitted", 0)] * 3
    assert told == ["a", "b", "c"]
    assert [read_record(j)["submission"]["id"] for j in jobs] == ["101", "102", "103"]
    script = stub.script("b")
    for line in ("--partition=gpu", "--qos=low", "--mem=32GB", "--time=90", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in script
    assert oct((tmp_path / "runs/jobs/slurm").stat().st_mode)[-3:] == "700"

    run(jobs)
    assert stub.calls == 3, "all are in the queue"
    stub.forget("b-")
    outcomes, _ = run(jobs)
    assert stub.calls == 4, "b alone is gone"
    assert read_record(jobs[1])["submission"]["id"] == "104"
    write_record(jobs[2], "failed", code=3, line="segkit: error[DATA-X]: y")
    stub.forget("c-")
    run(jobs)
    assert stub.calls == 5, "c has failed"


def test_a_finished_training_is_not_handed_over(
    stub: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = slurm.standing
    monkeypatch.setattr(slurm, "needs_training", lambda j, _: j.name != "a")
    monkeypatch.setattr(
        slurm,
        "standing",
        lambda j: before(j) if j.name != "a" else type("S", (), {"state": "done"}),
    )
    outcomes, _ = run([job(tmp_path / "runs", "a"), job(tmp_path / "runs", "b")])
    assert [o.state for o in outcomes] == ["done", "submitted"]
    assert stub.calls == 1


FAULTS = {
    "fails": ("echo 'sbatch: error: invalid account' >&2; exit 1", "left with 1: sbatch: error"),
    "stalls": ("sleep 30 > /dev/null 2>&1", "gave no answer in 0.5 s"),
    "answers oddly": ("echo 'hm?'; exit 0", "answered 'hm?'"),
    "dies": ("kill -9 $$", "left with -9"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_sbatch(fault: str, stub: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message for the job, the others go on, a rerun submits only the missing (R20)."""
    does, message = FAULTS[fault]
    monkeypatch.setattr(clusters, "ANSWER_SECONDS", 0.5)
    stub.bad(does)
    jobs = [job(tmp_path / "runs", name) for name in ("a", "bad", "c")]
    outcomes, _ = run(jobs)
    assert [(o.state, o.code) for o in outcomes] == [
        ("submitted", 0),
        ("failed", 6),
        ("submitted", 0),
    ]
    assert message in outcomes[1].line
    assert outcomes[1].line.startswith("error[ENV-SUBMIT")
    assert "\n" not in outcomes[1].line
    stub.good()
    outcomes, _ = run(jobs)
    assert [o.state for o in outcomes] == ["submitted"] * 3
    assert stub.calls == 4


def test_a_job_that_arrived_though_sbatch_did_not_say_so(stub: Slurm, tmp_path: Path) -> None:
    stub.bad('echo "777 $name" >> queue; echo "hm?"; exit 0')
    jobs = [job(tmp_path / "runs", "bad")]
    outcomes, _ = run(jobs)
    assert outcomes[0].state == "submitted"
    assert read_record(jobs[0])["submission"]["id"] == "777"


def test_a_call_killed_while_it_submitted(
    stub: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token noted before finds the job in the queue."""
    jobs = [job(tmp_path / "runs", "a")]

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(slurm.submissions, "taken", killed)
        with pytest.raises(Killed):
            run(jobs)
    assert read_record(jobs[0])["state"] == "submitting"
    outcomes, _ = run(jobs)
    assert (outcomes[0].state, stub.calls) == ("submitted", 1)


def test_nothing_is_submitted_while_the_queue_does_not_answer(stub: Slurm, tmp_path: Path) -> None:
    jobs = [job(tmp_path / "runs", "a")]
    run(jobs)
    stub.command("squeue", "#!/bin/sh\necho 'slurm_load_jobs error: timed out' >&2; exit 1\n")
    outcomes, _ = run([*jobs, job(tmp_path / "runs", "new")])
    assert [(o.state, o.code) for o in outcomes] == [("failed", 6), ("submitted", 0)]
    assert "ENV-QUEUE" in outcomes[0].line
    assert stub.calls == 2


def test_without_slurm(stub: Slurm, tmp_path: Path) -> None:
    (stub.bin / "sbatch").unlink()
    with pytest.raises(EnvironmentFault, match="no sbatch on PATH"):
        run([job(tmp_path / "runs", "a")])
    assert not record_path(job(tmp_path / "runs", "a")).exists()


def test_what_became_of_them(stub: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs' own records end the wait, each with its code and its line."""
    jobs = [job(tmp_path / "runs", name) for name in ("a", "b", "c")]
    look, line = slurm.Submitted.look, "segkit: error[NUM-X]: y"

    def ended(table: slurm.Submitted) -> None:
        write_record(jobs[0], "done", code=0, line="", seconds=3.0)
        write_record(jobs[1], "failed", code=5, line=line)
        write_record(jobs[2], "stopped", code=143, line="stopped")
        stub.forget()
        look(table)

    monkeypatch.setattr(slurm.Submitted, "look", ended)
    outcomes, told = run(jobs, wait=True)
    assert told == ["a", "b", "c"]
    assert [(o.state, o.code) for o in outcomes] == [("done", 0), ("failed", 5), ("stopped", 143)]
    assert (outcomes[0].seconds, outcomes[1].line) == (3.0, line)


def test_a_job_that_leaves_the_queue_without_a_word(stub: Slurm, tmp_path: Path) -> None:
    stub.bad('echo "Submitted batch job 200"; exit 0')
    jobs = [job(tmp_path / "runs", "bad")]
    outcomes, _ = run(jobs, wait=True)
    assert (outcomes[0].state, outcomes[0].code) == ("failed", 6)
    assert "job 200 left the queue as TIMEOUT without a word" in outcomes[0].line
    assert "200.out" in outcomes[0].line


def test_a_stop_leaves_the_jobs_in_the_queue(stub: Slurm, tmp_path: Path, capsys: Any) -> None:
    stop = Stop()
    told: list[str] = []
    jobs = [job(tmp_path / "runs", name) for name in ("a", "b")]
    looks = slurm.Submitted.look

    def look(table: slurm.Submitted) -> None:
        looks(table)
        stop.request(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm.Submitted, "look", look)
        outcomes = slurm.run(
            jobs, values(wait=True), stop=stop, told=lambda j, _: told.append(j.name)
        )
    assert [(o.state, o.code, o.line) for o in outcomes] == [
        ("stopped", 130, "job 101 goes on"),
        ("stopped", 130, "job 102 goes on"),
    ]
    assert "scancel 101 102 ends them" in capsys.readouterr().err
    run(jobs)
    assert stub.calls == 2


NASTY = (
    "name=$(touch x)",
    "a=`touch x`",
    "b=1\ntouch x",
    "c=1; touch x",
    "d='\"touch x\"'",
    "e=a b\\ c",
    "f=$HOME%j",
)


def test_the_shell_sees_the_literal_words(
    stub: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S16: in the job's name, its path, the folder it runs in, its words."""
    here = tmp_path / "$(touch x)`touch x`;\ntouch x'\" %j"
    here.mkdir()
    monkeypatch.chdir(here)
    python = stub.bin / "python"
    stub.command(
        "python", f'#!/bin/sh\npwd > "{stub.home}/at"\nprintf "%s\\0" "$@" > "{stub.home}/got"\n'
    )
    monkeypatch.setattr(sys, "executable", str(python))
    nasty = job(Path("runs $(touch x)\n"), "run;$(touch x)\ntouch x", *NASTY)
    outcomes, _ = run([nasty])
    assert outcomes[0].state == "submitted"
    scripts = list(Path("runs $(touch x)\n/jobs/slurm").glob("*.sh"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["bash", scripts[0].absolute()], cwd=elsewhere, check=True)
    got = (stub.home / "got").read_text().split("\0")[:-1]
    assert got[:3] == ["-P", "-m", "segkit.ablation.alone"]
    assert alone.read(got[3]) == (nasty, True, False)
    assert (stub.home / "at").read_text() == f"{here}\n"
    assert not list(tmp_path.rglob("x"))


def test_a_job_warned_of_its_end_is_queued_again(stub: Slurm, tmp_path: Path) -> None:
    run([job(tmp_path / "runs", "a")], max_num_timeout=2)
    script = stub.script("a")
    assert "#SBATCH --signal=USR1@120\n" in script
    assert "#SBATCH --requeue\n" in script
    for code, restarts, again in ((143, "0", True), (143, "2", False), (3, "0", False)):
        (stub.home / "requeued").unlink(missing_ok=True)
        stub.command("srun", f"#!/bin/sh\nexit {code}\n")
        environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts}
        ended = subprocess.run(["bash"], input=script, text=True, env=environment, cwd=tmp_path)
        assert ended.returncode == code
        assert (stub.home / "requeued").exists() == again


def test_what_comes_before_what(stub: Slurm, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = job(runs, "first")
    run([first, job(runs, "second", begins=first.run), job(runs, "third")], array_parallelism=2)
    assert "--dependency" not in stub.script("first")
    assert "#SBATCH --dependency=afterany:101\n" in stub.script("second")
    assert "#SBATCH --dependency=afterany:101\n" in stub.script("third"), "two at once"


def test_options_are_the_launchers(stub: Slurm, tmp_path: Path) -> None:
    jobs = [job(tmp_path / "runs", "a")]
    with pytest.raises(ConfigError, match=r"engine\.options\.partion.*did you mean partition\?"):
        run(jobs, partion="gpu")
    with pytest.raises(ConfigError, match=r"engine\.options\.comment: holds a line break"):
        run(jobs, comment="a\ntouch x")
    with pytest.raises(ConfigError, match="timeout_min"):
        run(jobs, timeout_min="long")
    assert stub.calls == 0


def test_without_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher.config", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'segkit\[slurm\]'") as fault:
        run([job(tmp_path / "runs", "a")])
    assert fault.value.id == "ENV-EXTRA"


def test_the_yaml_has_the_launchers_options() -> None:
    import yaml

    from segkit.conf_files import conf_dir

    shipped = yaml.safe_load((conf_dir() / "engine/slurm.yaml").read_text())["options"]
    assert set(clusters.checked(shipped)) == set(shipped)


def test_submitits_local_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, one at a time; the second begins when the first has ended."""
    record = "import json,sys,time,pathlib;p=pathlib.Path(sys.argv[1]);time.sleep(.2);"
    record += "d=json.loads(p.read_text());d.update(state=sys.argv[2],code=0,at=time.time());"
    record += "p.write_text(json.dumps(d))"

    def words(of: Job, *_: Any) -> list[str]:
        return [sys.executable, "-S", "-c", record, str(record_path(of)), "done"]

    monkeypatch.setattr(slurm, "words_of", words)
    first = job(tmp_path / "runs", "first")
    jobs = [first, job(tmp_path / "runs", "second", begins=first.run)]
    outcomes, told = run(jobs, cluster="local", wait=True)
    assert [o.state for o in outcomes] == ["done", "done"], outcomes
    assert told == ["first", "second"]
    assert read_record(jobs[0])["at"] < read_record(jobs[1])["at"]
    assert json.loads(record_path(first).read_text())["submission"]["id"]


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_table_by_batch_jobs(
    cluster: str,
    stub: Slurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Real trainings, by the very scripts that sbatch is given; a second call starts nothing."""
    stub.runs_them()
    monkeypatch.setenv("PATH", f"{stub.bin}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    words = ["table", "tiny.t1", "--config-dir", config_dir(tmp_path / "conf"), "runs=runs"]
    words += ["engine=slurm", f"engine.options.cluster={cluster}", "device=cpu"]
    assert main(words) == 0, capsys.readouterr().err
    document = json.loads(Path("runs/tables/tiny.t1-paper/table.json").read_text())
    assert all(row["numbers"]["mIoU"]["state"] == "scored" for row in document["rows"])
    calls = stub.calls
    assert calls == (2 if cluster == "slurm" else 0)
    assert main(words) == 0
    assert "2 of 2 trainings are done" in capsys.readouterr().out
    assert stub.calls == calls
