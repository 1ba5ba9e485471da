"""``segkit COMMAND [key=value ...]``: dispatch, help and exit codes. Imports nothing heavy."""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from segkit import ranks
from segkit.errors import ConfigError, ExitCode, SegkitError, one_line

COMMANDS = {
    "train": "train a model (stages, validation, checkpoints, exact resume)",
    "plan": "memory, seconds and hours of a training before it runs",
    "eval": "score a trained model and write score.json",
    "predict": "segment images, folders and videos",
    "compare": "two scores side by side, and whether they differ",
    "table": "the papers' tables: train, score, beside the printed numbers",
    "submit": "write and check what the VOC and Cityscapes servers want",
    "crf": "search the dense CRF's parameters as the papers did",
    "export": "write the network as ONNX or torch.export, checked",
    "model": "sizes, costs and receptive fields of models; import of checkpoints",
    "data": "prepare, check and measure data sets",
    "bench": "ours beside what you would pick instead: time, memory, machine",
    "doctor": "look at this machine: a verdict a line, with what to type",
    "completion": "print the completion script of bash, zsh or fish",
}

SWEPT = ("train", "eval")  # what -m sweeps over

HELP = """\
segkit: train and evaluate the DeepLab family

  segkit train model=v3 backbone=r101
  segkit eval os=8 ms=true flip=true crf=true
  segkit predict photos/ ckpt=runs/NAME

commands
{commands}

options (after the command)
  -h, --help           keys and choices of that command
  --cfg job            print the composed config and stop
  -m, --multirun       one run for each combination of comma-separated values
  --config-dir DIR     your own config groups, searched beside the shipped ones
  --trust MODULE       let class paths in configs point into MODULE

exit codes
  0 done   1 a bug in segkit   2 usage or config   3 data   4 checkpoint or weights   5 numerics
  6 environment (disk, memory, processes)   7 refused for safety   8 distributed
  130 / 143 stopped by SIGINT / SIGTERM with the state saved

environment
  SEGKIT_DATA          one folder per data set (camvid/, VOCdevkit/VOC2012/, cityscapes/)
  SEGKIT_WEIGHTS       files with pretrained weights
  SEGKIT_TRACE=1       print tracebacks of errors"""


@dataclass
class Call:
    """A command line taken apart."""

    command: str
    overrides: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    show: str | None = None
    config_dir: str | None = None
    trust: list[str] = field(default_factory=list)
    multirun: bool = False
    help: bool = False


# OpenMP's threads spin while they wait for one another, for milliseconds by default. Beside loader
# workers or a CRF pool on the same cores that has made an evaluation 15 times slower; a short spin
# keeps the speed of a quiet machine (docs/log.md). Set here, for torch reads it when imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def entry() -> None:
    """``main`` as a process: its exit code, and no complaint where nobody reads any more."""
    sys.stdout, sys.stderr = forgiving(sys.stdout), forgiving(sys.stderr)
    code = main(sys.argv[1:])
    sys.exit(code)


