"""Row S20: mutated lists, masks, descriptions and manifests end in segkit's own errors alone.

Seconds by default, ten minutes in ``make test-long``. A failure names the target and its seed;
``SEGKIT_MUTATION=masks:123`` makes that one file again.
"""

import itertools
import json
import os
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, jpeg, png, raw_png, write
from PIL import Image
from small_folders import SmallFolder, mask, photo

from segkit.data.description import Description
from segkit.data.folder import Folder
from segkit.data.images import peek, read_image
from segkit.data.labels import VOC
from segkit.data.masks import read_mask
from segkit.data.pairs import Layout, read_list
from segkit.errors import ConfigError, DataError, ExitCode, RefusedError, SegkitError
from segkit.prepare import command
from segkit.prepare.claim import MANIFEST, prepare_once
from segkit.prepare.folder import told
from segkit.prepare.sources import Order

MOST_MIB = 100
MOST_PIXELS = 1_000_000

Target = Callable[[Path], object]

# -- making bad files ------------------------------------------------------------------------------

TOKENS = [
    *(
        b"\x00",
        b"\xff",
        b"\n",
        b"\r\n",
        b"../",
        b"/",
        b"\\",
        b"#",
        b" ",
        b"\xef\xbb\xbf",
        b"\x1b[2J",
    ),
    *(b"a", b"classes", b"colours", b"values", b"ignore_label", b"ignore_colour", b"null", b"-1"),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b":",
        b": ",
        b"- ",
        b"&x ",
        b"*x",
        b"!!python/object:os.system ",
        b"?",
    ),
    *(b"255", b"65536", b"1e999", b".nan", b"9" * 5000, b"[" * 4000, b'{"a":' * 4000, b"'", b'"'),
    *(
        b"\xe2\x80\xa8",
        b"\xed\xa0\x80",
        b"2001-01-01",
        b"<<: ",
        b"=",
        b"~",
        b"IEND",
        b"IHDR",
        b"acTL",
    ),
]


def mutated(seed: bytes, other: bytes, rng: random.Random) -> bytes:
    """``seed`` after a few random changes."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                place = rng.choice((0, at, len(data)))
                data[place:place] = rng.choice(TOKENS)
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 2, 30))
            case 5:
                data[at:] = other[rng.randint(0, len(other)) :]
            case _:
                data[at : at + 4] = rng.randbytes(4)
        del data[2**20 :]
    return bytes(data)


def with_sums(data: bytes) -> bytes:
    """A PNG's chunks with checksums that fit, so that what is in them is looked at."""
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + size]
        out += struct.pack(">I", max(0, len(body) - 4)) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(out)


# -- the readers -----------------------------------------------------------------------------------


def pictures() -> list[bytes]:
    indexed = Image.fromarray(mask()).convert("P")
    return [
        png(mask()),
        encoded(indexed, "PNG", transparency=0),
        png(np.arange(300, dtype=np.uint16).reshape(15, 20)),
        png(photo(1, 9, 11)),
        raw_png([b"\x1b"] * 4, 4, 2, 0),
        encoded(Image.fromarray(photo(2, 8, 8)).convert("RGBA"), "PNG"),
        jpeg(photo(3, 16, 16)),
    ]


def masks() -> tuple[list[bytes], Target]:
    tables = ({}, {"colour_table": {(0, 0, 0): 0}}, {"value_table": {0: 1, 2: 2, 255: 255}})

    def read(path: Path) -> object:
        table = tables[path.stat().st_size % len(tables)]
        return read_mask(path, VOC, **table, max_pixels=MOST_PIXELS)

    return pictures(), read


def images() -> tuple[list[bytes], Target]:
    return pictures(), lambda path: (read_image(path, MOST_PIXELS), peek(path))


def lists() -> tuple[list[bytes], Target]:
    layout = Layout("x", "x", "JPEGImages", "Masks")
    seeds = [b"a\nb\nc/d\n", b"/JPEGImages/a.jpg /Masks/a.png\n", b"\xef\xbb\xbf# list\r\n x \r\n"]
    return seeds, lambda path: read_list(path, layout)


