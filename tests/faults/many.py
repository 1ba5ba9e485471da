"""Several processes of one job: forked side by side, or through torch's launcher."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox import Result, Running, Sandbox

STACKS = {"PYTHONFAULTHANDLER": "1"}
"""A process that hangs says where, see ``Running.show_stacks``."""
SITE = Path(__file__).parent / "ranks_site"


def together(
    box: Sandbox, size: int, *words: str, inject: str = "", env: Mapping[str, str] | None = None
) -> list[Running]:
    """``segkit WORDS`` in ``size`` forked ranks that find each other as without a launcher.

    Rank 0 holds the store: kill another one.
    """
    port = str(free_port())
    found = []
    for rank in range(size):
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        given = {name: str(value) for name, value in place.items()}
        given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(env or {})}
        found.append(box.start(*words, inject=inject, env=given))
    return found


def all_well(box: Sandbox, size: int, *words: str, timeout: float = 90) -> list[Result]:
    """The ranks' ends; AssertionError unless all is well."""
    results = [running.wait(timeout) for running in together(box, size, *words)]
    assert [r.code for r in results] == [0] * size, "\n".join(r.err for r in results)
    return results


def launched(box: Sandbox, *words: str, inject: str = "") -> Running:
    """``segkit WORDS devices=2`` as a user types it: torch's launcher and two new interpreters."""
    return box.start(*words, "devices=2", fresh=True, env=in_ranks(box, inject) | STACKS)


def torchrun(box: Sandbox, *words: str, options: Sequence[str] = (), inject: str = "") -> Running:
    """``torchrun -m segkit WORDS``."""
    given = ["--nproc-per-node=2", *(options or ["--standalone"]), "-m", "segkit", *words]
    return box.start_program(
        [sys.executable, "-m", "torch.distributed.run", *given], in_ranks(box, inject)
    )


def in_ranks(box: Sandbox, inject: str) -> dict[str, str]:
    """The environment that lays ``inject`` over the processes a launcher starts."""
    site = os.pathsep.join(filter(None, [str(SITE), box.env.get("PYTHONPATH")]))
    return {"PYTHONPATH": site, "SEGKIT_FAULT": inject} if inject else {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
