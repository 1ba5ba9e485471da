"""A folder of one's own, whatever its masks are like, made ready for ``dataset=folder``.

The result holds ``images/``, ``masks/`` (PNGs of labels), ``train.txt``, ``val.txt`` and
``dataset.yaml``: nothing is left to be typed but its place.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import yaml
from PIL import Image

from segkit.conf_files import nearest
from segkit.data.description import FILE
from segkit.data.folder import ALL, Folder, split_by_name
from segkit.data.strict_yaml import strict_yaml
from segkit.errors import ConfigError, DataError, ExitCode, SegkitError
from segkit.prepare.claim import MANIFEST, Prepared, Record, prepare_once
from segkit.prepare.files import link_or_copy, put, settle
from segkit.prepare.index_png import index_png
from segkit.prepare.pairs import ListedPairs
from segkit.prepare.progress import each
from segkit.whole_files import faults

USAGE = """\
segkit data prepare folder from=DIR root=NEWDIR [classes=[background,leaf]] [key=value ...]

  from=DIR           your photos and masks: DIR/images and DIR/masks, paired by name
  root=NEWDIR        what is made: images, masks of labels, lists, dataset.yaml
  classes=[A,B,...]  the classes in the order of the labels (or DIR/classes.txt, a name a line)
  images=photos      another folder than DIR/images; masks=drawn: than DIR/masks
  pairs=pairs.csv    pairs by a table instead: image,mask in each line, relative to DIR

What the masks hold; nothing is guessed:
  (nothing)          labels 0, 1, 2 ... (grey or palette PNG)
  'values={0: 0, 255: 1}'                 value in the mask: label
  'colours=[[0,0,0],[0,128,0]]'           RGB masks: a colour for each class, in their order
  'ignore_colour=[255,255,255]'           RGB masks: the colour of what does not count
  ignore_label=255   the label of what does not count

  val_share=0.2      share of val, by a hash of the names (or DIR/train.txt and DIR/val.txt)"""

KEYS = (
    *("from", "root", "classes", "images", "masks", "pairs", "values", "colours"),
    *("ignore_colour", "ignore_label", "val_share"),
)
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Request:
    """What was typed: where from, where to, and the arguments of ``Folder``."""

    source: Path
    root: Path
    pairs: Path | None = None
    words: dict[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str]) -> int:
    """Prepare, and say what to type next. Raises ``ConfigError`` for words not understood."""
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    try:
        prepared = prepare(requested(argv))
    except SegkitError as error:
        here = [_as_typed_here(text) for text in (error.where, error.what, error.fix)]
        raise type(error)(error.name, *here) from error
    print(told(prepared))
    return ExitCode.OK


def prepare(request: Request) -> Prepared:
    """Make the data set at ``request.root``, unless it is there and made of the same.

    Raises ``DataError`` for samples that cannot be read, and where ``root`` holds anything else.
    """
    work = request.root.with_name(f".{request.root.name}.preparing")
    samples = opened(request)
    splits = _splits(request, samples)
    source = described(request, samples, splits)
    _check_place(request.root, work, source)
    return prepare_once(
        "folder",
        request.root,
        work,
        lambda: {split: Folder(request.root, split) for split in SPLITS},
        lambda: [_build(request.root, samples, splits, source, work)],
    )


def opened(request: Request) -> Folder:
    """Every sample of the source, not yet read."""
    if request.pairs is not None:
        return ListedPairs(request.source, request.pairs, **request.words)
    return Folder(request.source, ALL, **request.words)


def described(request: Request, samples: Folder, splits: Mapping[str, list[str]]) -> Record:
    """What the manifest says of the source: the same source again has the same description."""
    files = []
    for index, name in enumerate(samples.ids.tolist()):
        paths = (samples.image_path(index), samples.mask_path(index))
        files.append([name, *([str(p.relative_to(samples.root)), p.stat().st_size] for p in paths)])
    said, labels = samples.described, samples.labels
    meaning = {
        "classes": [labels.names, labels.colours, labels.ignore_label],
        "explicit_ignore": said.explicit_ignore,
        "values": sorted((said.value_table or {}).items()),
        "colours": sorted((said.colour_table or {}).items()),
        "splits": splits,
    }
    return {
        "kind": "folder",
        "name": request.source.name,
        "samples": len(samples),
        "files_sha256": _hash(files),
        "meaning_sha256": _hash(meaning),
        "classes": list(samples.labels.names),
        "typed": json.loads(json.dumps(request.words, sort_keys=True)),
    }


def _hash(facts: Any) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()


def _build(
    root: Path, samples: Folder, splits: Mapping[str, list[str]], source: Record, work: Path
) -> Record:
    """All in ``work``, then one rename; a call that was killed on the way is gone on with."""
    fresh, ready = work / "set", work / "ready.json"
    if not _is_ready(ready, source):
        rmtree(fresh, ignore_errors=True)
        each("convert", range(len(samples)), partial(_convert, samples, fresh), "pair")
        for split, names in splits.items():
            put(fresh / f"{split}.txt", "".join(f"{name}\n" for name in names).encode())
        put(fresh / FILE, _description(samples))
        settle()
        put(ready, json.dumps(source).encode())
    if fresh.is_dir():
        with faults(root, 0):
            fresh.rename(root)
    return source


def _is_ready(ready: Path, source: Record) -> bool:
    """Whether an earlier call has made all of it, of the same source."""
    try:
        return bool(json.loads(ready.read_bytes()) == source)
    except (OSError, ValueError, RecursionError):
        return False


def _convert(samples: Folder, into: Path, index: int) -> None:
    image, _, name = samples.image_path(index), samples.mask_path(index), str(samples.ids[index])
    _, label = samples.read(index)
    link_or_copy(image, into / "images" / f"{name}{image.suffix}")
    mask = into / "masks" / f"{name}.png"
    with faults(mask, 0):
        mask.parent.mkdir(parents=True, exist_ok=True)
    put(mask, index_png(label, samples.labels) if label.dtype == np.uint8 else _grey_png(label))


def _grey_png(label: np.ndarray) -> bytes:
    """16 bits, for what a palette cannot count."""
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG")
    return buffer.getvalue()


def _splits(request: Request, samples: Folder) -> dict[str, list[str]]:
    """The source's own lists, or by name."""
    lists = [request.source / f"{split}.txt" for split in SPLITS]
    if request.pairs is None and any(path.exists() for path in lists):
        return {s: Folder(request.source, s, **request.words).ids.tolist() for s in SPLITS}
    if len(samples) < len(SPLITS):
        what = f"{len(samples)} sample cannot be both trained on and scored"
        raise DataError("EMPTY-SPLIT", request.source, what, "add images with their masks")
    return split_by_name(samples.ids.tolist(), samples.val_share)


