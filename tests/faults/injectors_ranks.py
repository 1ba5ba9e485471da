"""Faults of one process among several."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any


def before_update(step: int, act: Callable[[Any], Any]) -> None:
    """Call ``act(update)`` just before the update that follows ``step`` updates of a stage."""
    from segkit.engine.loop import Update

    update = Update.__call__

    def hurt(self: Any, batch: Any, stage: int, at: int) -> Any:
        if at == step and stage == 0:
            act(self)
        return update(self, batch, stage, at)

    Update.__call__ = hurt  # type: ignore[method-assign]


def _bad_image_at(step: str) -> None:
    def fail(update: Any) -> None:  # noqa: ARG001
        from segkit.errors import DataError

        raise DataError("UNREADABLE", "broken.png", "is cut short")

    before_update(int(step), fail)


def _nan_gradient_at(step: str) -> None:
    def spoil(update: Any) -> None:
        update._parameters[0].register_hook(lambda gradient: gradient * float("nan"))

    before_update(int(step), spoil)


def _freeze_at(step: str) -> None:
    """SIGSTOP: the process is there and does nothing, not even look."""
    before_update(int(step), lambda _: os.kill(os.getpid(), signal.SIGSTOP))


def _kill_at_first_try(step: str) -> None:
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        before_update(int(step), lambda _: os.kill(os.getpid(), signal.SIGKILL))


def _hang_in_forward_at(step: str) -> None:
    """Past the first sums of a step: the others wait in the backward pass, which is not marked."""

    def hang(update: Any) -> None:
        def never(images: Any) -> None:  # noqa: ARG001
            while True:
                time.sleep(3600)

        update._forward = never

    before_update(int(step), hang)


def _no_memory_at(step: str) -> None:
    def fail(update: Any) -> None:  # noqa: ARG001
        raise MemoryError

    before_update(int(step), fail)


def _slow_save(seconds: str) -> None:
    """All saves but the one at step 0 take so long."""
    from segkit.engine.saving import Saving

    save = Saving.__call__

    def slow(self: Any, model: Any, optimizer: Any, step: int, stage: int, **how: Any) -> None:
        time.sleep(float(seconds) if step else 0)
        save(self, model, optimizer, step, stage, **how)

    Saving.__call__ = slow  # type: ignore[method-assign]


def _slow_images(seconds: str) -> None:
    """Every evaluated image takes so long."""
    from segkit.inference.predictor import Predictor

    labels = Predictor.labels

    def slow(self: Any, images: Any, **how: Any) -> Any:
        time.sleep(len(images) * float(seconds))
        return labels(self, images, **how)

    Predictor.labels = slow  # type: ignore[method-assign]


def _other_value(argument: str) -> None:
    """``other_value:seed=1``: this process has another value than it was given."""
    import yaml

    from segkit import rules

    key, _, text = argument.partition("=")
    check = rules.check

    def changed(values: Any) -> None:
        *nodes, name = key.split(".")
        node = values
        for part in nodes:
            node = node[part]
        node[name] = yaml.safe_load(text)
        check(values)

    rules.check = changed


def _join_in(seconds: str) -> None:
    from segkit.engine import team

    team.JOIN_SECONDS = float(seconds)


INJECTORS: dict[str, Callable[[str], None]] = {
    "bad_image_at": _bad_image_at,
    "nan_gradient_at": _nan_gradient_at,
    "freeze_at": _freeze_at,
    "hang_in_forward_at": _hang_in_forward_at,
    "no_memory_at": _no_memory_at,
    "slow_save": _slow_save,
    "slow_images": _slow_images,
    "kill_at_first_try": _kill_at_first_try,
    "other_value": _other_value,
    "join_in": _join_in,
}
