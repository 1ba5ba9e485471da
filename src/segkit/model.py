"""``segkit model SUBCOMMAND``: what a network is made of, by arithmetic; nothing is trained.

Imports nothing heavy by itself: the usage answers at once, and completion asks for the words.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.conf_files import nearest
from segkit.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from segkit.models.anatomy import Anatomy

SUBCOMMANDS = {
    "info": "parameters, multiply-adds, rates, sizes and receptive fields of a composed model",
    "rf": "receptive fields layer by layer: of a classic network, of a list, of a composed model",
    "valid-weights": "valid taps of an atrous 3x3 against its rate (v3, Fig. 4), table and picture",
    "weights": "the ImageNet weights of every backbone: whose, where, checksum, licence, pixels",
    "import": "another project's checkpoint as one of segkit",
}

# The keys that are not the config's own.
WORDS = {
    "info": ("crop=", "num_classes=", "--json"),
    "rf": ("alexnet", "vgg16", "zf-5", "layers=", "size=", "crop=", "--json"),
    "valid-weights": ("size=", "rates=", "out="),
    "weights": ("backbone=", "accept=", "--json"),
}

USAGE = """\
segkit model SUBCOMMAND ...

{subcommands}

  segkit model info model=v3 backbone=r101 os=16 [crop=513] [num_classes=21] [--json]
      key=value as for segkit train. Multiply-adds are those of the convolutions for one image of
      crop x crop; the space-to-batch count has TensorFlow's padding in it, as the papers' columns.
      The receptive field is that of the scores without image pooling, which sees everything.
  segkit model rf vgg16|alexnet|zf-5 [size=224] [--json]
  segkit model rf layers=[[11,4,0],[3,2],[5,1,2]] [size=224] [--json]
      a layer is [kernel, stride=1, padding=0, rate=1]
  segkit model rf model=v1 [crop=513] [--json]
      every unit of a composed model
  segkit model valid-weights [size=65] [rates=[6,12,18]] [out=valid-weights-65.png]
  segkit model weights [backbone=NAME] [--json]
      what pretrained=imagenet takes, and whether it is on this machine
  segkit model weights accept=FILE
      a file that no source has a checksum for may have changed since its first use
  segkit model import --help"""

IMAGENET_SIZE, PAPER_CROP, PAPER_MAP, VOC_CLASSES = 224, 513, 65, 21


def main(argv: Sequence[str]) -> int:
    """Run one subcommand; ``ConfigError`` CFG-COMMAND where there is none of that name."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return ExitCode.OK
    name, *words = argv
    if name not in SUBCOMMANDS:
        fix = "subcommands: " + ", ".join(SUBCOMMANDS) + nearest(name, SUBCOMMANDS)
        raise ConfigError("COMMAND", f"model {name}", "no such subcommand", fix)
    if name == "import":
        return int(import_module("segkit.model_import").main(words))
    if {"-h", "--help"} & set(words):
        print(usage())
        return ExitCode.OK
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "info": info,
        "rf": receptive_fields,
        "valid-weights": valid_weights,
        "weights": weights,
    }
    return commands[name](words)


def usage() -> str:
    """The page of ``segkit model``."""
    return USAGE.format(subcommands="\n".join(f"  {n:<14} {t}" for n, t in SUBCOMMANDS.items()))


# -- info ----------------------------------------------------------------------------------------


def info(words: Sequence[str]) -> int:
    """Print what the composed model is made of."""
    own, overrides = taken(words, ("crop", "num_classes", "--json"))
    crop = whole(own, "crop", PAPER_CROP)
    found = anatomy(overrides, crop, whole(own, "num_classes", VOC_CLASSES))
    print(info_json(found) if "--json" in own else info_text(found, crop))
    return ExitCode.OK


def info_json(found: "Anatomy") -> str:
    """The names of the JSON are fixed: other programs read them."""
    keys = ("name", "stride", "rate", "channels", "size", "receptive_field")
    facts = {
        "params": found.params,
        "macs": found.macs,
        "macs_space_to_batch": found.macs_space_to_batch,
        "receptive_field": found.receptive_field,
        "units": [{key: getattr(unit, key) for key in keys} for unit in found.units],
    }
    return json.dumps(facts, indent=2)


