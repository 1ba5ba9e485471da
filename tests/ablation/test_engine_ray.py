"""engine=ray: options and shares without Ray itself; a Ray of this machine in the slow tests."""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from segkit.ablation.engines import ray as engine
from segkit.ablation.jobs import Evaluation, Job
from segkit.ablation.state import lock_path, log_path, read_record, record_path, write_record
from segkit.ablation.work import Outcome
from segkit.engine.signals import Stop
from segkit.errors import ConfigError, EnvironmentFault
from segkit.lock import Lock

# A job's command in these tests: it notes its start, does something, and records its end.
COMMAND = """\
import json, os, pathlib, signal, sys, time
record, does = pathlib.Path(sys.argv[1]), sys.argv[2]
def write(**facts):
    record.write_text(json.dumps({**json.loads(record.read_text()), **facts}))
def stopped(*_):
    write(state="stopped", code=143, line="stopped")
    sys.exit(143)
signal.signal(signal.SIGTERM, stopped)
write(state="running", began=time.time())
print("here", os.getcwd(), os.environ.get("SEGKIT_DATA"), flush=True)
if does == "kill the worker":
    os.kill(os.getppid(), signal.SIGKILL)
    os._exit(1)
if does == "sleep":
    time.sleep(100)
if does == "fail":
    write(state="failed", code=3, line="segkit: error[DATA-X]: y")
    sys.exit(3)
write(state="done", code=0, line="", ended=time.time())
"""

EXPECTED = [("done", 0), ("failed", 6), ("failed", 3), ("done", 0)]


def job(runs: Path, name: str, does: str = "", begins: Path | None = None) -> Job:
    run = runs / name
    evaluation = Evaluation("e", (), run / "scores/e")
    return Job(run, (does,), (evaluation,), (f"v3.t5 {name}",), begins=begins)


def values(per_device: int = 1, **options: Any) -> dict[str, Any]:
    return {
        "engine": {"name": "ray", "per_device": per_device, "options": options},
        "scale": {"keep_weights": True},
        "device": "auto",
        "devices": 1,
    }


class FakeRay:
    """What ``resources`` asks: a machine of eight cores and its GPUs."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 8.0}},
            {"Alive": False, "Resources": {"CPU": 64.0}},
        ]


@pytest.mark.parametrize(
    ("gpus", "per_device", "devices", "device", "typed", "share"),
    [
        (0, 1, 1, "auto", {}, {"num_cpus": 8}),
        (0, 3, 1, "auto", {}, {"num_cpus": 2}),
        (2, 1, 1, "auto", {}, {"num_gpus": 1}),
        (2, 2, 1, "cuda", {}, {"num_gpus": 0.5}),
        (4, 1, 4, "cuda", {}, {"num_gpus": 4}),
        (2, 1, 1, "cpu", {}, {"num_cpus": 8}),
        (2, 1, 1, "auto", {"num_gpus": 2, "num_cpus": 4}, {"num_gpus": 2, "num_cpus": 4}),
    ],
)
def test_what_a_task_takes(
    gpus: int,
    per_device: int,
    devices: int,
    device: str,
    typed: dict[str, Any],
    share: dict[str, Any],
) -> None:
    asked = {**values(per_device), "device": device, "devices": devices}
    assert engine.resources(FakeRay(gpus), asked, typed) == {**share, "max_retries": 0}


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'segkit\[ray\]'") as fault:
        engine.run([job(tmp_path, "a")], values(), stop=Stop(), told=lambda *_: None)
    assert fault.value.id == "ENV-EXTRA"


def test_a_node_of_options_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"engine\.options\.initt.*did you mean init\?"):
        engine.checked({"initt": {}})


class ThreadRay:
    """Ray's calls by threads of this process: what ``Tasks`` makes of what Ray says."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self) -> None:
        self.pool, self.cancelled = ThreadPoolExecutor(4), 0

    def task(self, does: Any) -> Any:
        def remote(*words: Any) -> Any:
            def work() -> Any:
                before = [w.result() if isinstance(w, Future) else w for w in words]
                if "kill the worker" in before[0]:
                    raise self.exceptions.RayError
                return does(*before)

            return self.pool.submit(work)

        return type("Task", (), {"remote": staticmethod(remote)})

    def wait(self, references: Any, num_returns: int, timeout: float) -> Any:
        assert num_returns == 1
        return wait(references, timeout, FIRST_COMPLETED)

    def get(self, reference: Any) -> Any:
        return reference.result()

    def cancel(self, reference: Any) -> None:  # noqa: ARG002
        self.cancelled += 1


