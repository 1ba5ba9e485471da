"""The error contract: what ends a command, with which code, in which words.

Every fault that is not a bug of segkit reaches the user as ONE line that says where, what was
found, and what is allowed or what to type next:

    segkit: error[DATA-LABEL-RANGE]: masks/a.png: label 37 at x=10 y=4; allowed 0..20 and 255

Raise one of the subclasses below where the fault arises; ``cli`` prints the line and exits.
"""

from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """The documented exit codes (shown by ``segkit --help``)."""

    OK = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    CHECKPOINT = 4
    NUMERICS = 5
    ENVIRONMENT = 6
    REFUSED = 7
    DISTRIBUTED = 8
    SIGINT = 130
    SIGTERM = 143


class SegkitError(Exception):
    """A fault with a name, a place and a way out.

    ``where`` is the offending file or the full dotted key, ``what`` was found there, ``fix`` is
    what is allowed or what to type next. Instances survive pickling (they cross process borders).
    """

    code: ClassVar[ExitCode] = ExitCode.BUG
    prefix: ClassVar[str] = "BUG"

    def __init__(self, name: str, where: object, what: str, fix: str = "") -> None:
        super().__init__(name, str(where), what, fix)
        self.name = name
        self.where = str(where)
        self.what = what
        self.fix = fix

    @property
    def id(self) -> str:
        """For example ``DATA-LABEL-RANGE``."""
        return f"{self.prefix}-{self.name}"

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return one_line(f"{text}; {self.fix}" if self.fix else text)

    def line(self) -> str:
        """The line the user reads, without its newline."""
        return f"segkit: error[{self.id}]: {self}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.where, self.what, self.fix)


def one_line(text: str) -> str:
    """``text`` with every control character made visible, so that no file name fakes a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in without_secrets(text))


# What the environment gave this process, and the text that stands for it in front of others.
_hidden: dict[str, str] = {}


def hide(value: str, stand_in: str) -> None:
    """Keep ``value`` out of every message and record of this process.

    Short values (a count, ``cpu``) are no secrets, and would tear other words apart.
    """
    if len(value) >= 6:
        _hidden[value] = stand_in


def without_secrets(text: str) -> str:
    """``text`` with the stand-ins of hidden values in their place, the longest first."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, _hidden[value])
    return text


class ConfigError(SegkitError):
    """Usage or config: unknown key, wrong type, contradiction."""

    code, prefix = ExitCode.USAGE, "CFG"


class DataError(SegkitError):
    """Data: missing or unreadable files, labels out of range, nothing to evaluate."""

    code, prefix = ExitCode.DATA, "DATA"


class CheckpointError(SegkitError):
    """Checkpoints and weights: missing, torn, hash mismatch, wrong architecture, non-finite."""

    code, prefix = ExitCode.CHECKPOINT, "CKPT"


class NumericsError(SegkitError):
    """Non-finite loss, gradient or weight."""

    code, prefix = ExitCode.NUMERICS, "NUM"


class EnvironmentFault(SegkitError):
    """The machine: disk full, path not writable, no memory, worker died, run locked or gone."""

    code, prefix = ExitCode.ENVIRONMENT, "ENV"


class RefusedError(SegkitError):
    """Refused for safety: pickle payload, forbidden class path, pixel bomb, escaping path."""

    code, prefix = ExitCode.REFUSED, "SAFE"


class DistributedFault(SegkitError):
    """A peer died, hung or left early; ranks disagree; no rendezvous."""

    code, prefix = ExitCode.DISTRIBUTED, "DIST"


class Interrupted(SegkitError):
    """Stopped by SIGINT or SIGTERM with its state saved."""

    prefix = "STOP"

    def __init__(self, name: str, where: object, what: str, fix: str = "") -> None:
        super().__init__(name, where, what, fix)
        # The exit code tells the two signals apart; a shell or a scheduler reads nothing else.
        self.code = ExitCode.SIGINT if name == "SIGINT" else ExitCode.SIGTERM  # type: ignore[misc]