def descriptions() -> tuple[list[bytes], Target]:
    seeds = [
        b"classes: [road, sky, tree]\ncolours: [[0, 0, 0], [1, 2, 3], [4, 5, 6]]\n",
        b"ignore_label: 255\nclasses: [road, sky]\ncolours: [[0, 0, 0], [1, 2, 3]]\n",
        b"classes:\n- a\n- b\nvalues: {0: 0, 255: 1}\nignore_colour: [9, 9, 9]\n",
        b"# c\nclasses: &x [a, b]\nvalues: {0: 0}\n",
    ]

    def read(path: Path) -> object:
        path.replace(path.with_name("dataset.yaml"))
        return Description(path.parent, {})

    return seeds, read


def class_lists() -> tuple[list[bytes], Target]:
    def read(path: Path) -> object:
        path.replace(path.with_name("classes.txt"))
        return Description(path.parent, {})

    return [b"road\nsky\ntree\n", "wätter\r\nb\r\n".encode()], read


def manifests() -> tuple[list[bytes], Target]:
    listed = sha256(b"a\nb\nc\n").hexdigest()
    facts = {"samples": 3, "list_sha256": listed, "pixels": {"a": 1}}
    source = {"name": "set.zip", "kind": "archive", "verified": True, "samples": 3}
    record = {"splits": {"train": facts}, "sources": [source], "versions": {}}
    seeds = [
        json.dumps({"format": 1, "sets": {"folder": record}}, indent=i).encode() for i in (0, 2)
    ]

    def read(path: Path) -> object:
        root = path.parent / "set"
        if not root.exists():
            SmallFolder(root).fill("a b c")
        path.replace(root / MANIFEST)

        def build() -> list[dict[str, object]]:
            raise DataError("BUILT", root, "not what the manifest says")

        splits = {"train": Folder(root, "all")}
        made = prepare_once("folder", root, path.parent / "work", lambda: splits, build)
        return told(made), command.told(made, Order(root))

    return seeds, read


TARGETS = {
    make.__name__: make for make in (masks, images, lists, descriptions, class_lists, manifests)
}


def one(name: str, number: int, place: Path) -> SegkitError | None:
    """Make file ``number`` of a target and read it; what its reader refused it with."""
    seeds, read = TARGETS[name]()
    rng = random.Random(f"{name} {number}")
    content = mutated(rng.choice(seeds), rng.choice(seeds), rng)
    if content.startswith(b"\x89PNG") and rng.random() < 0.6:
        content = with_sums(content)
    path = write(place / "bad", content)
    try:
        read(path)
    except SegkitError as error:
        return error
    return None


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("seconds", [0.6, pytest.param(100, marks=pytest.mark.long)])
def test_row_s20_only_errors_of_the_contract(
    name: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, here = tmp_path / "place", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    target, _, chosen = os.environ.get("SEGKIT_MUTATION", "").partition(":")
    numbers = [int(chosen)] if target == name else itertools.count()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    deadline, refused, done = time.monotonic() + seconds, 0, 0
    for number in numbers:
        if time.monotonic() > deadline and done:
            break
        try:
            error = one(name, number, place)
        except Exception as bug:
            bug.add_note(f"SEGKIT_MUTATION={name}:{number}")
            raise
        done += 1
        refused += error is not None
        if error is not None:
            assert isinstance(error, DataError | RefusedError | ConfigError), (number, error)
            assert error.code in (ExitCode.DATA, ExitCode.REFUSED, ExitCode.USAGE), number
            assert error.line().isprintable(), (number, error)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{name}: {done} files, {refused} refused, {grown:.0f} MiB more")
    assert done
    assert grown < MOST_MIB
    assert not list(here.iterdir()), "a canary: nothing is written where one stands"
    kept = {"bad", "dataset.yaml", "classes.txt", "set", "work.lock"}
    assert {path.name for path in place.iterdir()} <= kept
    assert not (target == name and chosen and not refused)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", "[" * 4000 + "{"),
        ('"sets": {', '"sets": [], "was": {'),
        ('"a": 1', '"a": "1"'),
        ('"splits": {', '"splits": [], "was": {'),
        ('"sources": [', '"sources": ["old", '),
        ('"kind": "archive"', '"kind": 1'),
    ],
    ids=["deep", "no-sets", "words-for-counts", "no-splits", "no-sources", "no-kind"],
)
def test_manifests_that_were_bugs_once(old: str, new: str, tmp_path: Path) -> None:
    (seed, _), read = manifests()
    path = write(tmp_path / "bad", seed.replace(old.encode(), new.encode(), 1))
    with pytest.raises(DataError, match="not what the manifest says"):
        read(path)
    write(tmp_path / "bad", seed)
    assert "already prepared" in str(read(path))
