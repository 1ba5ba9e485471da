"""S and C rows: files that lie or attack, as each entry point meets them."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import payloads
import torch
from cases import Case, Prepare, typed
from payloads import Call, opcodes, zipped
from sandbox import TINY, Sandbox

from segkit.engine.seal import digest, seal

EVAL, PREDICT = ("eval", "workers=0", "ckpt=runs/x"), ("predict", "photo.png", "ckpt=runs/x")
RESUME = (
    *TINY,
    "resume=true",
    "schedule.stages.1.steps=9",
    "resume_allow=[schedule.stages.1.steps]",
)


# -- weights -----------------------------------------------------------------------------------


def attack(box: Sandbox) -> Call:
    return Call("posix:system", f"touch '{box.canary}'")


def pretrained(name: str, make: Callable[[Sandbox], bytes]) -> Prepare:
    """A training that starts from the file ``name``."""

    def prepare(box: Sandbox) -> Sequence[str]:
        (box.work / name).write_bytes(make(box))
        return (*TINY, f"pretrained={name}")

    return prepare


def imported(name: str) -> Prepare:
    """Another project's weights that are an attack, under the name ``name``."""

    def prepare(box: Sandbox) -> Sequence[str]:
        (box.work / name).write_bytes(payloads.formats(attack(box))[name])
        return ("model", "import", name)

    return prepare


def state_file(change: Callable[[dict[str, Any]], object]) -> Prepare:
    """Weights of TINY's backbone with one fault."""

    def make(box: Sandbox) -> bytes:  # noqa: ARG001
        from segkit.models.backbones.resnet import r_tiny

        state = dict(r_tiny(output_stride=16).state_dict())
        changed = change(state)
        out = io.BytesIO()
        torch.save(state if changed is None else changed, out)
        return out.getvalue()

    return pretrained("weights.pth", make)


def without_first(state: dict[str, Any]) -> None:
    del state["conv1.weight"]


def weights(name: str, change: Callable[[dict[str, Any]], object], error: str, names: str) -> Case:
    return Case("C13", name, state_file(change), 4, f"CKPT-WEIGHTS-{error}", names)


def bomb(box: Sandbox) -> bytes:  # noqa: ARG001
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", opcodes({}))
        archive.writestr("archive/data/0", bytes(1 << 28))
    return out.getvalue()


# -- checkpoints -------------------------------------------------------------------------------


def checkpoints(box: Sandbox) -> list[Path]:
    return sorted((box.run_folder / "checkpoints").glob("step-*"))


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Change a checkpoint's manifest, with all hashes right afterwards."""
    place = folder / "checkpoint.json"
    manifest = json.loads(place.read_bytes())
    del manifest["sha256"]
    change(manifest)
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": digest(data)}
    place.write_bytes(seal(manifest))


def forged(words: Sequence[str], change: Callable[[dict[str, Any]], object]) -> Prepare:
    """``words`` upon a run whose every checkpoint holds another config."""

    def prepare(box: Sandbox) -> Sequence[str]:
        for folder in checkpoints(box):
            reseal(folder, lambda manifest: change(manifest["config"]))
        photo(box)
        return words

    return prepare


def planted(words: Sequence[str], make: Callable[[Sandbox], bytes]) -> Prepare:
    """``words`` upon a run whose every ``model.safetensors`` was replaced, hashes and all."""

    def prepare(box: Sandbox) -> Sequence[str]:
        for folder in checkpoints(box):
            (folder / "model.safetensors").write_bytes(make(box))
            reseal(folder)
        photo(box)
        return words

    return prepare


def photo(box: Sandbox) -> None:
    from PIL import Image

    Image.new("RGB", (33, 33)).save(box.work / "photo.png")


