"""One process per folder."""

import fcntl
import json
import os
import platform
from pathlib import Path

from segkit.errors import EnvironmentFault
from segkit.whole_files import faults, write_all


class Lock:
    """Holds ``path`` until ``release`` or the end of the process, however it ends.

    Raises EnvironmentFault ``name`` with pid and host if another process (or this one) has it.
    """

    def __init__(
        self,
        path: Path,
        name: str = "RUN-LOCKED",
        fix: str = "wait for it, or start another run with name=...",
    ) -> None:
        self.path = path
        with faults(path, 0):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._handle: int | None = os.open(path, flags, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(self._handle)
            self.release()
            what = f"another process works in this folder ({owner})"
            raise EnvironmentFault(name, path.parent, what, fix) from error
        os.ftruncate(self._handle, 0)
        me = {"pid": os.getpid(), "host": platform.node()}
        write_all(self._handle, json.dumps(me).encode())
        # A forked loader worker that outlives a killed run must not hold the lock for it.
        os.register_at_fork(after_in_child=self.release)

    def check(self) -> None:
        """Raise EnvironmentFault unless the locked file is still the one at its path."""
        assert self._handle is not None
        try:
            same = os.path.samestat(self.path.stat(), os.fstat(self._handle))
        except OSError:
            same = False
        if not same:
            what = "the run folder was deleted or replaced under the run"
            raise EnvironmentFault("RUN-GONE", self.path.parent, what)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def held(path: Path) -> bool:
    """Whether some process has the lock at ``path``; it is neither made nor taken."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
        return f"pid {owner['pid']} on host {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its pid is not known yet"
