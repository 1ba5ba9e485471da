"""``segkit model weights``: what ``pretrained=imagenet`` takes for every backbone, as one table."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segkit import cli, instantiate
from segkit.conf_files import choices_of
from segkit.config import compose
from segkit.errors import ConfigError, ExitCode
from segkit.model import taken, usage_hint
from segkit.models import known_weights
from segkit.models.contracts import Backbone
from segkit.models.pixels import Pixels
from segkit.models.weight_files import WeightFile, folders, read

HEAD = ("backbone", "file", "checksum", "here")
_WIDTH = 100


@dataclass(frozen=True)
class Row:
    """One file of one backbone; ``file`` is None where there is none to be had."""

    backbone: str
    pixels: Pixels
    file: WeightFile | None = None
    path: Path | None = None
    recorded: str | None = None
    note: str = ""

    @property
    def checksum(self) -> str:
        """What is known of the file's SHA-256, and by whom."""
        if self.file is None:
            return ""
        if self.file.hash_prefix:
            return f"{self.file.hash_prefix}..."
        seen = f", {self.recorded[:8]}... at first use" if self.recorded else ""
        return f"unverified{seen}"

    def cells(self) -> tuple[str, ...]:
        """The columns of ``HEAD``."""
        if self.file is None:
            return (self.backbone, "none", "", "")
        return (self.backbone, self.file.name, self.checksum, "yes" if self.path else "no")

    def story(self) -> str:
        """What a column is too narrow for."""
        if self.file is None:
            return f"{self.backbone}: {self.note}; it is given {self.pixels}"
        whose = self.file.address or f"no address; {self.file.source}"
        said = f"{self.file.name}: licence {self.file.licence}; wants {self.pixels}; {whose}"
        return f"{said}; here: {self.path}" if self.path else said

    def to_dict(self) -> dict[str, Any]:
        """The names of the JSON are fixed: other programs read them."""
        file = self.file or WeightFile("", licence="")
        return {
            "backbone": self.backbone,
            "file": file.name or None,
            "address": file.address,
            "source": file.source or None,
            "checksum": file.hash_prefix or ("unverified" if self.file else None),
            "sha256_at_first_use": self.recorded,
            "licence": file.licence or None,
            "preprocessing": {
                "channels": "RGB",
                "range": [0, 1],
                "mean": list(self.pixels.mean),
                "std": list(self.pixels.std),
            },
            "path": str(self.path) if self.path else None,
            "note": self.note or None,
        }


def main(words: Sequence[str]) -> int:
    """Print the table, or accept a file that has changed."""
    own, rest = taken(words, ("backbone", "accept", "--json"))
    if "accept" in own:
        if rest or len(own) > 1:
            raise ConfigError("USAGE", "accept", "stands alone", usage_hint())
        print(accept(own["accept"]))
        return ExitCode.OK
    call = cli.parse(["train", *rest])
    if call.multirun or call.show or call.overrides:
        what = [*call.overrides, "-m" if call.multirun else "--cfg"][0]
        raise ConfigError("USAGE", what, "not understood", usage_hint())
    instantiate.trust(call.trust)
    names = [own["backbone"]] if "backbone" in own else choices_of("backbone", call.config_dir)
    found = [row for name in names for row in rows(name, call.config_dir)]
    if "--json" in own:
        print(json.dumps([row.to_dict() for row in found], indent=2))
    else:
        print(text(found))
    return ExitCode.OK


def rows(name: str, config_dir: str | None) -> list[Row]:
    """The lines of the backbone ``name``; one that cannot be made here says why."""
    node = compose("train", [f"backbone={name}"], config_dir).values["backbone"]
    try:
        with torch.device("meta"):
            net: Backbone = instantiate.partial(node, "backbone")(output_stride=32)
    except ConfigError as fault:
        if fault.name != "EXTRA":
            raise
        return [Row(name, Backbone().pixels, note=str(fault))]
    if net.imagenet is None:
        return [Row(name, net.pixels, note="nobody trained it; pretrained=none")]
    if not net.imagenet.files:
        return [Row(name, net.pixels, note=f"no torch file; {net.imagenet.elsewhere}")]
    seen = known_weights.known()
    return [
        Row(name, net.pixels, file, place(file), None if file.hash_prefix else seen.get(file.name))
        for file in net.imagenet.files
    ]


def place(file: WeightFile) -> Path | None:
    """Where ``file`` lies on this machine."""
    return next((f / file.name for f in folders() if (f / file.name).is_file()), None)


def text(found: Sequence[Row]) -> str:
    """The table for people, and below it each file's licence, pixels and place once."""
    cells = [HEAD, *(row.cells() for row in found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells
    ]
    stories = [
        textwrap.fill(story, _WIDTH, subsequent_indent="    ", break_long_words=False,
                      break_on_hyphens=False)
        for story in dict.fromkeys(row.story() for row in found)
    ]  # fmt: skip
    return "\n".join([*lines, "", *stories, f"SHA-256 at first use: {known_weights.record()}"])


def accept(name: str) -> str:
    """Record what the file ``name`` holds now; a line that says so.

    Raises ``ConfigError`` CFG-UNKNOWN-CHOICE for a file that is not here under that name.
    """
    path = place(WeightFile(name)) if name == Path(name).name else None
    if path is None:
        where = ", ".join(map(str, folders()))
        fix = f"a file's name in {where}"
        raise ConfigError("UNKNOWN-CHOICE", "accept", f"{name!r} is not there", fix)
    _, digest = read(path)
    known_weights.remember(name, digest)
    return f"{name}: sha256 {digest} recorded in {known_weights.record()}"