def at(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    """Put ``value`` into the stored config at ``keys``."""

    def change(config: dict[str, Any]) -> None:
        node: Any = config
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


def forgery(name: str, change: Callable[[dict[str, Any]], object], code: int, error: str) -> Case:
    prepare = forged(EVAL, change)
    return Case("S2", name, prepare, code, error, "checkpoint.json", needs_run=True)


TARGETS = ("os.system", "posix.system", "pathlib.Path.unlink", "torch.hub.load", "builtins.map")
FORGERIES = [
    *(forgery(t, at("values", "model", "_target_", value=t), 7, "SAFE-TARGET") for t in TARGETS),
    forgery(
        "nested",
        at("values", "backbone", "inner", value={"_target_": "os.system"}),
        7,
        "SAFE-TARGET",
    ),
    forgery(
        "in-a-list",
        at("values", "augment", "extra", value=[{"a": [{"_target_": "os.system"}]}]),
        7,
        "SAFE-TARGET",
    ),
    forgery(
        "in-the-schedule",
        at("values", "schedule", "stages", 0, "_target_", value="os.system"),
        7,
        "SAFE-TARGET",
    ),
    *(
        forgery(name, at("values", "model", name, value=value), 7, "SAFE-TARGET")
        for name, value in (
            ("_partial_", True),
            ("_args_", ["touch canary"]),
            ("_recursive_", True),
        )
    ),
    forgery(
        "class-of-another",
        at("values", "model", "_target_", value="segkit.cli.main"),
        7,
        "SAFE-TARGET",
    ),
    forgery("choice-climbs", at("choices", "model", value="../../x"), 4, "CKPT-CONFIG"),
    forgery(
        "choice-is-an-override",
        at("choices", "model", value="v3 +hydra.run.dir=/x"),
        4,
        "CKPT-CONFIG",
    ),
    forgery("choice-of-hydra", at("choices", "os", value="${oc.env:HOME}"), 4, "CKPT-CONFIG"),
    forgery("interpolation", at("values", "seed", value="${oc.env:HOME}"), 4, "CKPT-CONFIG"),
    forgery("resolver", at("values", "os", value="${oc.decode:8}"), 4, "CKPT-CONFIG"),
    forgery("type", at("values", "schedule", "stages", value="abc"), 4, "CKPT-CONFIG"),
    forgery("range", at("values", "os", value=-8), 4, "CKPT-CONFIG"),
    forgery("null", at("values", "schedule", value=None), 4, "CKPT-CONFIG"),
    forgery("no-values", at("values", value=[]), 4, "CKPT-CONFIG"),
    forgery("deep", at("values", "eval", "pad", value={"a": {"b": 1}}), 4, "CKPT-CONFIG"),
]


def in_prediction(name: str) -> Prepare:
    return forged(PREDICT, at("values", "model", "_target_", value=name))


OTHER_ENTRIES = [
    Case("S2", f"predict-{t}", in_prediction(t), 7, "SAFE-TARGET", t, needs_run=True)
    for t in ("posix.system", "torch.load")
]


def target(name: str, word: str, names: str = "_target_") -> Case:
    return Case("S2", name, typed(*TINY, word), 7, "SAFE-TARGET", names)


TYPED = [
    target("typed-os", "model._target_=os.system", "model._target_"),
    target("typed-unlink", "dataset._target_=pathlib.Path.unlink", "dataset._target_"),
    target("typed-cli", "loss._target_=segkit.cli.main", "loss._target_"),
    target("typed-main", "loss._target_=segkit.__main__.entry", "loss._target_"),
    target("typed-files", "loss._target_=segkit.whole_files.append", "loss._target_"),
    *(
        Case("S2", f"typed-{path}", typed(*TINY, word), 2, "CFG-TARGET", path)
        for path in ("v3.torch.load", "losses.torch", "losses.NoSuch")
        for word in (
            f"loss._target_=segkit.{path}"
            if path[0] == "l"
            else f"model._target_=segkit.models.heads.{path}",
        )
    ),
    target("typed-class-of-another", "loss._target_=segkit.losses.Tensor", "loss._target_"),
    target("typed-function", "dataset._target_=segkit.data.files.open_file", "dataset._target_"),
    target("typed-other-role", "model._target_=segkit.data.shapes.Shapes", "model._target_"),
    target("typed-helper", "backbone._target_=segkit.models.backbones.resnet.shortcut"),
]


# -- links and other paths ---------------------------------------------------------------------


def link(name: str, *words: str, folder: bool = False) -> Prepare:
    """A link from ``runs/x/name`` to a place outside waits for ``words``."""

    def prepare(box: Sandbox) -> Sequence[str]:
        outside = box.work / "outside"
        outside.mkdir() if folder else outside.write_text("precious")
        waiting = box.run_folder / name
        waiting.parent.mkdir(parents=True, exist_ok=True)
        if waiting.is_dir():
            shutil.rmtree(waiting)
        waiting.unlink(missing_ok=True)
        waiting.symlink_to(outside)
        photo(box)
        return words

    return prepare


LINKS = [
    Case("S17", "lock", link(".lock", *TINY), 6, "ENV-WRITE", ".lock"),
    *(
        Case("S17", name, link(name, *TINY, "resume=true", folder=True), 7, "SAFE-PATH-LINK", name)
        for name in ("checkpoints", "logs", "tb")
    ),
    Case(
        "S17", "scores", link("scores", *EVAL, folder=True),
        7, "SAFE-PATH-LINK", "scores", needs_run=True,
    ),
    Case(
        "S17", "predictions", link("predictions", *PREDICT, folder=True),
        7, "SAFE-PATH-LINK", "predictions", needs_run=True,
    ),
]  # fmt: skip


def some(cases: Sequence[Case]) -> list[Case]:
    """``cases`` with every third of them fast: the others go the same road."""
    return [c if n % 3 == 0 else replace(c, speed="slow") for n, c in enumerate(cases)]


def plain_file(box: Sandbox) -> Sequence[str]:
    (box.work / "resnet.pth").write_bytes(b"x")
    return ("eval", "ckpt=resnet.pth")


def empty_folder(box: Sandbox) -> Sequence[str]:
    (box.work / "empty").mkdir()
    return ("eval", "ckpt=empty")


def resume_foreign(box: Sandbox) -> Sequence[str]:
    box.run_folder.mkdir(parents=True)
    (box.run_folder / "thesis.tex").write_text("precious")
    return (*TINY, "resume=true")


CASES = [
    *(
        Case(
            "S1",
            f"pretrained-{name}",
            pretrained(name, lambda box, n=name: payloads.formats(attack(box))[n]),
            code,
            error,
            name,
        )
        for name, code, error in (
            ("zip.pth", 7, "SAFE-PICKLE"),
            ("legacy.pth", 7, "SAFE-PICKLE"),
            ("gzip.pth", 7, "SAFE-PICKLE"),
            ("torchscript.pt", 7, "SAFE-PICKLE"),
            ("bytecode.pt", 7, "SAFE-PICKLE"),
            ("tar.pth", 4, "CKPT-WEIGHTS-UNREADABLE"),
            ("pickle.safetensors", 4, "CKPT-WEIGHTS-UNREADABLE"),
        )
    ),
    *(
        Case(
            "S1",
            f"planted-{words[0]}",
            planted(words, lambda box: zipped({"data.pkl": opcodes(attack(box))})),
            code,
            error,
            names,
            needs_run=True,
        )
        for words, code, error, names in (
            (EVAL, 4, "CKPT-NONE", "checkpoints"),
            (PREDICT, 4, "CKPT-NONE", "checkpoints"),
            (RESUME, 4, "CKPT-NONE", "checkpoints"),
            (
                ("eval", "ckpt=runs/x/checkpoints/step-00000006"),
                7,
                "SAFE-SAFETENSORS",
                "model.safetensors",
            ),
        )
    ),
    *(
        Case("S1", f"import-{name}", imported(name), code, error, name)
        for name, code, error in (
            ("zip.pth", 7, "SAFE-PICKLE"),
            ("wrapped.pth", 7, "SAFE-PICKLE"),
            ("objects.npz", 7, "SAFE-PICKLE"),
            ("pickle.safetensors", 4, "CKPT-WEIGHTS-UNREADABLE"),
        )
    ),
    Case(
        "S8", "zip-bomb", pretrained("bomb.pth", bomb), 7, "SAFE-ARCHIVE", "bomb.pth", seconds=3.0
    ),
    *some(FORGERIES),
    *OTHER_ENTRIES,
    *some(TYPED),
    *LINKS,
    weights("extra-key", at("more", value=torch.zeros(2)), "MISMATCH", "1 extra (more)"),
    weights(
        "missing-key",
        without_first,
        "MISMATCH",
        "1 missing (conv1.weight)",
    ),
    weights(
        "misshaped-key",
        at("conv1.weight", value=torch.zeros(2)),
        "MISMATCH",
        "1 misshaped (conv1.weight [2]",
    ),
    weights("other-backbone", lambda _: {"x": torch.zeros(1)}, "MISMATCH", "no key fits"),
    weights(
        "not-finite",
        at("conv1.weight", value=torch.full((16, 3, 7, 7), torch.nan)),
        "NONFINITE",
        "conv1.weight",
    ),
    weights("not-a-dict", lambda _: [1], "UNREADABLE", "weights.pth"),
    weights(
        "two-models",
        lambda s: {"model": s, "state_dict": s},
        "UNREADABLE",
        "'model' is a dict",
    ),
    Case(
        "C16",
        "address",
        typed("eval", "ckpt=https://example.org/x.pth"),
        4,
        "CKPT-MISSING",
        "address",
    ),
    Case("C16", "pth", plain_file, 4, "CKPT-FORMAT", "pretrained="),
    Case("C16", "no-run", empty_folder, 4, "CKPT-NONE", "empty"),
    Case("C16", "nowhere", typed("eval", "ckpt=nowhere"), 4, "CKPT-MISSING", "nowhere"),
    Case("C16", "resume-foreign", resume_foreign, 2, "CFG-RUN-FOREIGN", "thesis.tex"),
]