def info_text(found: "Anatomy", crop: int) -> str:
    """The same for people."""
    field = found.receptive_field
    pooled = "; image pooling sees the whole image" if found.sees_all else ""
    facts = {
        "parameters": f"{found.params / 1e6:.3f}M ({found.params})",
        "multiply-adds": f"{found.macs / 1e9:.2f}B at {crop}x{crop}",
        "space-to-batch": f"{found.macs_space_to_batch / 1e9:.2f}B as the papers count",
        "receptive field": f"{shown(field)}{pooled}",
    }
    lines = [f"{name:<16}{text}" for name, text in facts.items()]
    head = ("unit", "stride", "rate", "channels", "size", "receptive field")
    rows = [
        (u.name, u.stride, u.rate, u.channels, u.size, shown(u.receptive_field))
        for u in found.units
    ]
    return "\n".join([*lines, "", columns([head, *rows])])


def anatomy(overrides: Sequence[str], crop: int, num_classes: int) -> "Anatomy":
    """Compose as ``segkit train`` does, build without memory, and take apart.

    Raises ``ConfigError`` for what does not compose or cannot be built, and CFG-RANGE for a crop
    that a layer leaves nothing of.
    """
    from segkit import cli, instantiate
    from segkit.config import compose, placed

    call = cli.parse(["train", *overrides])
    if call.multirun or call.show:
        raise ConfigError("USAGE", "-m" if call.multirun else "--cfg", "not here", usage_hint())
    instantiate.trust(call.trust)
    values = compose("train", call.overrides, call.config_dir).values
    try:
        return built(values, crop, num_classes)
    except ConfigError as error:
        raise placed(error, call.overrides) from error


def built(values: Mapping[str, Any], crop: int, num_classes: int) -> "Anatomy":
    """The network of a composed config, taken apart."""
    import torch

    from segkit.models.anatomy import anatomy_of
    from segkit.parts import network_of

    with torch.device("meta"):
        net = network_of(values, num_classes, values["os"])
    try:
        return anatomy_of(net, crop)
    except RuntimeError as error:
        raise ConfigError(
            "RANGE", "crop", f"{crop} is too small for this model: {error}", "a larger one"
        ) from error


# -- rf ------------------------------------------------------------------------------------------


def receptive_fields(words: Sequence[str]) -> int:
    """Print name, size, total stride and receptive field of every layer."""
    from segkit import cli

    own, rest = taken(words, ("size", "crop", "layers", "--json"))
    typed = cli.parse(["train", *rest]).overrides  # without the values of options
    names = [word for word in typed if "=" not in word]
    if names or "layers" in own:
        rows = listed(own, names, rest)
    elif rest:
        if "size" in own:
            raise ConfigError("USAGE", "size", "a composed model has a crop", "crop=513")
        units = anatomy(rest, whole(own, "crop", PAPER_CROP), VOC_CLASSES).units
        rows = [(u.name, u.size, u.total_stride, u.receptive_field) for u in units]
    else:
        raise ConfigError("USAGE", "model rf", "names no network", usage_hint())
    keys = ("name", "size", "stride", "receptive_field")
    if "--json" in own:
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
    else:
        head = ("layer", "size", "total stride", "receptive field")
        shown_rows = [(name, size, shown(jump), shown(field)) for name, size, jump, field in rows]
        print(columns([head, *shown_rows]))
    return ExitCode.OK


