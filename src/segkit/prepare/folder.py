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
from segkit.data.folder import ALL, Folder
from segkit.data.strict_yaml import strict_yaml
from segkit.data.tree import shown
from segkit.errors import ConfigError, DataError, ExitCode, SegkitError
from segkit.prepare.claim import MANIFEST, Prepared, Record, prepare_once
from segkit.prepare.files import link_or_copy, put, settle
from segkit.prepare.index_png import index_png
from segkit.prepare.lists import SPLITS, check_names, splits_of
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
# A name in quotes or one that begins with none, and the comma after it.
_NAME = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^\s,"'\[\]{}][^,]*?))\s*(?:,|$)""")


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
    root = _place(request)
    work = root.with_name(f".{root.name}.preparing")
    samples = opened(request)
    check_names(samples)
    by_name = request.pairs is not None
    splits = splits_of(samples, request.source, request.words, by_name)
    source = described(request, samples, splits)
    is_whole = _is_made(root, work, source, splits)
    return prepare_once(
        "folder",
        root,
        work,
        lambda: {split: Folder(root, split) for split in SPLITS},
        lambda: [source if is_whole else _build(root, samples, splits, source, work)],
    )


def _place(request: Request) -> Path:
    """Where the set will be, which may be neither here nor among the photos."""
    root, place = request.root, request.root.resolve()
    if Path.cwd().is_relative_to(place):
        what = f"is {'the folder you are in' if place == Path.cwd() else 'above where you are'}"
        raise DataError("PLACE", place, what, "choose another root=, as root=data/mine")
    for key in ("images", "masks") if request.pairs is None else ():
        folder = request.source / request.words.get(key, key)
        if place.is_relative_to(folder.resolve()):
            what = f"lies in {folder}, which is read"
            raise DataError("PLACE", root, what, "choose another root=, as root=data/mine")
    return place if root.name in ("", "..") else root


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
        "in_no_list": len(samples) - sum(map(len, splits.values())),
        "typed": json.loads(json.dumps(request.words, sort_keys=True)),
    }


def _hash(facts: Any) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()


def _build(
    root: Path, samples: Folder, splits: Mapping[str, list[str]], source: Record, work: Path
) -> Record:
    """All in ``work``, then one rename; a call that was stopped on the way is gone on with."""
    fresh, begun, ready = work / "set", work / "begun.json", work / "ready.json"
    if not _is_ready(ready, source):
        if not _is_ready(begun, source):
            ready.unlink(missing_ok=True)  # of another source
            rmtree(fresh, ignore_errors=True)
            put(begun, json.dumps(source).encode())
        each("convert", range(len(samples)), partial(_convert, samples, fresh), "pair")
        for split, names in splits.items():
            put(fresh / f"{split}.txt", "".join(f"{name}\n" for name in names).encode())
        put(fresh / FILE, _description(samples))
        _require_same(fresh, samples.ids.tolist(), splits)
        settle()
        put(ready, json.dumps(source).encode())
    if fresh.is_dir():
        with faults(root, 0):
            fresh.rename(root)
    return source


def _require_same(made: Path, ids: list[str], splits: Mapping[str, list[str]]) -> None:
    """``DataError`` unless what was made reads back as the samples and splits of the source."""
    for split, names in {ALL: ids, **splits}.items():
        found = Folder(made, split).ids.tolist()
        if found != sorted(names):
            other = sorted(set(found) ^ set(names))
            what = f"{split} reads back with other names: {shown(other)}"
            raise DataError("NAMES", made, what, "rename these files")


def _is_ready(ready: Path, source: Record) -> bool:
    """Whether an earlier call has made all of it, of the same source."""
    try:
        return bool(json.loads(ready.read_bytes()) == source)
    except (OSError, ValueError, RecursionError):
        return False


def _convert(samples: Folder, into: Path, index: int) -> None:
    image, drawn, name = samples.image_path(index), samples.mask_path(index), samples.ids[index]
    linked, mask = into / "images" / f"{name}{image.suffix}", into / "masks" / f"{name}.png"
    if _is_since(linked, image) and _is_since(mask, drawn) and _is_whole(mask):
        return  # by a call that was stopped
    _, label = samples.read(index)
    with faults(linked, 0):
        linked.unlink(missing_ok=True)
    link_or_copy(image, linked)
    with faults(mask, 0):
        mask.parent.mkdir(parents=True, exist_ok=True)
    put(mask, index_png(label, samples.labels) if label.dtype == np.uint8 else _grey_png(label))


def _is_since(made: Path, source: Path) -> bool:
    """Whether ``made`` is there and not older than what it is made of."""
    return made.is_file() and made.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _is_whole(mask: Path) -> bool:
    """Whether a PNG has its end: what no ``settle`` followed may lack it after a power cut."""
    return mask.read_bytes().endswith(b"IEND\xaeB`\x82")


def _grey_png(label: np.ndarray) -> bytes:
    """16 bits, for what a palette cannot count."""
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG")
    return buffer.getvalue()


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


def _is_made(root: Path, work: Path, source: Record, splits: Mapping[str, list[str]]) -> bool:
    """Whether an earlier call made all of the same there; any other place must be empty."""
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
        return False
    if made != [source]:
        what = "was prepared from other files or with other words"
        raise DataError("PLACE", root, what, "choose another root=, or remove it first")
    fix = f"remove {root} and type the command again"
    for split, names in splits.items():
        try:
            found = Folder(root, split).ids.tolist()
        except SegkitError as error:
            what = f"{error.what}: the prepared set is damaged"
            raise DataError("DAMAGED", error.where, what, fix) from error
        if found != sorted(names):
            what = "is not the list that was prepared"
            raise DataError("DAMAGED", root / f"{split}.txt", what, fix)
    return True


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
        return _names(text)
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


def _names(text: str) -> list[str]:
    """``[a, "b, c", 'd']``, with its brackets or without."""
    rest, names = text.strip(), []
    if rest.startswith("[") and rest.endswith("]"):
        rest = rest[1:-1]
    while rest:
        found = _NAME.match(rest)
        if found is None:
            fix = "type 'classes=[background,leaf]', a name with a comma as \"leaf, dry\""
            raise ConfigError("TYPE", "classes", f"{rest!r} is not understood", fix)
        names.append(next(name for name in found.groups() if name is not None))
        rest = rest[found.end() :]
    return names


def told(prepared: Prepared) -> str:
    """What is there, and what to type next."""
    verb = "prepared" if prepared.is_new else "is already prepared"
    lines = [f"folder {verb}: {prepared.folder}"]
    for split, facts in prepared.record["splits"].items():
        pixels = facts.get("pixels", {})
        total = sum(pixels.values())
        shares = (f"{name} {100 * n / total:.1f}%" for name, n in pixels.items() if n)
        lines.append(f"  {split:<6}{facts['samples']:>7} samples: {', '.join(shares)}")
    if apart := prepared.record["sources"][0].get("in_no_list"):
        lines.append(f"  {apart} photos are in neither list: neither trained on nor scored")
    lines.append(f"next: segkit train dataset=folder dataset.root={prepared.folder}")
    return "\n".join(lines)
