import os
import resource
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pictures import bomb_png, encoded, jpeg, png, random_rgb, raw_png, write
from PIL import Image, ImageOps

from segkit.data.images import check_same_size, decode, peek, read_image
from segkit.errors import DataError, ExitCode, RefusedError

RGB = random_rgb(31, 47)
GREY = RGB[..., 0]


def with_alpha(values: np.ndarray, alpha: int) -> np.ndarray:
    return np.dstack([values, np.full(values.shape[:2], alpha, np.uint8)])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(RGB), RGB),
        (png(GREY), np.dstack([GREY] * 3)),
        (png(GREY > 127), np.dstack([(GREY > 127) * np.uint8(255)] * 3)),
        (png(with_alpha(RGB, 255)), RGB),
    ],
    ids=["RGB", "L", "1", "opaque RGBA"],
)
def test_images_become_rgb(tmp_path: Path, content: bytes, expected: np.ndarray) -> None:
    read = read_image(write(tmp_path / "a.png", content))
    assert read.dtype == np.uint8
    assert np.array_equal(read, expected)


def test_a_palette_image_shows_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    read = read_image(write(tmp_path / "a.png", encoded(image, "PNG")))
    assert np.array_equal(read, np.asarray(image.convert("RGB")))


def test_a_jpeg_reads_as_pillow_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", jpeg(RGB))
    assert np.array_equal(read_image(path), np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    "content",
    [
        png(with_alpha(RGB, 254)),
        png(GREY.astype(np.uint16) * 257),
        raw_png([b"\0\1\2\3\4\5" * 2] * 2, width=2, depth=16, colour_type=2),
        encoded(Image.new("CMYK", (4, 4)), "JPEG"),
        encoded(Image.new("RGB", (4, 4)), "GIF"),
        encoded(Image.new("RGB", (4, 4)), "TIFF"),
        encoded(Image.new("RGB", (4, 4)), "PDF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"",
        b"\xff\xd8",
        b"just text",
        b"<!DOCTYPE html><html><body>404</body></html>",
        encoded(
            Image.new("RGB", (4, 4)),
            "PNG",
            save_all=True,
            append_images=[Image.new("RGB", (4, 4), "red")],
        ),
    ],
    ids=[
        "alpha", "16 bit grey", "16 bit RGB", "CMYK", "GIF", "TIFF", "PDF", "EPS", "empty",
        "two bytes", "text", "HTML", "animated",
    ],
)  # fmt: skip
def test_what_would_lose_information_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "bad.png", content)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in caught.value.line()


@pytest.mark.parametrize("percent", [2, 50, 99])
@pytest.mark.parametrize("encode", [png, jpeg])
def test_truncated_files_are_noticed(tmp_path: Path, encode, percent: int) -> None:
    content = encode(random_rgb(99, 101))
    path = write(tmp_path / "cut.img", content[: len(content) * percent // 100])
    with pytest.raises(DataError, match=r"cut\.img"):
        read_image(path)


@pytest.mark.parametrize("encode", [png, jpeg])
@pytest.mark.parametrize("missing", range(1, 24))
def test_not_even_the_last_byte_may_be_missing(tmp_path: Path, missing: int, encode) -> None:
    path = write(tmp_path / "cut.img", encode(random_rgb(33, 33))[:-missing])
    with pytest.raises(DataError, match=r"cut\.img"):
        read_image(path)


def test_data_after_the_end_of_a_png_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", png(RGB) + b"appended")
    assert np.array_equal(read_image(path), RGB)


def test_a_flipped_bit_never_leaves_the_error_contract(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for content in (png(random_rgb(17, 19)), jpeg(random_rgb(17, 19))):
        for _ in range(150):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), 3):
                damaged[place] ^= 1 << int(rng.integers(8))
            path = write(tmp_path / "flipped", bytes(damaged))
            with suppress(DataError, RefusedError):
                assert read_image(path).dtype == np.uint8


def test_what_is_no_regular_file_is_named_and_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("folder.png", "fifo.png", "dangling.png", "loop.png", "none.png", "nul\0.png"):
        with pytest.raises(DataError):
            read_image(tmp_path / name)


@pytest.mark.parametrize("size", [(9000, 9000), (20000, 20000), (2**31 - 1, 2**31 - 1)])
def test_a_pixel_bomb_is_refused_off_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write(tmp_path / "bomb.png", bomb_png(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedError, match=r"bomb\.png") as caught:
        read_image(path)
    assert caught.value.code == ExitCode.REFUSED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_the_pixel_budget_is_inclusive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", png(RGB))
    assert read_image(path, max_pixels=RGB.shape[0] * RGB.shape[1]).shape == RGB.shape
    with pytest.raises(RefusedError, match=r"dataset\.max_pixels"):
        read_image(path, max_pixels=RGB.shape[0] * RGB.shape[1] - 1)


@pytest.mark.parametrize("encode", [png, jpeg])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_always_applied(tmp_path: Path, orientation: int, encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "turned", encode(RGB, exif=exif))
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert np.array_equal(read_image(path), np.asarray(expected))
    assert read_image(path).shape[:2] == (RGB.shape[:2] if orientation < 5 else (47, 31))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2)])
def test_tiny_images(tmp_path: Path, shape: tuple[int, int]) -> None:
    array = random_rgb(*shape)
    assert np.array_equal(read_image(write(tmp_path / "a.png", png(array))), array)


def test_a_mask_of_another_size_is_named_with_its_image() -> None:
    check_same_size("a.jpg", RGB, "a.png", GREY)
    with pytest.raises(DataError) as caught:
        check_same_size("a.jpg", RGB, "a.png", GREY[:-1])
    for word in ("DATA-SIZE-MISMATCH", "a.jpg", "a.png", "47x30", "47x31"):
        assert word in caught.value.line()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_peek_tells_what_decoding_does(tmp_path: Path, form: str) -> None:
    image = Image.fromarray(random_rgb(4, 6))
    for orientation in range(1, 9):
        tag = Image.Exif()
        tag[0x112] = orientation
        path = write(tmp_path / f"{orientation}", encoded(image, form, exif=tag))
        assert peek(path) == ("RGB", orientation)
        assert decode(path).image.size == ((6, 4) if orientation < 5 else (4, 6))
    path = write(tmp_path / "grey", encoded(image.convert("L"), form))
    assert peek(path) == ("L", 1)


def test_a_peek_does_not_read_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", encoded(Image.fromarray(random_rgb(400, 600)), "PNG"))
    file, read = path.open("rb"), []
    plain = file.read

    class Counting:
        """The file, and what is read of it."""

        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            file.close()

        def read(self, count: int = -1) -> bytes:
            read.append(len(content := plain(count)))
            return content

    monkeypatch.setattr("segkit.data.images.open_file", lambda _path: Counting())
    assert peek(path) == ("RGB", 1)
    assert sum(read) < 10_000 < path.stat().st_size
