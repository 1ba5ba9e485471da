"""Label maps as pictures: index PNG, overlay, error map and a captioned panel.

Label maps are integer [H, W]; colours are uint8 [C, 3] or anything NumPy turns into it.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from segkit.errors import one_line
from segkit.whole_files import write_whole

Rgb = NDArray[np.uint8]
Labels = NDArray[np.integer]

# Right is pale and wrong is dark and saturated: told apart by lightness alone, so in any kind of
# colour blindness and in grey print. Vermilion and the rest of the hues: Okabe and Ito (2008).
RIGHT = (222, 230, 237)
WRONG = (213, 94, 0)

# Void is hatched in pictures: no plain colour is free in every data set (CamVid's sky is grey,
# VOC's background black). The index PNG has VOC's own colour for it.
_HATCH = ((250, 250, 250), (140, 140, 140))
VOC_VOID = (224, 224, 192)

_STRIP = 256  # rows that are blended at once
_TILE = 320  # width of a tile that is legible; smaller maps are enlarged by whole factors
_LARGEST = 960
_MARGIN = 12
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (110, 114, 120)


def palette_png(path: Path, labels: Labels, colours: ArrayLike, ignore: int = 255) -> None:
    """Write the label map as a PNG whose values are the labels; a link at ``path`` is replaced.

    Mode P with the classes' colours up to 255 classes, 16-bit grey above (a palette holds 256).
    The file is whole or absent; EnvironmentFault when it cannot be written.
    """
    write_whole(path, encode_labels(labels, colours, ignore))


def encode_labels(labels: Labels, colours: ArrayLike, ignore: int = 255) -> bytes:
    """The bytes of ``palette_png``."""
    table = np.asarray(colours, np.uint8)
    if len(table) > 255:
        return encode_png(Image.fromarray(np.ascontiguousarray(labels, np.uint16)))
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8), "P")
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(table)] = table
    if 0 <= ignore <= 255:
        palette[ignore] = VOC_VOID
    image.putpalette(palette.tobytes())
    return encode_png(image)


def encode_png(image: Image.Image) -> bytes:
    """The picture as PNG bytes, the same for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def colourise(labels: Labels, colours: ArrayLike, ignore: int = 255) -> Rgb:
    """[H, W] labels -> [H, W, 3] colours; ``ignore`` and values without a colour: hatched."""
    table = np.asarray(colours, np.uint8)
    known = (labels != ignore) & (labels >= 0) & (labels < len(table))
    picture = _hatched(*labels.shape)
    picture[known] = table[labels[known]]
    return picture


def overlay(
    rgb: Rgb, labels: Labels, colours: ArrayLike, alpha: float = 0.55, ignore: int = 255
) -> Rgb:
    """The image under its label colours, segments outlined; ignored pixels stay as they are."""
    made = colourise(labels, colours, ignore)
    edges = _edges(labels)
    # In strips: as floats, a picture takes eight times its bytes.
    for top in range(0, len(labels), _STRIP):
        rows = slice(top, top + _STRIP)
        mixed = rgb[rows] * (1 - alpha) + made[rows].astype(np.float32) * alpha
        mixed[edges[rows]] = 0.35 * mixed[edges[rows]] + 0.65 * 255
        void = labels[rows] == ignore
        made[rows] = np.rint(mixed)
        made[rows][void] = rgb[rows][void]
    return made


def error_map(truth: Labels, prediction: Labels, ignore: int = 255) -> Rgb:
    """Pale where the prediction is right, vermilion where wrong, hatched where truth is void."""
    picture = _hatched(*truth.shape)
    picture[(truth == prediction) & (truth != ignore)] = RIGHT
    picture[(truth != prediction) & (truth != ignore)] = WRONG
    return picture