def listed(
    own: Mapping[str, str], names: Sequence[str], rest: Sequence[str]
) -> list[tuple[Any, ...]]:
    """The rows of a network written as a list, by name or in ``layers``."""
    from segkit.models.arithmetic import NETWORKS, layer_reaches

    if len(names) + ("layers" in own) > 1 or len(rest) > len(names) or "crop" in own:
        what = " ".join([*rest, *(f"{key}={own[key]}" for key in ("layers", "crop") if key in own)])
        raise ConfigError("USAGE", "model rf", f"{what!r} is more than one network", usage_hint())
    if names and names[0] not in NETWORKS:
        fix = f"networks: {', '.join(NETWORKS)}, or key=value{nearest(names[0], NETWORKS)}"
        raise ConfigError("UNKNOWN-CHOICE", "model rf", f"{names[0]!r}", fix)
    layers = NETWORKS[names[0]] if names else layers_of(own["layers"])
    size = whole(own, "size", IMAGENET_SIZE)
    rows = layer_reaches(layers, size)
    if len(rows) < len(layers):
        found = f"{size} leaves nothing of {layers[len(rows)].name}"
        raise ConfigError("RANGE", "size", found, "a larger one")
    return [(row.name, row.size, row.stride, row.receptive_field) for row in rows]


def layers_of(text: str) -> list[Any]:
    """``[[11,4,0],[3,2]]`` as layers; ``ConfigError`` CFG-TYPE for anything else."""
    from segkit.models.arithmetic import Layer

    lowest = (1, 1, 0, 1)
    layers: list[Any] = []
    numbers: list[tuple[Any, int]] = []
    try:
        found = json.loads(text)
        layers = [Layer(f"layer{n}", *map(int, row)) for n, row in enumerate(found, start=1)]
        numbers = [(number, low) for row in found for number, low in zip(row, lowest, strict=False)]
    except (ValueError, TypeError):
        layers = []
    if not layers or any(type(number) is not int or number < low for number, low in numbers):
        fix = "[[kernel, stride, padding, rate], ...] in whole numbers, as [[11,4,0],[3,2]]"
        raise ConfigError("TYPE", "layers", f"{text!r} is no list of layers", fix)
    return layers


# -- valid-weights ---------------------------------------------------------------------------------


def valid_weights(words: Sequence[str]) -> int:
    """Print the table and draw the picture."""
    from segkit.report.valid_weights import table, usual_rates, write_picture

    own, rest = taken(words, ("size", "rates", "out"))
    if rest:
        raise ConfigError("USAGE", rest[0], "not understood", usage_hint())
    size = whole(own, "size", PAPER_MAP)
    rates = rates_of(own["rates"]) if "rates" in own else usual_rates(size)
    path = Path(own.get("out", f"valid-weights-{size}.png"))
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError("CHOICE", "out", f"{str(path)!r}", "a file that ends in .png or .svg")
    print(f"percent of the positions of a {size}x{size} map with so many valid taps of 9")
    print(table(size, rates))
    write_picture(path, size)
    print(f"picture: {path}")
    return ExitCode.OK


def rates_of(text: str) -> list[int]:
    """``[6,12,18]`` or ``6,12,18``."""
    try:
        rates = [int(word) for word in text.strip("[]").split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) < 1:
        raise ConfigError("RANGE", "rates", f"{text!r}", "whole numbers from 1, as [6,12,18]")
    return rates


def weights(words: Sequence[str]) -> int:
    """The table of ImageNet weights."""
    return int(import_module("segkit.model_weights").main(words))


# -- words and tables ------------------------------------------------------------------------------


def taken(words: Sequence[str], own: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The values of the subcommand's own keys (the last one of each), and the other words."""
    mine: dict[str, str] = {}
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if key in own and bool(equals) != key.startswith("--"):
            mine[key] = value
        else:
            others.append(word)
    return mine, others


def whole(own: Mapping[str, str], key: str, default: int) -> int:
    """A count of at least 1."""
    text = own.get(key, str(default))
    if not (text.isascii() and text.isdigit()):
        raise ConfigError("TYPE", key, f"{text!r} is not an int", "1 or more")
    if not 1 <= int(text[:10]) < 10**6:
        raise ConfigError("RANGE", key, text, "1 or more, below a million")
    return int(text)


def usage_hint() -> str:
    return "see segkit model --help"


def shown(value: float | None) -> str:
    """A number of the table; None is a map that sees the whole image."""
    return "all" if value is None else f"{value:.6g}"


def columns(rows: Sequence[Sequence[object]]) -> str:
    """The first column to the left, numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in texts
    )
    return "\n".join("  ".join(line) for line in lines)
