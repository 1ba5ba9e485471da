"""Pictures from files that nobody has checked: PNG and JPEG, 8 bits, within a pixel budget.

One rule for EXIF: the orientation tag is applied to everything that is read, so that an array
always looks as a viewer shows it; sizes are compared after that.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from segkit.data.files import open_file
from segkit.data.png import decode_plain
from segkit.errors import DataError, EnvironmentFault, RefusedError, SegkitError

MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG")

# Bytes 16-24 of a PNG are width and height; byte 24 is the bit depth of one channel.
_PNG_DEPTH = 24
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_TAGS = (b"eXIf", b"iTXt")  # chunks that may hold an orientation
_PNG_TEXT, _EXIF_KEY = (b"tEXt", b"zTXt"), b"exif"  # and the key of those that hold one
_PNG_TAIL = 65536  # bytes searched for the end: some writers append data of their own


@dataclass(frozen=True)
class Decoded:
    """A picture upright and in memory, in Pillow's mode, with the bit depth of the file."""

    image: Image.Image
    format: str
    depth: int


def decode(path: str | Path, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode a whole PNG or JPEG and turn it upright (EXIF).

    Raises ``DataError`` where the file is no such picture or is damaged, ``RefusedError`` where its
    header claims more than ``max_pixels``; that is found before a pixel is decoded.
    """
    with open_file(path) as file, _decoder_faults(path):
        head = file.read(_PNG_DEPTH + 1)
        file.seek(0)
        depth = head[_PNG_DEPTH] if head.startswith(_PNG_SIGNATURE) else 8
        with warnings.catch_warnings():
            # Pillow warns from 89 Mpx on; the budget below answers that, in one line.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
        _check_budget(path, image.size, max_pixels)
        form = str(image.format)
        if form == "PNG":
            _check_png(path, file, getattr(image, "n_frames", 1))
        image.load()  # verify() passes a JPEG cut in half; only decoding finds it
        # Most files carry no tag; exif_transpose would copy them all the same.
        turned = _orientation(image) != 1
        return Decoded(ImageOps.exif_transpose(image) if turned else image, form, depth)


def peek(path: str | Path) -> tuple[str, int]:
    """Pillow's mode, and the EXIF orientation (1..8) by which ``decode`` turns a picture.

    From the header, for files that can be decoded; raises what ``decode`` raises for others.
    """
    with open_file(path) as file, _decoder_faults(path):
        image = Image.open(file, formats=FORMATS)
        # Pillow decodes a whole PNG to see whether a tag comes after the pixels.
        tagged = image.format != "PNG" or _is_tagged(file)
        return image.mode, _orientation(image) if tagged else 1


def size_of(path: str | Path) -> tuple[int, int]:
    """(height, width) of what ``decode`` would give, from the header; raises what ``peek`` does."""
    with open_file(path) as file, _decoder_faults(path):
        image = Image.open(file, formats=FORMATS)
        width, height = image.size
        tagged = image.format != "PNG" or _is_tagged(file)
        return (width, height) if tagged and _orientation(image) > 4 else (height, width)


def _is_tagged(file: BinaryIO) -> bool:
    """Whether a PNG has a chunk that may hold an orientation; goes from head to head of them."""
    place = file.tell()
    file.seek(len(_PNG_SIGNATURE))
    try:
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in _PNG_TAGS or (kind in _PNG_TEXT and _EXIF_KEY in file.read(length)):
                return True
            if kind not in _PNG_TEXT:
                file.seek(length, os.SEEK_CUR)
            file.seek(4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image as RGB, uint8 [H,W,3].

    Grey and palette images become RGB. An alpha channel is dropped where every pixel is opaque and
    refused otherwise; 16-bit and CMYK files are refused: dropping bits or guessing a colour space
    would change pixels without a word. Raises what ``decode`` raises.
    """
    with open_file(path) as file:
        plain = decode_plain(file, max_pixels)
    if plain is None:
        return as_rgb(path, decode(path, max_pixels))
    return plain if plain.ndim == 3 else cv2.cvtColor(plain, cv2.COLOR_GRAY2RGB)


def as_rgb(path: str | Path, decoded: Decoded) -> np.ndarray:
    """``read_image`` of a file that is decoded already."""
    image = decoded.image
    if decoded.depth == 16:
        raise DataError("IMAGE-MODE", path, "16 bits per channel", "save it with 8 bits")
    if image.mode not in {"RGB", "L", "1", "P", "RGBA", "LA", "PA"}:
        raise DataError("IMAGE-MODE", path, f"mode {image.mode}", "RGB or grey, 8 bits")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        image = opaque(path, image)
    return np.asarray(image.convert("RGB"))


def opaque(path: str | Path, image: Image.Image) -> Image.Image:
    """``image`` as RGB without its alpha channel; ``DataError`` where a pixel is not opaque."""
    pixels = np.asarray(image.convert("RGBA"))
    seen_through = np.argwhere(pixels[..., 3] != 255)
    if len(seen_through):
        y, x = seen_through[0]
        what = f"{len(seen_through)} pixels are not opaque, the first at x={x} y={y}"
        raise DataError("ALPHA", path, what, "flatten the alpha channel")
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def check_same_size(
    image_path: str | Path, image: np.ndarray, mask_path: str | Path, mask: np.ndarray
) -> None:
    """``DataError`` with both paths and both sizes unless image and mask cover the same pixels."""
    if image.shape[:2] != mask.shape[:2]:
        (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape[:2]
        what = f"mask of {mask_w}x{mask_h} for the {w}x{h} pixels of {image_path}"
        raise DataError("SIZE-MISMATCH", mask_path, what, "sizes must be equal (EXIF applied)")


def _check_budget(path: str | Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        what = f"{size[0]}x{size[1]} = {size[0] * size[1]} pixels"
        raise RefusedError("PIXELS", path, what, f"at most {max_pixels} (dataset.max_pixels)")


def _check_png(path: str | Path, file: BinaryIO, frames: int) -> None:
    if frames > 1:
        raise DataError("UNREADABLE", path, "an animated PNG", "a picture of one frame")
    # Pillow forgives a file that ends after the last pixel; the cut may have taken its checksum.
    place = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - _PNG_TAIL))
    if _PNG_END not in file.read():
        raise DataError("UNREADABLE", path, "damaged picture (a PNG without its end)")
    file.seek(place)


@contextmanager
def _decoder_faults(path: str | Path) -> Iterator[None]:
    """Whatever a decoder raises on foreign bytes is the file's fault, and is told so."""
    try:
        yield
    except SegkitError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError("PIXELS", path, str(error), "a smaller picture") from None
    except Image.UnidentifiedImageError:
        raise DataError("UNREADABLE", path, "neither PNG nor JPEG") from None
    except MemoryError:
        raise EnvironmentFault("MEMORY", path, "no memory to decode it") from None
    except Exception as error:
        what = f"damaged picture ({error or type(error).__name__})"
        raise DataError("UNREADABLE", path, what, "restore the file") from error