def _hatched(height: int, width: int) -> Rgb:
    stripe = np.add.outer(np.arange(6), np.arange(6)) % 6 < 2
    period = np.array(_HATCH, np.uint8)[stripe.astype(np.intp)]
    return np.tile(period, (-(-height // 6), -(-width // 6), 1))[:height, :width].copy()


def panel(
    truth: Labels,
    prediction: Labels,
    *,
    colours: ArrayLike,
    names: Sequence[str],
    image: Rgb | None = None,
    ignore: int = 255,
    title: str = "",
) -> Image.Image:
    """Image, truth, prediction and error side by side over a legend of the classes that occur.

    Without ``image`` only label colours are shown: for publishing where the photo may not be.
    """
    tiles = [
        ("truth", _label_tile(colourise(truth, colours, ignore))),
        ("prediction", _label_tile(colourise(prediction, colours, ignore))),
        (
            _error_caption(truth, prediction, ignore),
            _label_tile(error_map(truth, prediction, ignore)),
        ),
    ]
    if image is not None:
        tiles.insert(0, ("image", _photo_tile(image)))
    legend = _legend(truth, prediction, np.asarray(colours, np.uint8), names, ignore)
    return _compose(tiles, legend, one_line(title))


def strip(
    rgb: Rgb,
    maps: Mapping[str, Labels],
    *,
    colours: ArrayLike,
    names: Sequence[str],
    title: str = "",
) -> Image.Image:
    """The image and label maps by their captions in a row, over a legend of the classes in them."""
    tiles = [("image", _photo_tile(rgb))]
    tiles += [(caption, _label_tile(colourise(found, colours))) for caption, found in maps.items()]
    legend = _swatches(list(maps.values()), np.asarray(colours, np.uint8), names)
    return _compose(tiles, legend, one_line(title))


def _edges(labels: Labels) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edges[:-1] |= labels[1:] != labels[:-1]
    return edges


def _error_caption(truth: Labels, prediction: Labels, ignore: int) -> str:
    valid = truth != ignore
    if not valid.any():
        return "error (no labelled pixel)"
    return f"error ({100 * float((truth != prediction)[valid].mean()):.1f} % of pixels)"


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """(width, height): whole factors upwards, so that every label pixel stays a square."""
    if max(height, width) > _LARGEST:
        factor = _LARGEST / max(height, width)
        return max(1, round(width * factor)), max(1, round(height * factor))
    factor = max(1, min(-(-_TILE // width), _LARGEST // max(height, width)))
    return width * factor, height * factor


def _label_tile(picture: Rgb) -> Image.Image:
    return Image.fromarray(picture).resize(_tile_size(*picture.shape[:2]), Image.Resampling.NEAREST)


def _photo_tile(picture: Rgb) -> Image.Image:
    return Image.fromarray(picture).resize(_tile_size(*picture.shape[:2]), Image.Resampling.BICUBIC)


Swatch = tuple[tuple[int, int, int] | None, str]  # no colour: hatched


def _legend(
    truth: Labels, prediction: Labels, colours: Rgb, names: Sequence[str], ignore: int
) -> list[Swatch]:
    swatches = _swatches([truth, prediction], colours, names, ignore)
    hatched = bool((truth == ignore).any() or (prediction == ignore).any())
    void: list[Swatch] = [(None, "void")] if hatched else []
    return [*swatches, *void, (RIGHT, "right"), (WRONG, "wrong")]


def _swatches(
    maps: Sequence[Labels], colours: Rgb, names: Sequence[str], ignore: int = -1
) -> list[Swatch]:
    """The classes that occur in ``maps``."""
    present = sorted(set().union(*(np.unique(found).tolist() for found in maps)))
    return [
        (tuple(colours[label].tolist()), one_line(names[label]))
        for label in present
        if label != ignore and 0 <= label < len(colours)
    ]


def _compose(tiles: list[tuple[str, Image.Image]], legend: list[Swatch], title: str) -> Image.Image:
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    width = sum(tile.width for _, tile in tiles) + _MARGIN * (len(tiles) + 1)
    rows = _legend_rows(legend, small, width - 2 * _MARGIN)
    head = 26 if title else 0
    body = _MARGIN + head + 22
    tallest = max(tile.height for _, tile in tiles)
    sheet = Image.new("RGB", (width, body + tallest + _MARGIN + 22 * len(rows) + 4), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN - 2), _fitted(title, font, width - 2 * _MARGIN), _INK, font)
    x = _MARGIN
    for caption, tile in tiles:
        draw.text((x, body - 20), _fitted(caption, small, tile.width), _FAINT, small)
        sheet.paste(tile, (x, body))
        draw.rectangle(
            (x - 1, body - 1, x + tile.width, body + tile.height), outline=(205, 208, 212)
        )
        x += tile.width + _MARGIN
    _draw_legend(sheet, rows, small, body + tallest + _MARGIN)
    return sheet


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _fitted(text: str, font: Font, width: float) -> str:
    """``text``, cut with an ellipsis where it would leave the sheet."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _legend_rows(legend: list[Swatch], font: Font, width: float) -> list[list[Swatch]]:
    rows: list[list[Swatch]] = [[]]
    x = 0.0
    for colour, name in legend:
        name = _fitted(name, font, width - 22)
        step = 20 + font.getlength(name) + 18
        if rows[-1] and x + step - 18 > width:
            rows.append([])
            x = 0.0
        rows[-1].append((colour, name))
        x += step
    return rows


def _draw_legend(sheet: Image.Image, rows: list[list[Swatch]], font: Font, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for row in rows:
        x = float(_MARGIN)
        for colour, name in row:
            box = (round(x), top + 2, round(x) + 13, top + 15)
            if colour is None:
                sheet.paste(Image.fromarray(_hatched(14, 14)), box[:2])
            draw.rectangle(box, fill=colour, outline=(150, 150, 150))
            draw.text((x + 20, top + 1), name, _INK, font)
            x += 20 + font.getlength(name) + 18
        top += 22