def _description(samples: Folder) -> bytes:
    """``dataset.yaml``: ``ignore_label`` is written out, so that no 0/255 mask is in doubt."""
    labels = samples.labels
    facts = {
        "classes": list(labels.names),
        "colours": [list(colour) for colour in labels.colours],
        "ignore_label": labels.ignore_label,
    }
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return f"# Written by segkit data prepare folder.\n{text}".encode()


def _check_place(root: Path, work: Path, source: Record) -> None:
    """Refuse a place that holds anything but what an earlier call made of the same."""
    try:
        made = json.loads((root / MANIFEST).read_bytes())["sets"]["folder"]["sources"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        made = None
    if made is None:
        moved = _is_ready(work / "ready.json", source) and not (work / "set").exists()
        empty = not root.exists() or (root.is_dir() and next(root.iterdir(), None) is None)
        if not (empty or moved):
            what = "holds something else already"
            raise DataError("PLACE", root, what, "choose another root=, or empty it")
    elif made != [source]:
        what = "was prepared from other files or with other words"
        raise DataError("PLACE", root, what, "choose another root=, or remove it first")


def _as_typed_here(text: str) -> str:
    """A message of the reader in the words of this command, which has no ``dataset.``."""
    text = text.replace("dataset=folder ", "").replace("dataset.root=", "from=")
    return re.sub(rf"\bdataset\.(?=(?:{'|'.join(KEYS)})\b)", "", text)


# -- the command line ----------------------------------------------------------------------------


def requested(argv: Sequence[str]) -> Request:
    """The words as a request; ``ConfigError`` names the key that is not understood."""
    typed: dict[str, str] = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if key not in KEYS:
            fix = "keys: " + ", ".join(KEYS) + nearest(key, KEYS)
            raise ConfigError("UNKNOWN-KEY", key, "no such key", fix)
        if not equals or not value:
            raise ConfigError("USAGE", key, "needs a value", f"type {key}=VALUE")
        typed[key] = value
    for key, example in (("from", "from=my-photos"), ("root", "root=data/mine")):
        if key not in typed:
            raise ConfigError("MISSING", key, "has no value", f"type {example}")
    if "pairs" in typed and typed.keys() & {"images", "masks"}:
        fix = "the table has the whole paths: leave out images= and masks="
        raise ConfigError("USAGE", "pairs", "does not go together with images=, masks=", fix)
    source = Path(typed["from"]).expanduser()
    pairs = source / typed["pairs"] if "pairs" in typed else None
    words = {k: _value(k, v) for k, v in typed.items() if k not in ("from", "root", "pairs")}
    return Request(source, Path(typed["root"]).expanduser(), pairs, words)


def _value(key: str, text: str) -> Any:
    """The value of a word: a name, a list, a table or a number."""
    if key in ("images", "masks"):
        return text
    if key == "classes":  # names stay text: YAML would make a bool of "no"
        return [name.strip().strip("'\"") for name in text.strip("[]").split(",")]
    if key == "values":
        text = re.sub(r":(?=\S)", ": ", text)  # {0:0,255:1} is what the shell is often given
    try:
        value = strict_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", "") or ""
        if "twice" in problem:
            raise ConfigError("TYPE", key, problem, "each value has one label") from None
        value = None
    kinds: dict[str, Any] = {"values": dict, "ignore_label": int, "val_share": (int, float)}
    if not isinstance(value, kinds.get(key, list)) or isinstance(value, bool):
        examples = {
            "values": "'values={0: 0, 255: 1}'",
            "colours": "'colours=[[0,0,0],[0,128,0]]'",
            "ignore_colour": "'ignore_colour=[255,255,255]'",
        }
        fix = f"type {examples[key]}" if key in examples else "a number"
        raise ConfigError("TYPE", key, f"{text!r} is not understood", fix)
    return value


def told(prepared: Prepared) -> str:
    """What is there, and what to type next."""
    verb = "prepared" if prepared.is_new else "is already prepared"
    lines = [f"folder {verb}: {prepared.folder}"]
    for split, facts in prepared.record["splits"].items():
        pixels = facts.get("pixels", {})
        total = sum(pixels.values())
        shares = (f"{name} {100 * n / total:.1f}%" for name, n in pixels.items() if n)
        lines.append(f"  {split:<6}{facts['samples']:>7} samples: {', '.join(shares)}")
    lines.append(f"next: segkit train dataset=folder dataset.root={prepared.folder}")
    return "\n".join(lines)
