"""The import arrows of docs/architecture.md, and what nobody may write."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "segkit"
LEAVES = {
    "allocator",
    "errors",
    "limits",
    "lifeline",
    "lock",
    "randomness",
    "ranks",
    "tensor_header",
    "whole_files",
}
PARTS = {"models", "data", "inference", "losses", "schedules", "optim", "metrics", "report"}
ALLOWED = {
    **dict.fromkeys(PARTS, LEAVES),
    "engine": LEAVES | {"metrics"},
    "check": LEAVES | {"data"},
    "prepare": LEAVES | {"data", "conf_files"},
    "submission": LEAVES | {"data", "prepare"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module a file imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows(path: Path) -> None:
    here, names = room(path), imported(path)
    rooms = {n.split(".")[1] for n in names if n.startswith("segkit.")}
    if here in ALLOWED:
        assert rooms <= ALLOWED[here] | {here}
        assert not {n for n in names if n.split(".")[0] in ("hydra", "omegaconf")}
    if {n.split(".")[0] for n in names} & {"hydra", "omegaconf"}:
        assert here in ("cli", "config", "sweep"), "Hydra stops at the door"
    if "albumentations" in {n.split(".")[0] for n in names}:
        assert here == "data", "albumentations belongs to the training-input path alone"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load"}
    for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
        assert ast.unparse(call.func) not in forbidden
        for keyword in call.keywords:
            written = f"{keyword.arg}={ast.unparse(keyword.value)}"
            assert written not in ("weights_only=False", "allow_pickle=True")
