"""The run as ranks above 0 see it: the same questions, and nothing written."""

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from segkit.engine.record import Run, write_end
from segkit.engine.team import Alone
from segkit.errors import EnvironmentFault, Interrupted

# A network file system may remember for so long that a file was not there.
_UNSEEN_SECONDS = 60.0


class Follower(Run):
    """Rank 0 writes the run folder; of the others each writes its own error log.

    If rank 0 is gone, the lowest rank alive records how the run ended.
    """

    def __init__(self, folder: Path, team: Alone, facts: Mapping[str, Any]) -> None:
        self.folder, self.id, self.resumed = folder, facts["id"], facts["resumed"]
        self._finished, self._has_metrics = facts["finished"], facts["has_metrics"]
        self._team = team
        if not _appears(folder / "run.json"):
            what = f"rank {team.rank} does not see the run folder that rank 0 works in"
            fix = "runs= must be a folder that all machines share"
            raise EnvironmentFault("RUN-UNSHARED", folder, what, fix)

    def notice(self, text: str) -> None:
        pass

    def tell(self, **facts: Any) -> None:
        pass

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def has_metrics(self) -> bool:
        return self._has_metrics

    def begin(self, step: int) -> None:
        pass

    def check(self) -> None:
        pass

    def status(self, state: str, **values: Any) -> None:
        pass

    def log_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def log_timing(self, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def metrics(self) -> list[dict[str, Any]]:
        return []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def picture(self, name: str, image: Any, step: int) -> None:
        pass

    def write_log(self, name: str, text: str) -> Path:  # noqa: ARG002 - rank 0 writes the same
        return self.folder / "logs" / name

    def finish(self, step: int) -> None:
        pass

    def left(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.record_end(error)

    def record_end(self, error: BaseException) -> None:
        if isinstance(error, Interrupted) or not self.folder.is_dir():
            return
        text = "".join(traceback.format_exception(error))
        super().write_log(f"error-rank{self._team.rank}.log", text)
        if self._team.is_heir:
            write_end(self.folder, error)


def _appears(path: Path) -> bool:
    end = time.monotonic() + _UNSEEN_SECONDS
    while not path.is_file():
        if time.monotonic() > end:
            return False
        with suppress(OSError):
            os.listdir(path.parent)  # noqa: PTH208 - makes the client ask the server anew
        time.sleep(0.5)
    return True
