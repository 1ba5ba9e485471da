"""``-m``: one job for each combination, through Hydra's own sweepers and launchers.

A failing job leaves the others running; the sweep ends non-zero and names the jobs that failed.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from segkit.conf_files import conf_dir
from segkit.config import (
    COMPOSING_ERRORS,
    plain,
    quote_numeric_choice,
    register,
    search_path,
    translate,
)
from segkit.errors import ConfigError, Interrupted, SegkitError


def sweep(
    command: str, overrides: Sequence[str], config_dir: str | None, trusted: Sequence[str]
) -> int:
    """Run ``command`` for every combination in ``overrides``; the worst job's exit code."""
    register(command)
    failed: list[tuple[str, SegkitError]] = []

    def job(cfg: DictConfig) -> int:
        return run_job(cfg, command, config_dir, trusted, failed)

    arguments = [quote_numeric_choice(o) for o in overrides]
    if config_dir:
        arguments.append(search_path(config_dir))
    try:
        launch(command, job, arguments)
    except COMPOSING_ERRORS as error:
        raise translate(error, command, overrides, config_dir) from error
    except SegkitError as error:
        # Hydra re-raises the first failed job after all have run; in another process (joblib) it is
        # the only word of it that arrives here.
        if not failed:
            failed.append(("", error))
    if failed:
        raise sweep_error(failed)
    return 0


def launch(command: str, job: Any, arguments: Sequence[str]) -> None:
    """Hydra's own command line with ``--multirun``; it reads ``sys.argv``."""
    arguments = [*arguments, "hydra/job_logging=none"]  # segkit logs elsewhere: it would stay empty
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["segkit", "--multirun", *arguments], "1"
    try:
        hydra.main(config_path=str(conf_dir()), config_name=command, version_base="1.3")(job)()
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]


def run_job(
    cfg: DictConfig,
    command: str,
    config_dir: str | None,
    trusted: Sequence[str],
    failed: list[tuple[str, SegkitError]],
) -> int:
    from hydra.core.hydra_config import HydraConfig

    from segkit.cli import start
    from segkit.instantiate import trust
    from segkit.rules import check

    typed = " ".join(HydraConfig.get().overrides.task)
    if failed and isinstance(failed[-1][1], Interrupted):
        raise failed[-1][1]  # a stop is for the whole sweep; Hydra itself would go on
    try:
        composed = plain_job(cfg, command, config_dir)
        check(composed.values)
        trust(trusted)
        return start(command, composed, trusted)
    except SegkitError as error:
        print(error.line(), file=sys.stderr, flush=True)
        failed.append((typed, error))
        raise


def plain_job(cfg: DictConfig, command: str, config_dir: str | None) -> Any:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    with open_dict(cfg):
        cfg.hydra = OmegaConf.create({"runtime": {"choices": HydraConfig.get().runtime.choices}})
    return plain(cfg, command, config_dir, HydraConfig.get().overrides.task)


def sweep_error(failed: Sequence[tuple[str, SegkitError]]) -> SegkitError:
    if isinstance(failed[-1][1], Interrupted):
        return failed[-1][1]
    names = "; ".join(f"[{typed}] {error.id}" for typed, error in failed)
    first = failed[0][1]
    error = ConfigError("SWEEP", "sweep", f"{len(failed)} of the jobs failed: {names}")
    error.code = first.code  # type: ignore[misc]  # the first job's own code says what kind it was
    return error
