"""What takes batch jobs: SLURM, or submitit's local executor where there is none.

submitit turns the options into a batch script; segkit hands it over itself, for submitit waits as
long as sbatch does. No path stands in a line that is not quoted by a shell's rules: SLURM's own
``#SBATCH`` lines have no way to write a line break.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from segkit.ablation.jobs import Job
from segkit.ablation.submissions import Submission
from segkit.conf_files import nearest
from segkit.errors import ConfigError, EnvironmentFault, SegkitError, one_line
from segkit.whole_files import faults, write_whole

# What SLURM's commands may take to answer.
ANSWER_SECONDS = 60.0
OURS = ("cluster", "wait")
# Said by us, or not for a user to say.
NOT_OPTIONS = ("_target_", "submitit_folder", "name")
# Options that submitit knows for every cluster; the others are SLURM's alone.
COMMON = (
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"),
    "stderr_to_stdout",
)
# Behind the training: warned of its end it has saved and left with 143. Queued again, it goes on.
REQUEUE = """\
code=$?
if [ "$code" -eq 143 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {times} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code\""""
# Since SLURM 22.05 a step does not take over the job's cores.
SRUN = "srun --unbuffered ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}"


class Unclear(Exception):
    """Whether the scheduler has the job is not known; ``fault`` says why."""

    def __init__(self, fault: SegkitError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Cluster(Protocol):
    """``at_once``: it is handed no more at a time. ``orders``: it can let one wait for others.

    ``ends``: what a user types before ids to end jobs.
    """

    at_once: int | None
    orders: bool
    ends: str

    def submit(
        self, job: Job, words: Sequence[str], asked: Submission, after: list[str]
    ) -> Submission:
        """Hand ``words`` over, to begin when the jobs ``after`` have ended.

        Raises SegkitError if it was not taken, Unclear if that is not known.
        """

    def live(self, asked: Sequence[Submission]) -> dict[str, str]:
        """token -> id of those of ``asked`` that are queued or running. SegkitError: not known."""

    def end_of(self, submission: Submission) -> str:
        """What is known of one that ended without a word; may be nothing."""


def cluster_of(folder: Path, values: Mapping[str, Any]) -> Cluster:
    """The cluster that the options of the root ``table`` ask for; its files go into ``folder``."""
    options = checked(values["engine"]["options"])
    if options["gpus_per_node"] is None and values["device"] != "cpu":
        options["gpus_per_node"] = values["devices"]
    folder = folder.absolute()  # sbatch is called in it
    with faults(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    if options["cluster"] == "local":
        return Local(folder, options)
    return Slurm(folder, options)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options, those of the launcher included. ConfigError names one that there is not."""
    known = {f.name for f in fields(queue_conf())} - set(NOT_OPTIONS) | set(OURS)
    for name, value in given.items():
        key = f"engine.options.{name}"
        if name not in known:
            raise ConfigError("UNKNOWN-KEY", key, "no such option" + nearest(name, known))
        if name != "setup" and "\n" in str(value):
            raise ConfigError("OPTION", key, "holds a line break, which sbatch would run as shell")
    options = {**dict.fromkeys(known), **given}
    if options["cluster"] not in (None, "slurm", "local"):
        what = f"{options['cluster']!r}"
        raise ConfigError("CHOICE", "engine.options.cluster", what, "choices: slurm, local")
    if options["cluster"] == "local" and options["wait"] is False:
        fix = "its jobs are this machine's: wait for them"
        raise ConfigError("OPTION", "engine.options.wait", "false with cluster=local", fix)
    return options


def queue_conf() -> Any:
    """The launcher's own table of options."""
    try:
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
    except ImportError as error:
        what = f"hydra-submitit-launcher cannot be imported ({error})"
        fix = "pip install 'segkit[slurm]', or engine=local"
        raise EnvironmentFault("EXTRA", "engine=slurm", what, fix) from error
    return SlurmQueueConf


@dataclass
class Slurm:
    folder: Path
    options: dict[str, Any]

    def __post_init__(self) -> None:
        for command in ("sbatch", "srun", "squeue"):
            if shutil.which(command) is None:
                fix = "type it on a login node of the cluster, or engine=local"
                raise EnvironmentFault("NO-SLURM", "engine=slurm", f"no {command} on PATH", fix)
        self.at_once: int | None = None
        self.orders, self.ends = True, "scancel"
        self._handed: list[str] = []
        self.script(["true"], "segkit", [])  # an option that submitit does not take is told now

    def submit(
        self, job: Job, words: Sequence[str], asked: Submission, after: list[str]
    ) -> Submission:
        lanes = self.options["array_parallelism"]
        if lanes and len(self._handed) >= lanes:
            after = [*after, self._handed[-lanes]]
        path = self.folder / f"{asked.token}.sh"
        name = f"{one_line(job.name)}-{asked.token}"
        write_whole(path, self.script(words, name, after).encode())
        number = self._sbatch(job, path, asked)
        self._handed.append(number)
        return replace(asked, id=number, log=str(self.folder / f"{number}.out"))

    def script(self, words: Sequence[str], name: str, after: Sequence[str]) -> str:
        """The batch script that runs ``words`` in this folder."""
        options = {k: v for k, v in self.options.items() if k not in OURS and v is not None}
        times = options.pop("max_num_timeout", 0)
        options.pop("array_parallelism", None)
        further: dict[str, Any] = {
            "signal": f"USR1@{options.get('signal_delay_s', 120)}",  # segkit saves on it
            "requeue": True,
            "output": "%j.out",
            **({} if options.get("stderr_to_stdout") else {"error": "%j.err"}),
        }
        if after:
            further["dependency"] = "afterany:" + ":".join(after)
        options["additional_parameters"] = further | (options.get("additional_parameters") or {})
        here = f"cd -- {shlex.quote(str(Path.cwd()))}"
        options["setup"] = [*(options.get("setup") or []), here]
        options |= {"use_srun": False, "teardown": [REQUEUE.format(times=int(times))]}
        named = {k if k in COMMON else f"slurm_{k}": v for k, v in options.items()}
        import submitit

        try:
            executor: Any = submitit.AutoExecutor(self.folder, cluster="slurm")
            executor.update_parameters(name=name, **named)
            command = f"{SRUN} {shlex.join(words)}"
            text: str = executor._executor._make_submission_file_text(command, "")
        except (NameError, AssertionError, TypeError, ValueError) as error:
            raise ConfigError("OPTION", "engine.options", one_line(str(error))) from error
        return text

    def _sbatch(self, job: Job, path: Path, asked: Submission) -> str:
        try:
            code, out, err = ask(["sbatch", str(path)], self.folder)
        except TimeoutError as error:
            return self._perhaps(job, asked, str(error))
        if code:
            what = f"sbatch left with {code}: {(err or out) or 'no word'}"
            raise EnvironmentFault("SUBMIT", job.run, what, "then type the same command again")
        if not (found := re.search(r"job (\d+)", out) or re.fullmatch(r"(\d+)(;.*)?", out)):
            return self._perhaps(job, asked, f"sbatch answered {out!r}, which names no job")
        return found[1]

    def _perhaps(self, job: Job, asked: Submission, what: str) -> str:
        """The id of a job that sbatch did not say; the queue knows it by its name."""
        with suppress(SegkitError):
            if number := self.live([asked]).get(asked.token):
                return number
        fix = "type the same command again: it looks into the queue first"
        raise Unclear(EnvironmentFault("SUBMIT-UNCLEAR", job.run, what, fix))

    def live(self, asked: Sequence[Submission]) -> dict[str, str]:
        words = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%i %j"]
        try:
            code, out, err = ask(words, self.folder)
            what = f"squeue left with {code}: {err or out}" if code else ""
        except TimeoutError as error:
            what = str(error)
        if what:
            fix = "nothing is submitted twice: type the same command again"
            raise EnvironmentFault("QUEUE", "squeue", what, fix)
        queued = [line.strip().partition(" ") for line in out.splitlines() if line.strip()]
        by_token = {name[-8:]: number for number, _, name in queued}
        ids = {number.partition("_")[0] for number, _, _ in queued}
        found = {s.token: by_token[s.token] for s in asked if s.token in by_token}
        return {s.token: s.id for s in asked if s.id in ids and s.id} | found

    def end_of(self, submission: Submission) -> str:
        if submission.id is None or not submission.id.isdigit() or shutil.which("sacct") is None:
            return ""
        words = ["sacct", "-X", "-n", "-P", "-o", "State", "-j", submission.id]
        with suppress(TimeoutError):
            code, out, _ = ask(words, self.folder)
            return out.splitlines()[-1] if out and not code else ""
        return ""


@dataclass
class Local:
    """This machine, by submitit's local executor. An id is the pid of submitit's controller."""

    folder: Path
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.at_once: int | None = self.options["array_parallelism"] or 1
        self.orders, self.ends = False, "kill"

    def submit(
        self, job: Job, words: Sequence[str], asked: Submission, after: list[str]
    ) -> Submission:
        assert not after
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # segkit saves on it; read by the controller
        import submitit

        named = {k: self.options[k] for k in COMMON if self.options[k] is not None}
        named["local_setup"] = self.options["setup"]
        try:
            executor: Any = submitit.AutoExecutor(self.folder, cluster="local")
            executor.update_parameters(name=one_line(job.name), **named)
            started = executor._executor._submit_command(shlex.join(words))
        except (NameError, AssertionError, TypeError, ValueError) as error:
            raise ConfigError("OPTION", "engine.options", one_line(str(error))) from error
        log = str(self.folder / f"{started.job_id}_0_log.out")
        return replace(asked, id=started.job_id, log=log)

    def live(self, asked: Sequence[Submission]) -> dict[str, str]:
        return {s.token: s.id for s in asked if s.id and s.id.isdigit() and self._runs(s.id)}

    def _runs(self, pid: str) -> bool:
        """A zombie has no command line, and another process another one."""
        with suppress(OSError):
            words = Path("/proc", pid, "cmdline").read_bytes()
            return b"submitit.local._local" in words and os.fsencode(self.folder.resolve()) in words
        return False

    def end_of(self, submission: Submission) -> str:  # noqa: ARG002
        return ""


def ask(words: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Exit code and what a command of SLURM printed, each a line. TimeoutError where it stalls."""
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_SECONDS,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C at the terminal is ours: half a submission is nobody's
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{words[0]} gave no answer in {ANSWER_SECONDS:g} s") from None
    except OSError as error:
        return 127, "", f"{words[0]} does not run ({error.strerror})"
    return done.returncode, done.stdout.strip(), one_line(" ".join(done.stderr.split()))
