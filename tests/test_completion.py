"""segkit completion: what each word can become, and bash's own function fed with lines."""

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from segkit import cli, completion, rules
from segkit.completion import completions
from segkit.conf_files import GROUPS, choices_of
from segkit.schema import ROOTS

BOOLEANS = [
    (command, field.name)
    for command, root in ROOTS.items()
    for field in fields(root)
    if field.type is bool
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tr", ["train"]),
        ("d", ["data", "doctor"]),
        ("data pr", ["prepare"]),
        ("data prepare voc", ["voc", "voc_aug"]),
        ("data prepare voc fr", ["from="]),
        ("data nothing ", []),
        ("x", []),
        ("train mo", ["model="]),
        ("train model=v3 mo", []),
        ("train runtime=c", ["runtime=cpu", "runtime=cuda"]),
        ("train os=", ["os=4", "os=8", "os=16", "os=32", "os=64", "os=128", "os=256"]),
        ("train os=8,1", ["os=8,16", "os=8,128"]),
        ("train multi_grid=1-2", ["multi_grid=1-2-1", "multi_grid=1-2-3", "multi_grid=1-2-4"]),
        ("train resume=", ["resume=true", "resume=false"]),
        ("train log.tensorboard=f", ["log.tensorboard=false"]),
        ("train sched", ["schedule=", "schedule."]),
        ("train schedule.acc", ["schedule.accumulate="]),
        ("train no.such.", []),
        ("train no=", []),
        ("train seed=", []),
        ("train pretrained=", ["pretrained=imagenet", "pretrained=none"]),
        ("train pretrained=/we", []),
        ("train devi", ["device=", "devices="]),
        ("eval ckpt_kind=", ["ckpt_kind=last", "ckpt_kind=best"]),
        ("eval backb", []),
        ("eval m", ["ms="]),
        ("eval ckpt=ru", []),
        ("train --c", ["--cfg", "--config-dir"]),
        ("train --cfg ", ["job"]),
        ("train --trust ", []),
        ("doctor --j", ["--json"]),
        ("bench --d", ["--device"]),
        ("bench --device ", ["cpu", "cuda"]),
        ("bench --rounds ", []),
        ("bench conf", ["confusion"]),
        ("submit v", ["voc"]),
        ("submit voc v", []),
        ("crf t", ["tune", "tta."]),
        ("completion f", ["fish"]),
        ("nothing ", []),
    ],
)
def test_what_a_word_becomes(line: str, expected: list[str]) -> None:
    assert completions(line.split(" ")) == expected


def test_every_command_and_nothing_hidden() -> None:
    assert completions([""]) == completions([]) == [*cli.COMMANDS, "--help", "--version"]


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_every_group(group: str) -> None:
    expected = [f"{group}={choice}" for choice in choices_of(group)]
    assert expected
    assert completions(["train", f"{group}="]) == expected


@pytest.mark.parametrize("command", ROOTS)
def test_every_scalar_of_every_command(command: str) -> None:
    documented = {f"{f.name}=" for f in fields(ROOTS[command]) if "help" in f.metadata}
    assert documented <= set(completions([command, ""]))


@pytest.mark.parametrize(("command", "key"), BOOLEANS)
def test_every_boolean(command: str, key: str) -> None:
    assert completions([command, f"{key}="]) == [f"{key}=true", f"{key}=false"]


def test_choices_are_those_of_the_rules() -> None:
    known = {key: choices for key, choices in rules.CHOICES.items() if "*" not in key}
    assert {key: completion.CHOICES.get(key) for key in known} == known


def test_groups_of_a_config_dir(here: Path) -> None:
    (here / "own" / "model").mkdir(parents=True)
    (here / "own" / "model" / "v9.yaml").touch()
    for option in (["--config-dir", "own"], ["--config-dir=own"]):
        assert "model=v9" in completions(["train", *option, "model=v"])
    assert "model=v9" not in completions(["train", "model=v"])