class Console(io.FileIO):
    """A stream of the console. When its reader leaves, what is written goes nowhere.

    ``segkit train | head -1`` is no reason to end a training, and neither is a terminal that hung
    up on one that was started to survive it.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def forgiving(stream: TextIO) -> TextIO:
    """``stream`` over a ``Console``."""
    stream.flush()
    raw = Console(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=bool(stream.line_buffering or raw.isatty()),
    )


def main(argv: Sequence[str]) -> int:
    """Run one command line; the exit code. Prints one line for every fault (errors.py)."""
    try:
        return dispatch(list(argv))
    except SegkitError as error:
        return report(error, error.line(), error.code)
    except KeyboardInterrupt as error:
        line = "segkit: error[STOP-SIGINT]: stopped; what was saved before is whole"
        return report(error, line, ExitCode.SIGINT)
    except Exception as error:
        from segkit.limits import fault_of

        if fault := fault_of(error):
            return report(error, fault.line(), fault.code)
        import traceback

        traceback.print_exc()
        line = f"segkit: error[BUG]: {type(error).__name__}: {one_line(str(error))}"
        return report(None, line, ExitCode.BUG)


def report(error: BaseException | None, line: str, code: int) -> int:
    if error is not None and os.environ.get("SEGKIT_TRACE") == "1":
        import traceback

        traceback.print_exception(error)
    ranks.tell(line, code)
    if not ranks.launched():  # whoever launched it prints the line, once for all processes
        print(line, file=sys.stderr, flush=True)
    return int(code)


def dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {n:<20} {t}" for n, t in COMMANDS.items())))
        return ExitCode.OK
    if argv[0] == "--version":
        from segkit import __version__

        print(__version__)
        return ExitCode.OK
    if argv[0] == "__complete":  # what the completion scripts call
        from segkit.completion import complete

        return complete(argv[1:])
    if argv[0] in (
        "model",
        "data",
        "compare",
        "table",
        "plan",
        "bench",
        "doctor",
        "completion",
    ):  # they read their words themselves
        return task(argv[0])(argv[1:])
    call = parse(argv)
    if call.help:
        from segkit.help import command_help

        print(command_help(call.command, COMMANDS[call.command], call.config_dir))
        return ExitCode.OK
    if call.multirun and (call.show or call.command not in SWEPT):
        what = "--cfg" if call.show else call.command
        raise ConfigError("USAGE", "-m", f"does not go together with {what}", "leave one out")
    if call.multirun:
        from segkit.sweep import sweep

        return sweep(call.command, call.overrides, call.config_dir, call.trust)
    return run(call)


def parse(argv: Sequence[str]) -> Call:
    """Take a command line apart; ``ConfigError`` names what is not understood."""
    if argv[0] not in COMMANDS:
        from segkit.conf_files import nearest

        fix = "commands: " + ", ".join(COMMANDS) + nearest(argv[0], COMMANDS)
        raise ConfigError("COMMAND", argv[0], "no such command", fix)
    call = Call(argv[0])
    rest = iter(argv[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            call.help = True
        elif word in ("-m", "--multirun"):
            call.multirun = True
        elif name in FLAGS:
            given = value if equals else next(rest, None)
            if not given:
                raise ConfigError("USAGE", name, "needs a value", f"type {name} VALUE")
            FLAGS[name](call, given)
        elif word.startswith("--"):
            raise ConfigError("USAGE", word, "no such option", "see segkit --help")
        elif is_input(call.command, word):
            call.inputs.append(word)
        else:
            call.overrides.append(word)
    return call


def is_input(command: str, word: str) -> bool:
    """Whether ``word`` is no key=value: a file (its name may have a =) or a subcommand."""
    if command == "predict":
        return "=" not in word or os.path.exists(word)  # noqa: PTH110
    return command in ("submit", "crf") and "=" not in word


def _show(call: Call, value: str) -> None:
    if value != "job":
        raise ConfigError("USAGE", "--cfg", f"{value!r}", "the only choice is: job")
    call.show = value


FLAGS: dict[str, Callable[[Call, str], None]] = {
    "--cfg": _show,
    "-c": _show,
    "--config-dir": lambda call, value: setattr(call, "config_dir", value),
    "--trust": lambda call, value: call.trust.append(value),
}


def run(call: Call) -> int:
    """Compose, check and hand over to the task file."""
    from segkit.config import compose, placed
    from segkit.rules import check

    composed = compose(call.command, call.overrides, call.config_dir)
    if call.show:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(composed.values), end="")
        return ExitCode.OK
    check(composed.values)
    from segkit.instantiate import trust

    trust(call.trust)
    if "inputs" in composed.values:
        composed.values["inputs"] = call.inputs or composed.values["inputs"]
    try:
        return start(call.command, composed, call.trust)
    except ConfigError as error:
        raise placed(error, call.overrides) from error


def start(command: str, composed: Any, trusted: Sequence[str]) -> int:
    """The task, here or in ``devices`` processes."""
    if composed.values.get("devices", 1) > 1 and ranks.place().size == 1:
        from segkit.launch import launch

        return launch(command, composed, trusted)
    return task(command)(composed)


def task(command: str) -> Callable[..., int]:
    """The task file's ``main``; torch is imported here and not before."""
    import importlib

    name = "datasets" if command == "data" else command  # segkit.data is a room
    module = importlib.import_module(f"segkit.{name}")
    main: Callable[..., int] = module.main
    return main
