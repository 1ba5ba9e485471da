"""Config nodes as constructor calls: signatures checked, foreign class paths refused."""

import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from segkit import instantiate
from segkit.errors import ConfigError, RefusedError


class Part:
    def __init__(
        self, size: int, rates: Sequence[int] = (), root: str | None = None, p: float = 0.5
    ) -> None:
        self.size, self.rates, self.root, self.p = size, rates, root, p


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("segkit_test_part")
    module.Part = Part  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Part, "__module__", module.__name__)
    instantiate.trust([])
    monkeypatch.setattr(instantiate, "_trusted", [module.__name__])
    return "segkit_test_part.Part"


def test_a_node_is_a_constructor_call(part: str) -> None:
    node = {"name": "x", "_target_": part, "size": 3, "rates": [1, 2]}
    made = instantiate.partial(node, "model")()
    assert (made.size, made.rates, made.p) == (3, [1, 2], 0.5)


@pytest.mark.parametrize(
    ("extra", "error_id", "where"),
    [
        ({"sise": 3}, "CFG-UNKNOWN-KEY", "model.sise"),
        ({"size": "three"}, "CFG-TYPE", "model.size"),
        ({"size": True}, "CFG-TYPE", "model.size"),
        ({"size": 1, "rates": [1, "x"]}, "CFG-TYPE", "model.rates"),
        ({"size": 1, "root": 3}, "CFG-TYPE", "model.root"),
        ({"size": 1, "p": None}, "CFG-TYPE", "model.p"),
    ],
)
def test_bad_arguments_are_named(part: str, extra: dict, error_id: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        instantiate.partial({"_target_": part, **extra}, "model")
    assert (caught.value.id, caught.value.where) == (error_id, where)


@pytest.mark.parametrize(
    "path", ["os.system", "pathlib.Path.unlink", "torch.hub.load", "segkitx.evil", "", "segkit"]
)
def test_class_paths_outside_segkit_are_refused(path: str) -> None:
    with pytest.raises(RefusedError, match=r"model\._target_"):
        instantiate.partial({"_target_": path}, "model")


@pytest.mark.parametrize(
    "path", ["segkit.models.heads.no_such.Thing", "segkit.models.heads.v3.NoSuch"]
)
def test_a_missing_class_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        instantiate.partial({"_target_": path}, "model")


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("dataset", "segkit.data.pairs.Path"),  # imported there, defined elsewhere
        ("dataset", "segkit.data.loader.train_batches"),  # segkit's own, but no data set
        ("dataset", "segkit.data.files.os.remove"),
        ("loss", "segkit.losses.ConfigError"),
        ("model", "segkit.models.heads.v3.Head"),
        ("model", "segkit.engine.files.append"),  # another room
        ("backbone", "segkit.models.heads.v3.DeepLabV3"),
    ],
)
def test_only_parts_made_for_a_role_play_it(role: str, path: str) -> None:
    with pytest.raises((RefusedError, ConfigError)) as caught:
        instantiate.resolve(path, role)
    assert caught.value.where == f"{role}._target_"