def test_inputs_of_predict_come_before_its_keys(here: Path) -> None:
    assert completions(["predict", "prec"]) == ["precision="]
    (here / "precious.png").touch()
    assert completions(["predict", "prec"]) == []
    assert completions(["predict", "./x"]) == completions(["predict", "~/x"]) == []
    assert completions(["eval", "prec"]) == ["precision="]


def test_answers_before_the_finger_has_left_the_key(here: Path) -> None:
    """Best of three, in processor seconds, start of Python included."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "segkit", "__complete", "train", "model=v"],
            capture_output=True, text=True, cwd=here,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stdout == "".join(f"model={m}\n" for m in choices_of("model"))
    assert min(times) < 0.15


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"], ["fishh"]])
def test_no_such_shell(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", *words]) == 2
    assert "type one of: bash, zsh, fish" in capsys.readouterr().err


def test_help_has_the_command_that_installs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"segkit completion {shell}" in page for shell in completion.SCRIPTS)


# -- the shells --------------------------------------------------------------------------------


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    return path


@pytest.fixture
def on_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command ``segkit`` on the PATH."""
    command = here / "bin" / "segkit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m segkit "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return command


BASH_LINE = """
eval "$(segkit completion bash)" || exit 1
complete -p segkit | grep -q 'F _segkit segkit' || exit 2
COMP_LINE=$1 COMP_POINT=${2:-${#1}}
_segkit
(( ${#COMPREPLY[@]} )) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""


def bash(line: str, *point: str) -> list[str]:
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", BASH_LINE, "bash", line, *point],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segkit tr", ["train"]),
        ("segkit   train   mo", ["model="]),
        ("segkit train runtime=c", ["cpu", "cuda"]),  # what stands before the = is not replaced
        ("segkit train os=8,", ["8,4", "8,8", "8,16", "8,32", "8,64", "8,128", "8,256"]),
        ("segkit train multi_grid=2", ["2-2-2"]),
        ("segkit train schedule.pol", ["schedule.policy="]),
        ("segkit train schedule.policy=s", ["step"]),
        ("segkit eval ckpt=runs/", []),
        ("segkit train 'a b' $(touch ran) `touch ran` seed", ["seed="]),
        ("segkit completion ", ["bash", "zsh", "fish", "--help"]),
    ],
)
def test_bash(line: str, expected: list[str]) -> None:
    assert bash(line) == expected
    assert not Path("ran").exists(), "nothing of the line is run"


@pytest.mark.usefixtures("on_path")
def test_bash_in_the_middle_of_a_line() -> None:
    assert bash("segkit train res model=v3", "16") == ["resume=", "resume_allow="]


def test_bash_calls_the_segkit_that_was_typed(
    on_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = here / "other folder" / "segkit"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho other\n")
    other.chmod(0o755)
    monkeypatch.setenv("HOME", str(other.parent))
    assert bash("~/segkit tr") == ["other"]
    assert on_path.exists()


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_that_shell(name: str) -> None:
    done = subprocess.run(
        [shell(name), "-n", "/dev/stdin"], input=completion.SCRIPTS[name],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("line", "expected"), [("segkit train runtime=fp", ["runtime=fp32"]), ("segkit tr", ["train"])]
)
def test_fish(line: str, expected: list[str]) -> None:
    code = f"segkit completion fish | source; complete -C '{line}'"
    done = subprocess.run([shell("fish"), "-c", code], capture_output=True, text=True, timeout=60)
    assert [found.split("\t")[0] for found in done.stdout.splitlines()] == expected


ZSH_LINE = """
compdef() { bound="$*" }
compadd() { while [[ $1 != -- ]] shift; shift; (( $# )) && print -l -- "$@" }
eval "$(segkit completion zsh)" && [[ $bound == "_segkit segkit" ]] || exit 1
words=(${(z)1}) CURRENT=${#words} PREFIX=$words[-1]
_segkit
"""


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("line", "expected"), [("segkit train runtime=fp", ["runtime=fp32"]), ("segkit tr", ["train"])]
)
def test_zsh(line: str, expected: list[str]) -> None:
    done = subprocess.run(
        [shell("zsh"), "-f", "-c", ZSH_LINE, "zsh", line],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")
