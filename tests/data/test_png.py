"""The fast way into a PNG: the same pixels as Pillow's, or none."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, jpeg, png, random_rgb, write
from PIL import Image

from segkit.data.images import as_rgb, decode, read_image
from segkit.data.png import decode_plain

RGB = random_rgb(40, 30)
HEAD = struct.pack(">IIBBBBB", 30, 40, 8, 2, 0, 0, 0)
ROWS = b"".join(b"\0" + row.tobytes() for row in RGB)
STREAM = zlib.compress(ROWS)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*extra: bytes, stream: bytes = STREAM, end: bytes = b"") -> bytes:
    parts = (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", HEAD), *extra, chunk(b"IDAT", stream))
    return b"".join(parts) + chunk(b"IEND") + end


def plain(path: Path, max_pixels: int = 10**6) -> np.ndarray | None:
    with path.open("rb") as file:
        return decode_plain(file, max_pixels)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("shape", [(40, 30, 3), (40, 30), (1, 1, 3), (1, 90), (90, 1, 3), (64, 64)])
def test_the_pixels_are_pillows(tmp_path: Path, shape: tuple[int, ...], level: int) -> None:
    """Smooth and rough pictures, for which an encoder takes different filters."""
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    smooth = np.add.accumulate(np.add.accumulate(noise // 64), axis=1).astype(np.uint8)
    for number, pixels in enumerate((noise, smooth, np.zeros_like(noise))):
        path = write(tmp_path / f"{number}.png", png(pixels, compress_level=level))
        assert np.array_equal(plain(path), pixels)
        assert np.array_equal(plain(path), np.asarray(decode(path).image))
        assert np.array_equal(read_image(path), as_rgb(path, decode(path)))
        assert read_image(path).flags.c_contiguous


@pytest.mark.parametrize(
    "extra",
    [
        (b"gAMA", struct.pack(">I", 22000)), (b"sRGB", b"\0"), (b"cHRM", b"\0" * 32),
        (b"sBIT", b"\5\5\5"), (b"pHYs", b"\0" * 9), (b"tEXt", b"who\0me"),
    ],
    ids=lambda extra: extra[0].decode(),
)  # fmt: skip
def test_what_does_not_change_pixels_changes_none(tmp_path: Path, extra: tuple) -> None:
    path = write(tmp_path / "a.png", with_chunks(chunk(*extra)))
    assert np.array_equal(plain(path), RGB)
    assert np.array_equal(as_rgb(path, decode(path)), RGB)


OTHERS = {
    "JPEG": jpeg(RGB),
    "text": b"just text",
    "palette": encoded(Image.fromarray(RGB).quantize(16), "PNG"),
    "alpha": png(np.dstack([RGB, RGB[..., :1]])),
    "1 bit": png(RGB[..., 0] > 127),
    "16 bit": png(RGB[..., 0].astype(np.uint16) * 257),
    "transparent colour": with_chunks(chunk(b"tRNS", b"\0\1\0\1\0\1")),
    "EXIF": with_chunks(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")),
    "unknown chunk": with_chunks(chunk(b"abCd", b"?")),
    "after the end": with_chunks(end=b"appended"),
    "short stream": with_chunks(stream=zlib.compress(ROWS[:500])),
    "half a stream": with_chunks(stream=STREAM[: len(STREAM) // 2]),
    "stream checksum": with_chunks(stream=STREAM[:-4] + b"abcd"),
    "no such filter": with_chunks(stream=zlib.compress(b"\7" + ROWS[1:])),
    "chunk checksum": with_chunks()[:-5] + b"!" + with_chunks()[-4:],
    "no end": with_chunks()[:-12],
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_to_pillow(tmp_path: Path, name: str) -> None:
    assert plain(write(tmp_path / "a.png", OTHERS[name])) is None


def test_the_budget_comes_before_the_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", png(RGB))
    assert plain(path, 1200) is not None
    assert plain(path, 1199) is None


def test_a_flipped_bit_changes_no_pixel_unnoticed(tmp_path: Path) -> None:
    """Only in the second of two checksums of the pixels may one stand."""
    content = with_chunks()
    for place in range(8, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        made = plain(write(tmp_path / "a.png", bytes(damaged)))
        assert made is None or (-16 <= place - len(content) < -12 and np.array_equal(made, RGB))