@pytest.mark.usefixtures("commands")
def test_what_became_of_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_DATA", "/data of the planner")
    first = job(tmp_path / "runs", "first")
    jobs = [
        first,
        job(tmp_path / "runs", "dies", "kill the worker"),
        job(tmp_path / "runs", "fails", "fail"),
        job(tmp_path / "runs", "second", begins=first.run),
    ]
    ray, told = ThreadRay(), []
    tasks = engine.Tasks(ray, ray.task(engine.do_alone), jobs, True, lambda j, _: told.append(j))
    tasks.begin()
    tasks.wait(Stop())
    outcomes = [tasks.outcomes[j.name] for j in jobs]
    assert [(o.state, o.code) for o in outcomes] == EXPECTED, outcomes
    assert "its Ray worker died (RayError)" in outcomes[1].line
    assert len(told) == 4
    assert read_record(jobs[3])["began"] > read_record(first)["ended"]
    assert log_path(first).read_text() == f"here {Path.cwd()} /data of the planner\n"


@pytest.mark.usefixtures("commands")
def test_what_another_call_does_is_left_to_it(tmp_path: Path) -> None:
    """Before it is handed over, and where the other one was faster than the task."""
    jobs = [job(tmp_path / "runs", name) for name in ("before", "faster", "free")]
    write_record(jobs[0], "running")
    locks = [Lock(lock_path(jobs[0]))]
    ray = ThreadRay()

    def busy(words: Any, *_: Any) -> int:
        if any("faster" in str(word) for word in words):
            locks.append(Lock(lock_path(jobs[1])))
            write_record(jobs[1], "running")
        else:
            write_record(jobs[2], "done", code=0)
        return 6

    tasks = engine.Tasks(ray, ray.task(busy), jobs, True, lambda *_: None)
    tasks.begin()
    tasks.wait(Stop())
    states = {name: outcome.state for name, outcome in tasks.outcomes.items()}
    assert states == {"before": "busy", "faster": "busy", "free": "done"}
    assert [read_record(j)["state"] for j in jobs[:2]] == ["running", "running"]
    for lock in locks:
        lock.release()


# -- Ray itself ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two cores; what Ray writes for its user goes into a folder of this test."""
    pytest.importorskip("ray", reason="the ray extra is not installed")
    import ray._private.utils as internals

    with pytest.MonkeyPatch.context() as patch:
        # Without the agent of Ray's web page: a raylet gives up on it after 15 seconds, and a busy
        # machine takes longer to import it.
        patch.setattr(internals, "get_dashboard_dependency_error", lambda: "not for a test")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("SEGKIT_DATA", "/data of the planner")
        handler = signal.getsignal(signal.SIGTERM)
        with engine.started({"num_cpus": 2}) as ray:
            assert signal.getsignal(signal.SIGTERM) == handler, "Ray must not take it"
            yield ray


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(of: Job, *_: Any) -> list[str]:
        return [sys.executable, "-S", "-c", COMMAND, str(record_path(of)), of.words[0]]

    monkeypatch.setattr(engine, "words_of", words)


def run(jobs: list[Job], stop: Stop | None = None, **typed: Any) -> list[Outcome]:
    return engine.run(
        jobs,
        {**values(per_device=2), **typed},
        stop=stop or Stop(),
        told=lambda *_: None,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "commands")
def test_whatever_happens_to_one_the_others_go_on(tmp_path: Path) -> None:
    first = job(tmp_path / "runs", "first")
    jobs = [
        first,
        job(tmp_path / "runs", "dies", "kill the worker"),
        job(tmp_path / "runs", "fails", "fail"),
        job(tmp_path / "runs", "second", begins=first.run),
    ]
    outcomes = run(jobs)
    assert [(o.state, o.code) for o in outcomes] == EXPECTED, outcomes
    assert "its Ray worker died (" in outcomes[1].line
    assert read_record(jobs[1])["line"] == outcomes[1].line
    assert outcomes[2].line == "segkit: error[DATA-X]: y"
    assert read_record(jobs[3])["began"] > read_record(first)["ended"]
    assert log_path(first).read_text() == f"here {Path.cwd()} /data of the planner\n"


@pytest.mark.slow
@pytest.mark.xfail(reason="on a real Ray a stop did not reach the trainings: they ran to their end")
@pytest.mark.usefixtures("cluster", "commands")
def test_a_stop_lets_the_trainings_save(tmp_path: Path) -> None:
    stop, jobs = (
        Stop(),
        [job(tmp_path / "runs", "a", "sleep"), job(tmp_path / "runs", "b", "sleep")],
    )

    def when_begun() -> None:
        while not all("began" in read_record(j) for j in jobs):
            time.sleep(0.1)
        stop.signal = signal.SIGINT

    threading.Thread(target=when_begun, daemon=True).start()
    outcomes = run(jobs, stop)
    assert [o.state for o in outcomes] == ["stopped", "stopped"]
    assert all(json.loads(record_path(j).read_text())["code"] == 143 for j in jobs)
